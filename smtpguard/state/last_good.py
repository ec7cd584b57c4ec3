"""The last good configuration, as the state keeps it: read before there is a daemon; believed only if root wrote it.

It is the text of the file, checked anew by whoever reads it: what was good for an older version may be wrong today.
"""

import json
import os
import sqlite3
import stat
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from smtpguard import __version__
from smtpguard.errors import StateError
from smtpguard.safe_files import check_directory
from smtpguard.settings import Settings
from smtpguard.state.rows import FactRow

FACT = "configuration"
MAX_BYTES = 2_000_000
"""Longest that is read back: a file has 256 kB at most, and JSON writes a character in six bytes at worst."""
_BUSY_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptConfiguration:
    """A configuration that was in force.

    Attributes:
        text: The whole file; None where there was none and the shipped defaults held.
        path: Its name; None likewise.
        version: The smtpguard that took it.
        wall_ns: When it was put in force.
    """

    text: str | None
    path: str | None
    version: str
    wall_ns: int

    def is_like(self, other: "KeptConfiguration | None") -> bool:
        """Whether it is the same configuration, whenever it was put in force."""
        return other is not None and (self.text, self.path, self.version) == (other.text, other.path, other.version)


class FactKeeper(Protocol):
    """Keeps a fact over a restart."""

    def put(self, row: FactRow) -> None:
        """Remember it."""
        ...


class LastGood:
    """Has the state keep what is put in force.

    Args:
        facts: What an earlier run has kept.
        keeper: Where it is kept.
    """

    def __init__(self, facts: Mapping[str, str], keeper: FactKeeper) -> None:
        self._kept = parse_kept(facts.get(FACT, ""))
        self._keeper = keeper

    def keep(self, settings: Settings, wall_ns: int) -> None:
        """Remember a configuration that is in force, as its file has it."""
        kept = KeptConfiguration(text=settings.text, path=settings.path, version=__version__, wall_ns=wall_ns)
        if not kept.is_like(self._kept):
            self._kept = kept
            self._keeper.put(FactRow(name=FACT, value=render_kept(kept)))


def render_kept(kept: KeptConfiguration) -> str:
    """As the state keeps it."""
    return json.dumps({"text": kept.text, "path": kept.path, "version": kept.version, "wall_ns": kept.wall_ns})


def parse_kept(text: str) -> KeptConfiguration | None:
    """What the state kept; None if it is no such thing."""
    try:
        found = json.loads(text)
        kept = KeptConfiguration(
            text=found["text"], path=found["path"], version=found["version"], wall_ns=found["wall_ns"]
        )
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    if not all(isinstance(value, str | None) for value in (kept.text, kept.path)):
        return None
    return kept if isinstance(kept.version, str) and type(kept.wall_ns) is int else None


def read_kept(path: str) -> KeptConfiguration:
    """The last good configuration of a state file; nothing is changed.

    Args:
        path: The state file.

    Raises:
        StateError: There is none, or it can't be read, or somebody else could have written it.
    """
    check_directory(str(Path(path).parent), error=StateError)
    try:
        about = os.lstat(path)
    except OSError as failure:
        raise StateError(f"can't be read: {failure.strerror}", where=path) from failure
    if not stat.S_ISREG(about.st_mode) or about.st_uid not in (0, os.geteuid()) or about.st_mode & 0o022:
        raise StateError("others could have written it", where=path)
    query = f"SELECT value FROM facts WHERE name = ? AND length(value) <= {MAX_BYTES}"  # noqa: S608 - a constant
    try:
        with closing(sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None)) as connection:
            connection.execute("PRAGMA query_only = ON")
            connection.execute("PRAGMA trusted_schema = OFF")
            row = connection.execute(query, (FACT,)).fetchone()
    except sqlite3.Error as failure:
        raise StateError(f"can't be read: {failure}", where=path) from failure
    value = row[0] if row is not None else b""
    kept = parse_kept(value.decode("utf-8", "replace")) if isinstance(value, bytes) else None
    if kept is None:
        raise StateError("keeps no configuration that was in force", where=path)
    return kept
