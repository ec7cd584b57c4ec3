"""Capabilities of processes and threads: read by name, and given up for good.

capabilities(7), capset(2), prctl(2) by ctypes: the standard library has none of them. Names are those of
linux/capability.h without CAP_.
"""

import ctypes
import errno
import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from smtpguard.errors import PrivilegeError

NAMES = (
    "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
    "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
    "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
    "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP",
    "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF",
    "CHECKPOINT_RESTORE",
)  # fmt: skip
"""By number."""

_VERSION_3 = 0x20080522  # _LINUX_CAPABILITY_VERSION_3
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_LAST = Path("/proc/sys/kernel/cap_last_cap")

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldCapabilities:
    """Capabilities of a process, by name; numbers that have none yet are left out.

    Attributes:
        effective: What it may do now.
        permitted: What it may take up.
        inheritable: What it may hand on.
        bounding: What it and its children may ever get.
        ambient: What its children have without asking.
        no_new_privileges: Whether no program that it starts can have more than it has.
    """

    effective: frozenset[str]
    permitted: frozenset[str]
    inheritable: frozenset[str]
    bounding: frozenset[str]
    ambient: frozenset[str]
    no_new_privileges: bool


def is_known(name: str) -> bool:
    """Whether this kernel has the capability (BPF and PERFMON: Linux 5.8)."""
    return NAMES.index(name) <= int(_LAST.read_text("ascii"))


def read_held(pid: int | None = None) -> HeldCapabilities:
    """What a process has.

    Args:
        pid: Which; None for the calling thread.

    Raises:
        PrivilegeError: There is no such process.
    """
    path = Path("/proc/thread-self/status" if pid is None else f"/proc/{pid}/status")
    try:
        lines = path.read_bytes().splitlines()
    except OSError as failure:
        raise PrivilegeError(f"can't be read: {failure.strerror}", where=str(path)) from failure
    fields = dict(line.split(b":", 1) for line in lines if b":" in line)

    def names(key: bytes) -> frozenset[str]:
        mask = int(fields[key], 16)
        return frozenset(name for number, name in enumerate(NAMES) if mask >> number & 1)

    return HeldCapabilities(
        effective=names(b"CapEff"),
        permitted=names(b"CapPrm"),
        inheritable=names(b"CapInh"),
        bounding=names(b"CapBnd"),
        ambient=names(b"CapAmb"),
        no_new_privileges=int(fields[b"NoNewPrivs"]) == 1,
    )


def apply_capabilities(keep: Collection[str], *, no_new_privileges: bool = True) -> frozenset[str]:
    """Give up all capabilities but these, in this thread and all that it starts from here on; there is no way back.

    Args:
        keep: Names; those that the thread does not have are not gained.
        no_new_privileges: Setuid, setgid and file capabilities of programs it starts count no more.

    Returns:
        What it has now.

    Raises:
        PrivilegeError: The kernel refused.
    """
    held = read_held()
    kept = frozenset(keep) & held.permitted
    if "SETPCAP" in held.effective:
        for number in range(int(_LAST.read_text("ascii")) + 1):
            if number >= len(NAMES) or NAMES[number] not in kept:
                _prctl(_PR_CAPBSET_DROP, number)
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    write_capabilities(kept)
    if no_new_privileges:
        _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    return kept


def write_capabilities(names: Collection[str]) -> None:
    """Set effective and permitted, where there may be no /proc to look first.

    Args:
        names: Only what is permitted already.

    Raises:
        PrivilegeError: The kernel refused.
    """
    mask = sum(1 << NAMES.index(name) for name in names)
    low, high = mask & 0xFFFFFFFF, mask >> 32
    header = (ctypes.c_uint32 * 2)(_VERSION_3, 0)
    data = (ctypes.c_uint32 * 6)(low, low, 0, high, high, 0)  # effective, permitted, inheritable; low words first
    if _libc.capset(header, data) != 0:
        raise _refused("capset")


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, ctypes.c_ulong(value), *(ctypes.c_ulong(0),) * 3) != 0:
        raise _refused(f"prctl {option}")


def _refused(call: str) -> PrivilegeError:
    code = ctypes.get_errno()
    return PrivilegeError(f"{call}: {errno.errorcode.get(code, code)}: {os.strerror(code)}")
