"""What happened, read back: for `events`, `report`, `why` and `tune`. Never writes, and every answer is bounded.

A connection of its own beside the writer's (WAL lets both go on), so that a long look never holds up the daemon. All
values are parameters of the SQL; what comes back is as untrusted as it went in.
"""

import contextlib
import heapq
import sqlite3
import stat
import time
from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Self
from urllib.parse import quote

from smtpguard.errors import StateError
from smtpguard.settings import HOUR_NS, MINUTE_NS
from smtpguard.state.columns import MARK
from smtpguard.state.event_query import EventQuery
from smtpguard.state.incident_row import IncidentRow
from smtpguard.state.migrations import VERSION, NewerVersionError, check_version
from smtpguard.state.minute_windows import sum_windows
from smtpguard.state.open_file import primary_code
from smtpguard.state.row_parsers import Row, parse_block, parse_change, parse_incident, parse_losses, parse_verdict
from smtpguard.state.rows import BlockRow, ChangeRow, VerdictRow
from smtpguard.state.span import MAX_ROWS, By, Span, Total
from smtpguard.text import to_bytes

_BUSY_S = 2.0
_STEPS = 10_000  # of SQLite's machine between two looks at the clock: some 0.1 ms


class LateError(StateError):
    """A look took longer than it may."""


class History:
    """The state file, for reading.

    Args:
        path: Absolute path of the state file, as configured.
        timeout_s: Longest time for one look; None for any.

    Raises:
        StateError: It is not there, or can't be read.
    """

    def __init__(self, path: str, *, timeout_s: float | None = None) -> None:
        try:
            self._connection = _open(path)
        except NewerVersionError:
            self._connection = _open(f"{path}.v{VERSION}")
        self._path = path
        self._timeout_s = timeout_s
        self._deadline: float | None = None
        if timeout_s is not None:
            self._connection.set_progress_handler(self._is_late, _STEPS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close."""
        self._connection.close()

    def find_events(self, query: EventQuery) -> tuple[list[VerdictRow | ChangeRow], bool]:
        """What is asked for, the newest first, and whether there is more of it."""
        kinds, limit = query.kinds, query.span.rows
        of_verdicts, parameters = query.where("verdicts")
        of_changes, _ = query.where("changes")
        found: list[VerdictRow | ChangeRow] = []
        with self._look():
            verdicts: Iterator[VerdictRow | ChangeRow] = iter(())
            changes: Iterator[VerdictRow | ChangeRow] = iter(())
            order = "ORDER BY time_ns DESC, id DESC"
            if not kinds or "exceeded" in kinds:
                rule, rules = ("", []) if query.rule is None else (" AND rule = ?", [to_bytes(query.rule)])
                sql = f"SELECT * FROM verdicts WHERE {of_verdicts}{rule} {order}"  # noqa: S608 - constants
                found_verdicts = map(parse_verdict, self._connection.execute(sql, [*parameters, *rules]))
                verdicts = (row for row in found_verdicts if query.matches_verdict(row))
            if not query.is_about_attempts and kinds != {"exceeded"}:
                events = sorted(kinds - {"exceeded"})
                among = f" AND event IN ({', '.join('?' * len(events))})" if events else ""
                sql = f"SELECT * FROM changes WHERE {of_changes}{among} {order}"  # noqa: S608 - constants
                found_changes = map(parse_change, self._connection.execute(sql, [*parameters, *events]))
                changes = (row for row in found_changes if query.matches_change(row))
            losses = self._losses(query) if query.may_be_lost else iter(())
            for row in heapq.merge(changes, losses, verdicts, key=lambda row: -row.time_ns):
                if len(found) == limit:
                    return found, True
                found.append(row)
        return found, False

    def _losses(self, query: EventQuery) -> Iterator[ChangeRow]:
        """What was lost in each minute, as something that happened at its last loss."""
        span = query.span
        where, parameters = span.where("minute", unit_ns=MINUTE_NS)
        sql = f"SELECT * FROM losses WHERE {where} AND kind <> ? ORDER BY minute DESC, kind"  # noqa: S608 - constants
        for row in parse_losses(self._connection.execute(sql, [*parameters, MARK])):
            if span.since_ns <= row.time_ns < span.until_ns and query.matches_change(row):
                yield row

    def find_incidents(
        self, query: EventQuery, *, is_open: bool
    ) -> tuple[list[tuple[IncidentRow, ChangeRow | None]], bool]:
        """Incidents by their last verdict, the newest first, with who closed them; and whether there are more.

        Args:
            query: When, whose, which rule and mode.
            is_open: Only those that nobody has closed.
        """
        limit = query.span.rows
        where, parameters = query.where("incidents")
        closes = self._read("SELECT * FROM changes WHERE event = 'close' ORDER BY time_ns DESC LIMIT ?", MAX_ROWS)
        closed = {str(row.details.get("incident")): row for row in reversed([parse_change(row) for row in closes])}
        found: list[tuple[IncidentRow, ChangeRow | None]] = []
        with self._look():
            sql = f"SELECT * FROM incidents WHERE {where} ORDER BY last_ns DESC"  # noqa: S608 - constants
            for row in map(parse_incident, self._connection.execute(sql, parameters)):
                by = closed.get(row.id)
                is_meant = query.mode in (None, row.mode) and (query.rule is None or query.rule in row.rules)
                if not is_meant or (is_open and by is not None):
                    continue
                if len(found) == limit:
                    return found, True
                found.append((row, by))
        return found, False

    def top_users(self, span: Span) -> list[Total]:
        """Who connected most."""
        where, parameters = span.where("minute", has_name=False, unit_ns=MINUTE_NS)
        rows = self._read(
            "SELECT uid, sum(connects), sum(refused), sum(messages), sum(recipients) FROM minutes"  # noqa: S608
            f" WHERE {where} GROUP BY uid ORDER BY sum(connects) + sum(recipients) DESC, uid LIMIT ?",
            *parameters,
            span.rows,
        )
        return [
            Total(key=uid, connects=connects, refused=refused, messages=messages, recipients=recipients)
            for uid, connects, refused, messages, recipients in rows
        ]

    def top_places(self, span: Span, by: By) -> list[Total]:
        """Where connections went, or which scripts made them, by whole hours; the busiest first.

        Args:
            span: Which part; hours that it touches count whole.
            by: What is summed up.
        """
        column = {"address": "address", "port": "port", "script": "script"}[by]
        where, parameters = span.where("hour", has_name=False, unit_ns=HOUR_NS)
        rows = self._read(
            f"SELECT {column}, sum(connects), sum(refused), count(DISTINCT uid) FROM destinations"  # noqa: S608
            f" WHERE {where} GROUP BY {column} ORDER BY sum(connects) DESC, {column} LIMIT ?",
            *parameters,
            span.rows,
        )
        return [
            Total(key=key, connects=connects, refused=refused, users=users) for key, connects, refused, users in rows
        ]

    def by_minute(self, span: Span) -> list[Total]:
        """Figures of each minute in which there were any, the newest first."""
        where, parameters = span.where("minute", has_name=False, unit_ns=MINUTE_NS)
        rows = self._read(
            "SELECT minute, sum(connects), sum(refused), sum(messages), sum(recipients), count(*)"  # noqa: S608
            f" FROM minutes WHERE {where} GROUP BY minute ORDER BY minute DESC LIMIT ?",
            *parameters,
            span.rows,
        )
        return [
            Total(key=key, connects=connects, refused=refused, messages=messages, recipients=recipients, users=users)
            for key, connects, refused, messages, recipients, users in rows
        ]

    def peaks(self, span: Span, window_minutes: int) -> dict[int, int]:
        """The most connections that each user made within any window of whole minutes (`tune`).

        Args:
            span: Which part; its limit does not apply, the answer has one number a user.
            window_minutes: Length of the window.
        """
        where, parameters = span.where("minute", has_name=False, unit_ns=MINUTE_NS)
        sql = f"SELECT uid, minute, connects - refused FROM minutes WHERE {where} ORDER BY uid, minute"  # noqa: S608
        with self._look():
            return dict(_find_peaks(self._connection.execute(sql, parameters), window_minutes))

    def minutes_of(self, uid: int, since_ns: int, until_ns: int) -> list[tuple[int, int, int]]:
        """Attempts and refused ones of a user in each minute in which there were any, the oldest first."""
        sql = "SELECT minute, connects, refused FROM minutes WHERE uid = ? AND minute BETWEEN ? AND ? ORDER BY minute"
        return self._read(sql, uid, since_ns // MINUTE_NS, until_ns // MINUTE_NS)

    def places_of(self, span: Span) -> list[Row]:
        """Address, port, attempts and refused ones by where a user went, by whole hours; the most refused first."""
        where, parameters = span.where("hour", has_name=False, unit_ns=HOUR_NS)
        sql = (
            "SELECT address, port, sum(connects), sum(refused) FROM destinations"  # noqa: S608 - constants
            f" WHERE {where} GROUP BY address, port ORDER BY sum(refused) DESC, sum(connects) DESC, address LIMIT ?"
        )
        return self._read(sql, *parameters, span.rows)

    def outcomes_of(self, span: Span) -> dict[tuple[bytes, int], Row]:
        """Connected, failed, last error and when, by address and port."""
        where, parameters = span.where("hour", has_name=False, unit_ns=HOUR_NS)
        sql = (
            "SELECT address, port, sum(connected), sum(failed), error, max(error_ns) FROM outcomes"  # noqa: S608
            f" WHERE {where} GROUP BY address, port LIMIT ?"
        )
        return {(row[0], row[1]): row[2:] for row in self._read(sql, *parameters, MAX_ROWS)}

    def ports_of(self, uid: int, since_ns: int) -> list[int]:
        """Ports on which a user was let through to what rules count."""
        sql = "SELECT port FROM seen WHERE uid = ? AND last_ns >= ? ORDER BY port LIMIT ?"
        return [row[0] for row in self._read(sql, uid, since_ns, MAX_ROWS)]

    def watched(self, span: Span) -> list[tuple[int, int]]:
        """From when to when a source saw connections, in order."""
        sql = "SELECT since_ns, until_ns FROM watched WHERE until_ns >= ? AND since_ns < ? ORDER BY since_ns LIMIT ?"
        return self._read(sql, span.since_ns, span.until_ns, MAX_ROWS)

    def blocks_of(self, uid: int, now_ns: int) -> list[BlockRow]:
        """What is refused to a user, for when there is no daemon to ask."""
        return [
            parse_block(row) for row in self._read("SELECT * FROM blocks WHERE uid = ? AND until_ns > ?", uid, now_ns)
        ]

    def select(self, sql: str, *parameters: int | str | bytes) -> Iterator[Row]:
        """Rows one by one, for what adds them up itself (host_history.py).

        Args:
            sql: Constants only.
            parameters: Its values.
        """
        with self._look():
            # `yield from` would close the cursor, after the file, where a row of another kind has who asked give up.
            for row in self._connection.execute(sql, parameters):  # noqa: UP028
                yield row

    def _read(self, sql: str, *parameters: int | bytes) -> list[Row]:
        with self._look():
            return self._connection.execute(sql, parameters).fetchall()

    @contextlib.contextmanager
    def _look(self) -> Iterator[None]:
        self._deadline = None if self._timeout_s is None else time.monotonic() + self._timeout_s
        try:
            yield
        except sqlite3.Error as failure:
            if primary_code(failure) == sqlite3.SQLITE_INTERRUPT:
                raise LateError(f"took longer than {self._timeout_s:g} s", where=self._path) from failure
            raise StateError(f"can't be read: {failure}", where=self._path) from failure

    def _is_late(self) -> bool:
        return self._deadline is not None and time.monotonic() > self._deadline


def _open(path: str) -> sqlite3.Connection:
    try:
        is_there = stat.S_ISREG(Path(path).stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        is_there = False
    except OSError as failure:
        raise StateError(f"can't be read: {failure.strerror}", where=path) from failure
    if not is_there:
        raise StateError("there is no history yet", where=path, fix="it begins with the first run of the daemon")
    # mode=rw: never creates the file; a reader of a write-ahead log needs to write its index all the same.
    try:
        connection = sqlite3.connect(
            f"file:{quote(path)}?mode=rw", uri=True, timeout=_BUSY_S, isolation_level=None, check_same_thread=False
        )
        connection.execute("PRAGMA query_only = ON")
        connection.execute("PRAGMA trusted_schema = OFF")
        version = check_version(connection)
    except sqlite3.Error as failure:
        raise StateError(f"can't be read: {failure}", where=path) from failure
    if version < VERSION:
        connection.close()
        raise StateError("was written by an older smtpguard", where=path, fix="start the daemon once: it migrates it")
    return connection


def _find_peaks(rows: Iterator[Row], window_minutes: int) -> Iterator[tuple[int, int]]:
    for uid, minutes in groupby(rows, key=itemgetter(0)):
        yield uid, max(sum_windows((row[1:] for row in minutes), window_minutes))
