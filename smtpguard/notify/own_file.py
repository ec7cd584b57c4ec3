"""A file of the notifying process's own, in SQLite, bounded in size.

One that is damaged is set aside and begun anew; where none can be had, memory has to do. A power cut alone may lose the
last transactions (synchronous = NORMAL).
"""

import contextlib
import sqlite3
from pathlib import Path

MAX_PAGES = 16_384
"""Of 4 kB: 64 MB, unless its owner says otherwise."""
_BUSY_S = 10.0


def open_own_file(path: str, create: str) -> tuple[sqlite3.Connection, str | None]:
    """The connection, for any thread, and why it is not kept as it should be; None if it is.

    Args:
        path: Where it is, or is made.
        create: SQL that makes what is not there.
    """
    try:
        try:
            return _connect(path, create), None
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise
            Path(path).replace(f"{path}.broken")
            for suffix in ("-wal", "-shm"):
                Path(path + suffix).unlink(missing_ok=True)
            trouble = f"{path} was damaged ({error}) and is begun anew: what waited in it is not sent"
            return _connect(path, create), trouble
    except (sqlite3.Error, OSError) as error:
        trouble = f"{path} can't be used ({error}): what waits is lost with this process"
        return _connect(":memory:", create), trouble


def _connect(path: str, create: str) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=_BUSY_S, check_same_thread=False)
    try:
        if path != ":memory:":
            Path(path).chmod(0o600)
        for pragma in ("temp_store = MEMORY", "locking_mode = EXCLUSIVE", "journal_mode = WAL", "synchronous = NORMAL"):
            connection.execute(f"PRAGMA {pragma}")
        connection.execute(f"PRAGMA max_page_count = {MAX_PAGES}")
        _check(connection)
        connection.executescript(create)
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            connection.close()
        raise
    return connection


def _check(connection: sqlite3.Connection) -> None:
    (answer,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if answer != "ok":
        raise sqlite3.DatabaseError(str(answer))
