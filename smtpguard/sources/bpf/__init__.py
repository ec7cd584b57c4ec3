"""The `bpf` source: a program on cgroup/connect4 and connect6 that sees every connect() and can refuse it.

`connect.bpf.c` is the program, `connect.bpf.o` its committed object; `libbpf.py` binds the library, `program.py` owns a
loaded and attached object, `source.py` is the Source. Its refusals are written by `smtpguard.actions.bpf_deny`.
"""
