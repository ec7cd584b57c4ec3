"""One process, read from /proc (proc_pid_stat(5), proc_pid_status(5)). Only workers call this.

A process is held by a descriptor of its directory: when it ends, reads fail with ESRCH, and a pid that is used again
is never mistaken for it. Methods say whether a hostile process can make them hang: what the kernel answers from its
own memory is safe; cmdline, environ, maps and mem wait for the process's pages, and its file systems may answer never.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from smtpguard.errors import DecodeError
from smtpguard.model import NS

TICK_NS = NS // os.sysconf("SC_CLK_TCK")
"""Start times are told in this unit (10 ms), rounded down."""
MAX_CMDLINE = 4096
MAX_ENVIRON = 65_536
MAX_MAPS = 1 << 20
_MAX_STATUS = 16_384
_NSPID = re.compile(rb"^NSpid:[\t0-9]*\t(\d+)$", re.MULTILINE)
_CGROUP = re.compile(rb"^(?:0:|\d+:name=systemd):(/.*)$", re.MULTILINE)
_UID = re.compile(rb"^Uid:\t(\d+)\t(\d+)\t(\d+)\t(\d+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stat:
    """What /proc/PID/stat tells.

    Attributes:
        comm: Name, untrusted: any bytes, also `)`.
        state: One letter; Z for a zombie.
        ppid: Parent; 0 for none in our pid namespace.
        session: Session id.
        tty: Device number of the controlling terminal; 0 for none.
        start_ns: Start, CLOCK_BOOTTIME, rounded down to TICK_NS.
    """

    comm: bytes
    state: str
    ppid: int
    session: int
    tty: int
    start_ns: int


def parse_stat(raw: bytes) -> Stat:
    """/proc/PID/stat; raises DecodeError if it is none."""
    first, last = raw.find(b"("), raw.rfind(b")")
    fields = raw[last + 1 :].split()
    try:
        return Stat(
            comm=raw[first + 1 : last],
            state=fields[0].decode("ascii"),
            ppid=int(fields[1]),
            session=int(fields[3]),
            tty=int(fields[4]),
            start_ns=int(fields[19]) * TICK_NS,
        )
    except (IndexError, ValueError) as error:
        raise DecodeError("not a /proc/PID/stat") from error


def parse_uids(raw: bytes) -> tuple[int, int, int, int]:
    r"""Real, effective, saved and file system uid from /proc/PID/status; raises DecodeError if they are not there.

    The Name line before them can't forge one: the kernel writes a newline in a name as `\n`.
    """
    found = _UID.search(raw)
    if found is None:
        raise DecodeError("no Uid line")
    real, effective, saved, fs = map(int, found.groups())
    return real, effective, saved, fs


def _login_number(raw: bytes) -> int | None:
    return int(raw) if raw.isdigit() and int(raw) < 0xFFFFFFFF else None


class Process:
    """A process by a descriptor of its directory in /proc.

    Args:
        pid: In the initial pid namespace.
        proc: Where /proc is.

    Raises:
        OSError: There is no such process.
    """

    def __init__(self, pid: int, *, proc: Path = Path("/proc")) -> None:
        self.pid = pid
        self._fd = os.open(proc / str(pid), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def open(self, name: bytes, flags: int = os.O_RDONLY) -> int:
        """A descriptor of one of its files."""
        return os.open(name, flags | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY, dir_fd=self._fd)

    def read(self, name: bytes, max_bytes: int) -> bytes:
        """The beginning of one of its files; empty if it can't be read."""
        try:
            fd = self.open(name)
        except OSError:
            return b""
        parts: list[bytes] = []
        try:
            while max_bytes > 0 and (part := os.read(fd, max_bytes)):
                parts.append(part)
                max_bytes -= len(part)
        except OSError:
            pass
        finally:
            os.close(fd)
        return b"".join(parts)

    def _read_once(self, name: bytes) -> bytes:
        """A file that the kernel hands over in one piece; empty if it can't be read."""
        try:
            fd = self.open(name)
        except OSError:
            return b""
        try:
            return os.read(fd, _MAX_STATUS)
        except OSError:
            return b""
        finally:
            os.close(fd)

    def link(self, name: bytes) -> bytes | None:
        """Where one of its links points, as the kernel renders it; asks no file system, so it can't hang."""
        try:
            return os.readlink(name, dir_fd=self._fd)
        except OSError:
            return None

    def file(self, name: bytes) -> os.stat_result | None:
        """The file behind one of its links. Asks its file system: can hang for ever."""
        try:
            return os.stat(name, dir_fd=self._fd)
        except OSError:
            return None

    def stat(self) -> Stat | None:
        """Its stat; None if it is gone. Can't hang."""
        try:
            return parse_stat(self._read_once(b"stat"))
        except DecodeError:
            return None

    def uids(self) -> tuple[int, int, int, int] | None:
        """Its uids; None if it is gone. Can't hang."""
        try:
            return parse_uids(self._read_once(b"status"))
        except DecodeError:
            return None

    def inner_pid(self) -> int | None:
        """Its pid as it knows it itself, in its own pid namespace; None if it is gone. Can't hang."""
        found = _NSPID.search(self._read_once(b"status"))
        return int(found[1]) if found is not None else None

    def login(self) -> tuple[int | None, int | None]:
        """Who logged in (auid) and in which session of audit's, inherited since then; None if nobody. Can't hang."""
        uid, session = (self._read_once(name).strip() for name in (b"loginuid", b"sessionid"))
        return _login_number(uid), _login_number(session)

    def cgroup(self) -> bytes | None:
        """Its cgroup: of the v2 hierarchy, else systemd's own; None if it is gone. Can't hang."""
        found = _CGROUP.search(self._read_once(b"cgroup"))
        return found[1] if found is not None else None

    def cmdline(self) -> bytes:
        """Its arguments, NUL-terminated, cut. Reads its memory: can hang for ever."""
        return self.read(b"cmdline", MAX_CMDLINE)

    def environ(self) -> bytes:
        """Its environment as exec left it. Reads its memory: can hang for ever."""
        return self.read(b"environ", MAX_ENVIRON)
