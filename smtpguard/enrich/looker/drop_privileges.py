"""Fewest rights for a process that looks at others: two capabilities, no user's uid, nothing to write to.

capabilities(7), prctl(2), capset(2) by ctypes: the standard library has none of them.

Uid 65535 is no account anywhere (the 16-bit "no uid"), so that no file is the worker's own and no other process may
signal it. Uid 0 would not do: without a single capability it still owns /etc/shadow. So the daemon wants CAP_SETUID
and CAP_SETGID until the looker has started.
"""

import ctypes
import os
import resource
import signal
from pathlib import Path

CAP_DAC_READ_SEARCH = 2
CAP_SYS_PTRACE = 19
_FOR_UID = (6, 7)  # CAP_SETGID, CAP_SETUID
KEPT = (CAP_DAC_READ_SEARCH, CAP_SYS_PTRACE)
NO_UID = 65535
"""Uid and gid of a worker."""

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_KEEPCAPS = 8
_PR_SET_NAME = 15
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_CAPABILITY_VERSION_3 = 0x20080522
_MAX_FILES = 64
_MAX_DATA = 256 << 20

_libc = ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, value: int | bytes = 0) -> None:
    argument = value if isinstance(value, bytes) else ctypes.c_ulong(value)
    zero = ctypes.c_ulong(0)
    if _libc.prctl(option, argument, zero, zero, zero) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"prctl {option}: {os.strerror(code)}")


def _read_permitted() -> int:
    for line in Path("/proc/thread-self/status").read_bytes().splitlines():
        if line.startswith(b"CapPrm:"):
            return int(line.split()[1], 16)
    return 0


def _apply_capabilities(mask: int) -> None:
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    low, high = mask & 0xFFFFFFFF, mask >> 32
    # effective, permitted, inheritable; the low words first
    data = (ctypes.c_uint32 * 6)(low, low, 0, high, high, 0)
    if _libc.capset(header, data) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"capset: {os.strerror(code)}")


def apply_name(name: bytes) -> None:
    """The name that ps shows, at most 15 bytes."""
    _prctl(_PR_SET_NAME, name)


def apply_parent_death(parent: int) -> None:
    """Die with the thread that forked us; at once if it is gone already.

    Args:
        parent: Pid of the process that forked us. A change of uid clears the wish, so this comes after it.
    """
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


def apply_least() -> frozenset[int]:
    """Give up everything but the two capabilities, as far as the process has them; inherited by its children.

    Returns:
        The capabilities it keeps.
    """
    permitted = _read_permitted()
    kept = [capability for capability in KEPT if permitted >> capability & 1]
    mask = sum(1 << capability for capability in kept)
    if all(permitted >> capability & 1 for capability in _FOR_UID):  # else the uid stays, without capabilities
        _prctl(_PR_SET_KEEPCAPS, 1)
        os.setgroups([])
        os.setresgid(NO_UID, NO_UID, NO_UID)
        os.setresuid(NO_UID, NO_UID, NO_UID)
    _apply_capabilities(mask)
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _prctl(_PR_SET_DUMPABLE, 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (_MAX_FILES, _MAX_FILES))
    resource.setrlimit(resource.RLIMIT_DATA, (_MAX_DATA, _MAX_DATA))
    return frozenset(kept)
