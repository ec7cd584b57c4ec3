"""One guard per network namespace and nft table: two would undo each other's blocks.

A record lock (fcntl(2), F_SETLK) on a file below /run that only root can reach. Not flock(2), which forked helpers
would go on holding after the daemon is dead, and not an abstract socket, whose name any tenant could take first. The
kernel drops the lock with the process, SIGKILL included. The file is 0600, or a tenant could open it and wait with a
read lock of their own for the guard to die: no guard would start again. One that an older version left open to others
is replaced if whoever holds it is not root.

Who is a guard says so: its pid stands in the file. Whoever else holds the lock does so for a while only, a command that
works without a guard or one that clears away dead ones' files, and is waited for.
"""

import contextlib
import errno
import fcntl
import logging
import os
import re
import stat
import struct
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from smtpguard.errors import BusyError, ConfigError
from smtpguard.safe_files import make_directory
from smtpguard.settings import Settings
from smtpguard.text import to_bytes

log = logging.getLogger(__name__)

DIRECTORY = "/run/smtpguard"
"""The same for every configuration, or a second one with other paths would not see the first."""
_PLAIN = re.compile(r"[A-Za-z0-9_]{1,64}")
_NAME = re.compile(r"lock-[0-9]{1,20}-[A-Za-z0-9_]{1,170}")
_MAX_SWEPT = 1000
_HERE: set[str] = set()
"""What this process holds: it would get these again, and lose them by closing the file."""
_TRIES, _PAUSE_S = 1000, 0.01
"""How often a lock is tried for that no guard holds: a look has it for microseconds, `unblock` for some seconds."""
_HELD = frozenset({errno.EACCES, errno.EAGAIN})
_MODE = 0o600
_UNSEEN = 0
"""The pid of a holder in another pid namespace."""
_FLOCK = "hhqqi4x"
"""struct flock of 64-bit Linux, fcntl(2): type, whence, start, length, pid."""


def lock_path(table: str, directory: str = DIRECTORY) -> str:
    """The lock's file for a table in the network namespace of this process."""
    namespace = Path("/proc/self/ns/net").stat().st_ino
    name = table if _PLAIN.fullmatch(table) else f"x{to_bytes(table).hex()[:160]}"
    return f"{directory}/lock-{namespace}-{name}"


def read_holder(table: str, directory: str = DIRECTORY) -> int | None:
    """The pid of the guard that runs for a table here; None if none does.

    Not for the guard itself: a process that closes a file loses its record locks on it.
    """
    try:
        fd = os.open(lock_path(table, directory), os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        guard = _read_pid(fd)
        return guard if _find_lock(fd) in (guard, _UNSEEN) else None
    finally:
        os.close(fd)


class InstanceLock:
    """Held from `__enter__` to `__exit__`, or to the end of the process.

    Args:
        settings: Its table is what is locked.
        directory: Where lock files are.
        is_guard: Whether it is a guard's; else a command's, for as long as none may start.

    Raises:
        BusyError: Another guard holds it; names its pid.
        ConfigError: The file can't be made.
    """

    def __init__(self, settings: Settings, *, directory: str = DIRECTORY, is_guard: bool = True) -> None:
        self._table = settings.nft_table
        self._directory = directory
        self._is_guard = is_guard
        self._fd: int | None = None
        self._path = ""

    def __enter__(self) -> Self:
        self._path = lock_path(self._table, self._directory)
        while self._fd is None:
            make_directory(self._directory, 0o755, error=ConfigError)
            fd = self._open()
            if fd is None:
                continue
            try:
                self._lock(fd)
            except BaseException:
                os.close(fd)
                raise
            # The file may have been removed, by its last holder or by us: then nobody else would meet our lock.
            if _is_at(fd, self._path):
                self._fd = fd
            else:
                os.close(fd)
        os.ftruncate(self._fd, 0)
        if self._is_guard:
            os.pwrite(self._fd, b"%d\n" % os.getpid(), 0)
        _HERE.add(self._path)
        self._sweep()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        Path(self._path).unlink(missing_ok=True)  # while it is still held
        _HERE.discard(self._path)
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)
        with contextlib.suppress(OSError):
            Path(self._directory).rmdir()  # only if nothing else is in it

    def _open(self) -> int | None:
        try:
            return os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, _MODE)
        except FileNotFoundError:
            return None  # another guard just removed the directory that it had made
        except OSError as failure:
            raise ConfigError(
                f"the lock can't be made: {failure.strerror}", where=self._path, fix="make it writable for root"
            ) from failure

    def _lock(self, fd: int) -> None:
        """Take the lock; where somebody who is no guard holds it, remove the file instead."""
        if stat.S_IMODE(os.fstat(fd).st_mode) != _MODE:
            os.fchmod(fd, _MODE)
        for _ in range(_TRIES):
            refused = _try_lock(fd)
            if refused is None:
                return
            if refused.errno not in _HELD:
                raise ConfigError(f"the lock can't be taken: {refused.strerror}", where=self._path) from refused
            pid = _find_holder(fd)
            if pid is not None and _read_owner(pid) not in (0, os.geteuid(), None):
                log.warning("%s was held by pid %d, which is not root's: removed, to be made anew", self._path, pid)
                Path(self._path).unlink(missing_ok=True)
                return
            if pid is not None and pid == _read_pid(fd):
                break
            time.sleep(_PAUSE_S)
        raise self._busy(pid, _read_pid(fd)) from refused

    def _busy(self, pid: int | None, guard: int | None) -> BusyError:
        """Whose lock it is.

        Args:
            pid: Its holder's; None if it can't be seen from here.
            guard: The one that stands in the file; None without one.
        """
        table = f"table {self._table} in this network namespace"
        if pid is not None and pid != guard:
            what = f"pid {pid} has the lock of {table}"
            return BusyError(what, where=self._path, fix="an `unblock` or a `replay --learn`? Then wait for its end")
        who = f"another smtpguard (pid {guard})" if guard else "another smtpguard"
        return BusyError(f"{who} guards {table}", where=self._path, fix="stop it, or give this one another nft.table")

    def _sweep(self) -> None:
        """Remove the files of guards that were killed: of namespaces that are gone nobody else would."""
        with contextlib.suppress(OSError):
            for path in sorted(Path(self._directory).glob("lock-*"))[:_MAX_SWEPT]:
                if _NAME.fullmatch(path.name) and str(path) not in _HERE:
                    _remove_dead(path)


def _remove_dead(path: Path) -> None:
    """Remove a lock that nobody holds, while we hold it: whoever opens it meanwhile finds that it is gone."""
    if not stat.S_ISREG(path.lstat().st_mode):
        return
    fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if _try_lock(fd) is None and _is_at(fd, str(path)):
            path.unlink()
    finally:
        os.close(fd)


def _try_lock(fd: int) -> OSError | None:
    """Take the lock; why not, if not."""
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as failure:
        return failure
    return None


def _find_holder(fd: int) -> int | None:
    """Whose lock is in the way, read locks included; None if it is gone, or in another pid namespace."""
    pid = _find_lock(fd)
    return pid if pid is not None and pid > 0 else None


def _find_lock(fd: int) -> int | None:
    """As _find_holder; _UNSEEN for one in another pid namespace. Takes nothing: who asks is in nobody's way."""
    asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    kind, _, _, _, pid = struct.unpack(_FLOCK, fcntl.fcntl(fd, fcntl.F_GETLK, asked))
    return int(pid) if kind != fcntl.F_UNLCK else None


def _read_owner(pid: int) -> int | None:
    """The uid of a process; None if it is gone."""
    try:
        return Path(f"/proc/{pid}").stat().st_uid
    except OSError:
        return None


def _read_pid(fd: int) -> int | None:
    text = os.pread(fd, 32, 0).strip()
    return int(text) if text.isdigit() else None


def _is_at(fd: int, path: str) -> bool:
    try:
        about = os.lstat(path)
    except OSError:
        return False
    return os.path.samestat(about, os.fstat(fd))
