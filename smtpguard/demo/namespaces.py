"""Enter namespaces, a cgroup and another user, by the system calls themselves (setns(2), unshare(2), mount(2)).

Used by the laboratory only. Python gained os.setns in 3.12; 3.11 needs ctypes. It imports little: see enter.py.
"""

import ctypes
import os

CLONE_NEWNS = 0x00020000
CLONE_NEWNET = 0x40000000
_MS_BIND = 0x1000
_MS_REC = 0x4000
_MS_PRIVATE = 0x40000
_PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def unshare(flags: int) -> None:
    """Leave the namespaces that the flags name."""
    _check(_libc.unshare(flags), "unshare")


def enter_net(path: str) -> None:
    """Join the network namespace behind a path such as /proc/PID/ns/net: setns(2)."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(_libc.setns(descriptor, CLONE_NEWNET), f"setns {path}")
    finally:
        os.close(descriptor)


def enter_cgroup(path: str) -> None:
    """Move this process into a cgroup v2 directory."""
    descriptor = os.open(f"{path}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, b"0")
    finally:
        os.close(descriptor)


def bind_files(files: dict[str, str]) -> None:
    """In a new private mount namespace, lay files over others: target path to source path."""
    unshare(CLONE_NEWNS)
    _check(_libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None), "mount --make-rprivate /")
    for target, source in files.items():
        _check(_libc.mount(source.encode(), target.encode(), None, _MS_BIND, None), f"mount --bind {source} {target}")


def become(uid: int) -> None:
    """Give up root for good: no groups, gid and uid the same number."""
    os.setgroups([])
    os.setgid(uid)
    os.setuid(uid)


def die_with_parent(signal_number: int) -> None:
    """Ask for a signal when the parent ends: prctl(2) PR_SET_PDEATHSIG."""
    _check(_libc.prctl(_PR_SET_PDEATHSIG, signal_number, 0, 0, 0), "prctl")
