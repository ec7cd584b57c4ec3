"""A process that starts the laboratory's programs: forked ready to run, instead of executed from nothing.

A test starts Python some ten times, and each start reads the same modules again for 20 to 150 ms. The starter has read
them once. What it forks is a child of the test's own process (CLONE_PARENT, clone(2)) and enters the laboratory by the
code of `smtpguard.demo.enter`. Then it executes its program; or, where that is a tenant's client or a command that
gives an order, runs it as it is. The daemon is not among them: `run` executes it, and it begins from nothing. Commands
that ask are executed: a test that asks at once what became of connections leaves the guard as little time as people do.
"""

import ctypes
import gc
import importlib
import os
import pickle
import platform
import random
import runpy
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

from smtpguard.demo import enter
from smtpguard.interpreter import module_argv, module_environment

_CLONE = {"x86_64": 56, "aarch64": 220}.get(platform.machine())
_CLONE_PARENT = 0x8000
_PR_SET_MM, _PR_SET_MM_MAP = 35, 14
_BOUNDS = {
    "start_code": 26,
    "end_code": 27,
    "start_data": 45,
    "end_data": 46,
    "start_brk": 47,
    "brk": 0,
    "start_stack": 28,
    "arg_start": 48,
    "arg_end": 49,
    "env_start": 50,
    "env_end": 51,
}
"""Fields of struct prctl_mm_map, and where /proc/PID/stat has them (proc(5))."""
_MAX_REQUEST = 1 << 17
_ORDERS = ("run", "block", "unblock", "allow", "off", "on", "reload")
_INHERITED = (
    b"Umask",
    b"Uid",
    b"Gid",
    b"Groups",
    b"SigBlk",
    b"SigIgn",
    b"Cap",
    b"NoNewPrivs",
    b"Seccomp:",
    b"Cpus_allowed:",
)
"""Lines of /proc/PID/status that a child has from its parent; network namespace and folder are said with each start."""
_SHAPING = ("PYTHON", "LC_", "LANG")
"""Variables that an interpreter reads when it begins."""
_libc = ctypes.PyDLL(None, use_errno=True)
"""It keeps the interpreter's lock during a call, so that a fork has it."""
_libc.sbrk.restype = ctypes.c_uint64
_kept: list[object] = []


class _Ready(BaseException):
    """Ends the starter's loop in the child, so that the program runs at the interpreter's top."""


class Child(subprocess.Popen[str]):
    """A program of the laboratory; its arguments are those of `smtpguard.demo.enter`."""

    def _execute_child(self, args: Sequence[str], *rest: Any) -> None:  # noqa: ANN401 - subprocess's own
        env, pipes = rest[5], rest[9:15]
        # From stdin only the child's end is had, and it writes into the others.
        streams = [pipes[number] if pipes[number] != -1 else own for own, number in enumerate((0, 3, 5))]
        self.pid = find_starter().start(args, env, streams)
        self._child_created = True
        self._close_pipe_fds(*pipes)  # type: ignore[attr-defined]


def start(argv: Sequence[str], env: Mapping[str, str], **streams: Any) -> subprocess.Popen[str]:  # noqa: ANN401 - as Popen has them
    """Start a program in the laboratory.

    Args:
        argv: What `Lab.argv` gives.
        env: The program's environment.
        streams: stdin, stdout and stderr, as subprocess has them.
    """
    begins_anew = _CLONE is None or any(name.startswith("COVERAGE_PROCESS") for name in env)
    make = subprocess.Popen[str] if begins_anew else Child
    return make(argv, text=True, cwd="/", env=env, **streams)


class Starter:
    """The process, as tests see it; it ends with them."""

    def __init__(self) -> None:
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._one_question = threading.Lock()
        with theirs:
            self._process = subprocess.Popen(
                module_argv(__name__, str(theirs.fileno())),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                cwd="/",
                env=module_environment(),
                pass_fds=[theirs.fileno()],
            )

    def start(self, argv: Sequence[str], env: Mapping[str, str], streams: Sequence[int]) -> int:
        """Start a program; its pid."""
        with self._one_question:
            socket.send_fds(self._channel, [pickle.dumps((list(argv), dict(env)))], streams)
            answer = self._channel.recv(16)
        assert answer, "the starter has ended"
        return int(answer)


def find_starter() -> Starter:
    """The one whose children inherit what ours would: a new one where a test has forked, mounted or limited."""
    return _make_starter(os.getpid(), *_list_inherited())


@cache
def _make_starter(*_inherited: object) -> Starter:
    return Starter()


def _list_inherited() -> Iterator[object]:
    for name in ("mnt", "user", "pid_for_children", "ipc", "uts", "cgroup"):
        yield os.stat(f"/proc/self/ns/{name}").st_ino  # noqa: PTH116 - pathlib is slower
    for name in ("cgroup", "limits"):
        yield Path("/proc/self", name).read_bytes()
    status = Path("/proc/self/status").read_bytes().splitlines()
    yield tuple(line for line in status if line.startswith(_INHERITED))
    yield os.getpriority(os.PRIO_PROCESS, 0)


def serve(channel: socket.socket) -> None:
    """Fork a child for each request, until nobody asks any more; ends by _Ready in a child."""
    own = _list_shaping(os.environ)
    while True:
        request, streams, _, _ = socket.recv_fds(channel, _MAX_REQUEST, 3)
        if not request:
            return
        pid = _libc.syscall(_CLONE, _CLONE_PARENT | signal.SIGCHLD, 0, 0, 0, 0)
        if pid == 0:
            channel.close()
            argv, env = pickle.loads(request)  # noqa: S301 - from the test
            _begin(argv, env, streams, own)
        for descriptor in streams:
            os.close(descriptor)
        if pid < 0:
            raise OSError(ctypes.get_errno(), "clone")
        channel.send(str(pid).encode())


def _begin(argv: list[str], env: dict[str, str], streams: Sequence[int], own: dict[str, str]) -> NoReturn:
    """In the child: become what was asked for."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
    os.closerange(3, 64)
    os.environ.clear()
    os.environ.update(env)
    program = enter.enter(argv[argv.index("--net") :])
    is_module = program[:2] == [sys.executable, "-m"] and len(program) > 3 and own == _list_shaping(env)
    module = program[2] if is_module else ""
    is_warm = module == "smtpguard.demo.client" or (module == "smtpguard" and program[3] in _ORDERS)
    if not is_warm or not _name(program):
        os.execvp(program[0], program)  # noqa: S606 - what it is for
    random.seed()
    sys.argv[:] = ["-m", *program[3:]]
    raise _Ready(module)


def _list_shaping(env: Mapping[str, str]) -> dict[str, str]:
    return {name: text for name, text in env.items() if name.startswith(_SHAPING)}


class _MemoryMap(ctypes.Structure):
    """struct prctl_mm_map of <linux/prctl.h>: where a process's parts are."""

    _fields_ = (
        *((name, ctypes.c_uint64) for name in _BOUNDS),
        ("auxv", ctypes.c_void_p),
        ("auxv_size", ctypes.c_uint32),
        ("exe_fd", ctypes.c_uint32),
    )


def _name(program: Sequence[str]) -> bool:
    """Let /proc/PID/cmdline say what it would if the program were executed; whether it does."""
    text = b"".join(os.fsencode(word) + b"\0" for word in program)
    words = ctypes.create_string_buffer(text, len(text))
    _kept.append(words)
    with open("/proc/self/stat", "rb") as file:  # noqa: PTH123 - no need for pathlib
        stat = [b"", b"", *file.read().rpartition(b")")[2].split()]
    places = {name: int(stat[number - 1]) for name, number in _BOUNDS.items() if number}
    at = ctypes.addressof(words)
    places |= {"brk": _libc.sbrk(0), "arg_start": at, "arg_end": at + len(text)}
    parts = _MemoryMap(**places, exe_fd=0xFFFFFFFF)
    refused: int = _libc.prctl(_PR_SET_MM, _PR_SET_MM_MAP, ctypes.byref(parts), ctypes.sizeof(parts), 0)
    return not refused


def main() -> None:
    """Read what programs will need, then serve; in a child, run its program."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's ^C is for the tests
    import smtpguard.daemon.startup.handoff
    import smtpguard.demo.client
    import smtpguard.settings.checks
    import smtpguard.settings.load
    import smtpguard.standalone.unblock  # noqa: F401

    for name in _ORDERS:
        importlib.import_module(f"smtpguard.cli.{name}")

    del sys.modules["smtpguard.demo.client"]  # what it imports is kept, and it is run as it is
    gc.collect()
    gc.freeze()
    module = ""
    try:
        with socket.socket(fileno=int(sys.argv[1])) as channel:
            serve(channel)
    except _Ready as ready:
        (module,) = ready.args
    if module:
        runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
