"""Opening the state file, whatever became of it: a guard always starts, and nothing is destroyed.

A file that is corrupt, or no database at all, is renamed to NAME.corrupt-TIME and a new one is begun. One that a newer
smtpguard wrote stays as it is, and this one keeps its state beside it, in NAME.vN. Both are said. Only root (or we)
may reach the directory, because SQLite follows links (sqlite.org/c3ref/open.html).
"""

import os
import sqlite3
import stat
import time
from dataclasses import dataclass
from pathlib import Path

from smtpguard.errors import StateError
from smtpguard.model import NS
from smtpguard.safe_files import make_directory
from smtpguard.state.migrations import VERSION, NewerVersionError, check_version, migrate

MAX_SET_ASIDE = 5
"""So many set aside files are kept; of a disk that corrupts all day the newest tell enough."""
CACHE_KB = 256
"""Pages of the file that the daemon keeps; 2 MB is SQLite's own choice, and the system keeps them all besides."""
_SUFFIXES = ("", "-wal", "-shm", "-journal")
_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """An open state file.

    Attributes:
        connection: In autocommit mode, write-ahead logging.
        path: The file in use; not the configured one if that is newer than this program.
        identity: Device and inode, to notice that the file was deleted or replaced.
        notes: What a person must know, one sentence each.
    """

    connection: sqlite3.Connection
    path: str
    identity: tuple[int, int]
    notes: tuple[str, ...] = ()


def open_state(path: str, *, wall_ns: int, max_bytes: int, busy_s: float = 1.0) -> Opened:
    """Open or create the state file, mode 0600 in a directory of 0700.

    Args:
        path: Absolute path.
        wall_ns: Now, for the names of files that are set aside.
        max_bytes: Hard bound of the file's size, in bytes.
        busy_s: How long to wait for another process's lock.

    Raises:
        StateError: The path is not safe, or the file is locked, or the disk refuses.
    """
    make_directory(str(Path(path).parent), 0o700, error=StateError)
    notes: list[str] = []
    try:
        return _open(path, max_bytes, busy_s, notes)
    except NewerVersionError as newer:
        beside = f"{path}.v{VERSION}"
        notes.append(f"{path} was written by a newer smtpguard ({newer.what}): left alone, state is kept in {beside}")
        path = beside
    except sqlite3.DatabaseError as failure:
        if not is_damage(failure):
            raise _refused(path, failure) from failure
        notes.append(set_aside(path, wall_ns=wall_ns, why=str(failure)))
    try:
        return _open(path, max_bytes, busy_s, notes)
    except sqlite3.DatabaseError as failure:
        if not is_damage(failure):
            raise _refused(path, failure) from failure
        notes.append(set_aside(path, wall_ns=wall_ns, why=str(failure)))
    try:
        return _open(path, max_bytes, busy_s, notes)
    except sqlite3.Error as failure:
        raise _refused(path, failure) from failure


def primary_code(failure: sqlite3.Error) -> int:
    """SQLite's primary result code (sqlite.org/rescode.html); 0 where the error has none."""
    return int(getattr(failure, "sqlite_errorcode", 0)) & 0xFF


def is_damage(failure: sqlite3.Error) -> bool:
    """Whether the file's content is at fault."""
    return primary_code(failure) in _DAMAGED


def set_aside(path: str, *, wall_ns: int, why: str) -> str:
    """Rename a damaged file, and what belongs to it, to NAME.corrupt-TIME.

    Args:
        path: The file; nobody here has it open any more.
        wall_ns: Now.
        why: What is wrong with it.

    Returns:
        What was done, for people.
    """
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(wall_ns // NS))
    aside = f"{path}.corrupt-{stamp}"
    count = 1
    while os.path.lexists(aside):
        count += 1
        aside = f"{path}.corrupt-{stamp}.{count}"
    try:
        for suffix in _SUFFIXES:
            if os.path.lexists(path + suffix):
                Path(path + suffix).rename(aside + suffix)
        _forget_oldest(path)
    except OSError as failure:
        raise StateError(f"is damaged ({why}) and can't be set aside: {failure.strerror}", where=path) from failure
    return f"{path} was damaged ({why}): set aside as {aside}, a new one was begun"


def read_identity(path: str) -> tuple[int, int] | None:
    """Device and inode of what the path leads to; None if there is nothing."""
    try:
        about = os.lstat(path)
    except OSError:
        return None
    return about.st_dev, about.st_ino


def _open(path: str, max_bytes: int, busy_s: float, notes: list[str]) -> Opened:
    _create(path)
    connection = sqlite3.connect(path, timeout=busy_s, isolation_level=None, check_same_thread=False)
    try:
        # First of all, as all else may write.
        if check_version(connection) == 0:
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # only a new file takes it
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute(f"PRAGMA cache_size = -{CACHE_KB}")
        connection.execute(f"PRAGMA journal_size_limit = {8 * 1024 * 1024}")
        page_bytes = connection.execute("PRAGMA page_size").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {max(256, max_bytes // page_bytes)}")
        migrate(connection)
    except BaseException:
        connection.close()
        raise
    # If it vanished meanwhile, the writer notices: nothing has this identity.
    return Opened(connection=connection, path=path, identity=read_identity(path) or (0, 0), notes=tuple(notes))


def _create(path: str) -> None:
    """Make sure of a plain file of ours, mode 0600; SQLite gives its journal files the same mode."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        fd = os.open(path, flags, 0o600)
    except OSError as failure:
        raise StateError(f"can't be opened: {failure.strerror}", where=path) from failure
    try:
        about = os.fstat(fd)
        if not stat.S_ISREG(about.st_mode) or about.st_uid not in (0, os.geteuid()):
            raise StateError("not a plain file of ours", where=path, fix="move it away")
        os.fchmod(fd, 0o600)
    finally:
        os.close(fd)


def _forget_oldest(path: str) -> None:
    prefix = Path(path).name + ".corrupt-"
    aside = (p for p in Path(path).parent.iterdir() if p.name.startswith(prefix))
    kept = [p for p in aside if not p.name.endswith(_SUFFIXES[1:])]
    for old in sorted(kept, key=lambda p: p.stat().st_mtime_ns)[:-MAX_SET_ASIDE]:
        for suffix in _SUFFIXES:
            Path(str(old) + suffix).unlink(missing_ok=True)


def _refused(path: str, failure: sqlite3.Error) -> StateError:
    locked = primary_code(failure) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
    return StateError(
        f"can't be used: {failure}", where=path, fix="end the process that locks it (fuser)" if locked else None
    )
