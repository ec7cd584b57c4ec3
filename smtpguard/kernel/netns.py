"""Network namespaces of other processes: finds them, enters them with one thread. Looks at nothing else of a process.

Opening /proc/PID/ns/net needs CAP_SYS_PTRACE, entering CAP_SYS_ADMIN (setns(2)); neither can be made to hang by the
process. Namespaces are told apart by inode, and by the cookie that BPF reports (SO_NETNS_COOKIE, Linux 5.14).
"""

import ctypes
import os
import re
import socket
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from smtpguard.errors import EnforceError, PrivilegeError

_CLONE_NEWNET = 0x4000_0000
_SO_NETNS_COOKIE = 71
_UIDS = re.compile(rb"^Uid:\t(\d+)\t(\d+)\t(\d+)\t(\d+)$", re.MULTILINE)
_MAX_STATUS_BYTES = 16_384
MAX_NAMESPACES = 256
"""Most namespaces opened at once."""


def enter_namespace(fd: int) -> None:
    """Take this thread, and no other, into a network namespace for good.

    Raises:
        PrivilegeError: CAP_SYS_ADMIN is lacking.
        EnforceError: It is no network namespace.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(fd, _CLONE_NEWNET) == 0:
        return
    code = ctypes.get_errno()
    if code == 1:  # EPERM
        raise PrivilegeError("a container's network can't be entered", fix="run as root, or with CAP_SYS_ADMIN")
    raise EnforceError(f"a container's network can't be entered: {os.strerror(code)}", where="setns")


def read_cookie() -> int | None:
    """The cookie of this thread's network namespace; None where the kernel tells none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            return int(struct.unpack("=Q", sock.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8))[0])
        except OSError:
            return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Namespaces:
    """What a search has found.

    Attributes:
        fds: Descriptors, one a namespace; whoever asked closes them.
        missed: Processes whose namespace could not be opened, for want of a capability or of room.
    """

    fds: tuple[int, ...]
    missed: int


class IsUid(Protocol):
    """A question about uids."""

    def __call__(self, uid: int, /) -> bool:
        """The answer for one."""
        ...


def open_namespaces(is_wanted: IsUid, *, proc: Path = Path("/proc")) -> Namespaces:
    """The network namespaces, but this thread's own, in which processes of certain uids are.

    Args:
        is_wanted: Whether a uid (as seen here) is one of them.
        proc: Where /proc is.
    """
    own = (proc / "thread-self" / "ns" / "net").stat()
    found = {(own.st_dev, own.st_ino): -1}
    missed = 0
    for process in proc.iterdir():
        if not process.name.isdigit():
            continue
        try:
            if not any(map(is_wanted, _read_uids(process / "status"))):
                continue
            fd = os.open(process / "ns" / "net", os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended
        except OSError:
            missed += 1
            continue
        status = os.fstat(fd)
        if (status.st_dev, status.st_ino) in found:
            os.close(fd)
        elif len(found) > MAX_NAMESPACES:
            os.close(fd)
            missed += 1
        else:
            found[status.st_dev, status.st_ino] = fd
    return Namespaces(fds=tuple(fd for fd in found.values() if fd >= 0), missed=missed)


def _read_uids(path: Path) -> tuple[int, ...]:
    with path.open("rb", buffering=0) as file:
        match = _UIDS.search(file.read(_MAX_STATUS_BYTES) or b"")
    return tuple(map(int, match.groups())) if match else ()
