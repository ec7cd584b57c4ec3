"""The state file as one thread uses it: change it, load it at start, keep it small.

SQLite in WAL mode. Ordinary commits survive the process's death; durable ones (blocks, allowances, switches) are
synced and survive a power failure too (sqlite.org/pragma.html#pragma_synchronous). Errors of SQLite pass through to
the writer, which knows what to do about each.
"""

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import groupby
from operator import attrgetter
from typing import TypeVar

from smtpguard.model import NS, Block
from smtpguard.state import retention, statements
from smtpguard.state.columns import Key, Statement
from smtpguard.state.incident_row import IncidentRow
from smtpguard.state.open_file import Opened, is_damage, open_state, read_identity
from smtpguard.state.plausible import ParseRow, keep_plausible
from smtpguard.state.row_parsers import (
    Row,
    parse_allowance,
    parse_block,
    parse_escalation,
    parse_fact,
    parse_incident,
    parse_seen,
    parse_switch,
    parse_window,
)
from smtpguard.state.rows import AllowanceRow, BlockRow, EscalationRow, FactRow, SwitchRow, WindowRow

OPEN_INCIDENT_NS = 15 * 60 * NS
"""Incidents whose last verdict is younger are loaded: they may go on."""
_CAN_CHECK_ONE_TABLE = sqlite3.sqlite_version_info >= (3, 33)
T = TypeVar("T")
FULL_SHARE = 0.9
"""Pruning by size begins at this share of the bound, and ends below it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What was in the file at start. Wall times; what has ended is left out.

    Attributes:
        blocks, allowances, switches, escalation, windows, incidents: See rows.py.
        seen: (uid, port) to the wall time of the last connection.
        facts: What is remembered of this host, by name.
        now_ns: Wall time at which it was read.
        damage: What could not be read; None if all could. What is here is sound all the same.
        notes: What a person must know about the file.
    """

    blocks: tuple[BlockRow, ...] = ()
    allowances: tuple[AllowanceRow, ...] = ()
    switches: tuple[SwitchRow, ...] = ()
    escalation: tuple[EscalationRow, ...] = ()
    windows: tuple[WindowRow, ...] = ()
    incidents: tuple[IncidentRow, ...] = ()
    seen: dict[tuple[int, int], int] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)
    now_ns: int
    damage: str | None = None
    notes: tuple[str, ...] = ()

    def kept(self, boot_id: str) -> Iterator[tuple[Key, Statement]]:
        """What must not be lost, with the statements that would put it there again."""
        facts = (FactRow(name=name, value=value) for name, value in self.facts.items())
        kept: tuple[statements.KeptRow, ...] = (
            *self.blocks,
            *self.allowances,
            *self.switches,
            *self.escalation,
            *facts,
        )
        for row in kept:
            yield statements.key_of(row), statements.put(row, boot_id)

    def live_blocks(self, offset_ns: int) -> list[Block]:
        """The blocks in event time.

        Args:
            offset_ns: Wall time minus event time.
        """
        return [row.to_block(offset_ns, self.now_ns) for row in self.blocks]


class Store:
    """An open state file. For one thread at a time.

    Args:
        opened: From `open_state`.
        boot_id: This boot (/proc/sys/kernel/random/boot_id).
        max_bytes: Bound of the file's size.
        is_beside: The file stands beside that of a newer version, and may be of a time long ago: what it says of the
            host (facts) is not believed.
    """

    __slots__ = ("_connection", "_identity", "boot_id", "is_beside", "max_bytes", "notes", "path")

    def __init__(self, opened: Opened, *, boot_id: str, max_bytes: int, is_beside: bool = False) -> None:
        self._connection = opened.connection
        self._identity = opened.identity
        self.path = opened.path
        self.notes = opened.notes
        self.boot_id = boot_id
        self.max_bytes = max_bytes
        self.is_beside = is_beside

    @classmethod
    def open(cls, path: str, *, boot_id: str, wall_ns: int, max_bytes: int, busy_s: float = 1.0) -> "Store":
        """Open the file; see `open_state` for arguments and errors."""
        opened = open_state(path, wall_ns=wall_ns, max_bytes=max_bytes, busy_s=busy_s)
        return cls(opened, boot_id=boot_id, max_bytes=max_bytes, is_beside=opened.path != path)

    def is_in_place(self) -> bool:
        """Whether the path still leads to the open file."""
        return read_identity(self.path) == self._identity

    def run(self, changes: Iterable[Statement], *, durable: bool) -> None:
        """Make all changes in one transaction, or none of them.

        Args:
            changes: In their order.
            durable: Sync the file before returning.
        """
        connection = self._connection
        connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
        with self._transaction():
            for sql, statements_of_it in groupby(changes, key=attrgetter("sql")):
                connection.executemany(sql, map(attrgetter("parameters"), statements_of_it))

    def load(self, now_ns: int) -> Loaded:
        """Read what a start needs, table by table, so that damage to one costs no other.

        Args:
            now_ns: Wall time; what ended before it is left out.
        """
        damage: list[str] = []
        here = "(netns = 0 OR boot = ?)"

        def read(table: str, where: str = "1", *parameters: int | str) -> list[Row]:
            try:
                if (
                    _CAN_CHECK_ONE_TABLE and table in statements.KEPT
                ):  # small; the big ones show their damage when they are read
                    found = self._connection.execute(f"PRAGMA quick_check('{table}')").fetchone()[0]
                    if found != "ok":
                        damage.append(found)
                        return []
                sql = f"SELECT * FROM {table} WHERE {where}"  # noqa: S608 - both are constants of this method
                return self._connection.execute(sql, parameters).fetchall()
            except sqlite3.DatabaseError as failure:
                if not is_damage(failure):
                    raise
                damage.append(f"{table}: {failure}")
                return []

        dropped: dict[str, int] = {}

        def rows(table: str, parse: ParseRow[T], where: str = "1", *parameters: int | str) -> tuple[T, ...]:
            kept, dropped[table] = keep_plausible(read(table, where, *parameters), parse)
            return kept

        loaded = Loaded(
            blocks=rows("blocks", parse_block, f"until_ns > ? AND {here}", now_ns, self.boot_id),
            allowances=rows("allowances", parse_allowance, "until_ns > ?", now_ns),
            switches=rows("switches", parse_switch, "until_ns IS NULL OR until_ns > ?", now_ns),
            escalation=rows("escalation", parse_escalation),
            windows=rows("windows", parse_window, here, self.boot_id),
            incidents=rows("incidents", parse_incident, "last_ns > ?", now_ns - OPEN_INCIDENT_NS),
            seen=dict(rows("seen", parse_seen)),
            facts={} if self.is_beside else dict(rows("facts", parse_fact)),
            now_ns=now_ns,
            notes=self.notes,
        )
        told = ", ".join(f"{count} of {table}" for table, count in dropped.items() if count)
        if told:
            loaded = replace(loaded, notes=(*loaded.notes, f"rows that can't be true were left out: {told}"))
        return replace(loaded, damage="; ".join(damage)) if damage else loaded

    def size_bytes(self) -> int:
        """What the file holds, without pages that are free."""
        pages, free, page_bytes = (
            self._connection.execute(f"PRAGMA {what}").fetchone()[0]
            for what in ("page_count", "freelist_count", "page_size")
        )
        return int((pages - free) * page_bytes)

    def prune(self, now_ns: int, keep_ns: int) -> int:
        """One small step of keeping the file within `keep` and `max_mb`; see `retention`.

        Args:
            now_ns: Wall time.
            keep_ns: How long history is kept.

        Returns:
            How many rows were deleted; 0 when there is nothing to do.
        """
        connection = self._connection
        connection.execute("PRAGMA synchronous = NORMAL")
        with self._transaction():
            deleted = retention.delete_old(connection, now_ns=now_ns, keep_ns=keep_ns)
            if not deleted and self.size_bytes() > self.max_bytes * FULL_SHARE:
                deleted = retention.delete_for_room(connection, now_ns=now_ns)
        if deleted:
            connection.execute(f"PRAGMA incremental_vacuum({retention.STEP_ROWS})").fetchall()
        return deleted

    def close(self) -> None:
        """Close; the write-ahead log is folded into the file where the disk lets us."""
        with contextlib.suppress(sqlite3.Error):
            self._connection.close()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            connection.execute("COMMIT")
        except BaseException:
            # SQLite rolls back by itself on some errors (full disk), and then has no transaction to end.
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
