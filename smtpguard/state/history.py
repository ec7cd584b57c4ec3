"""What happened, read back: for `events`, `report`, `why` and `tune`. Never writes, and every answer is bounded.

A connection of its own beside the writer's (WAL lets both go on), so that a long look never holds up the daemon. All
values are parameters of the SQL; what comes back is as untrusted as it went in.
"""

import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import quote

from smtpguard.errors import StateError
from smtpguard.settings import DAY_NS, MINUTE_NS
from smtpguard.state.migrations import VERSION, NewerVersionError, check_version
from smtpguard.state.rows import ChangeRow, IncidentRow, VerdictRow, from_bytes, from_name, from_signed, to_name
from smtpguard.state.store import Row, parse_incident

MAX_ROWS = 10_000
"""No answer has more rows, whatever is asked for."""
_BUSY_S = 2.0
_FOREVER_NS = 2**63 - 1

By = Literal["address", "port", "script"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Which part of the history: `since_ns <= time < until_ns`, wall time; of one account or of all.

    Attributes:
        since_ns: Begin.
        until_ns: End.
        uid: Whose; None for everybody's.
        name: With `uid`: only what happened while the uid had this name, as numbers are used again.
        limit: At most so many rows, the newest or largest ones.
    """

    since_ns: int = 0
    until_ns: int = _FOREVER_NS
    uid: int | None = None
    name: str | None = None
    limit: int = 1000

    def where(self, column: str, *, has_name: bool = True, unit_ns: int = 1) -> tuple[str, list[int | bytes]]:
        """The condition and its parameters.

        Args:
            column: The column that holds the time; a constant.
            has_name: Whether the table has names.
            unit_ns: The column's unit in nanoseconds.
        """
        sql = f"{column} >= ? AND {column} < ?"
        parameters: list[int | bytes] = [self.since_ns // unit_ns, -(-self.until_ns // unit_ns)]
        if self.uid is not None:
            sql += " AND uid = ?"
            parameters.append(self.uid)
            if has_name and self.name is not None:
                sql += " AND name = ?"
                parameters.append(to_name(self.name))
        return sql, parameters

    @property
    def rows(self) -> int:
        """The limit, within bounds."""
        return max(0, min(self.limit, MAX_ROWS))


@dataclass(frozen=True, slots=True, kw_only=True)
class Total:
    """Figures summed up.

    Attributes:
        key: What they are for: a uid, an address, a port, a script, or a minute since the epoch.
        connects, refused: Attempts, and how many of them were refused.
        messages, recipients: Mail handed to the local server; 0 where it is not kept.
        users: How many accounts they come from; 0 where it was not asked.
    """

    key: int | bytes
    connects: int
    refused: int
    messages: int = 0
    recipients: int = 0
    users: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Why:
    """All that is known about one user, newest or largest first."""

    verdicts: tuple[VerdictRow, ...]
    changes: tuple[ChangeRow, ...]
    incidents: tuple[IncidentRow, ...]
    addresses: tuple[Total, ...]
    ports: tuple[Total, ...]
    scripts: tuple[Total, ...]
    minutes: tuple[Total, ...]


class History:
    """The state file, for reading.

    Args:
        path: Absolute path of the state file, as configured.

    Raises:
        StateError: It is not there, or can't be read.
    """

    def __init__(self, path: str) -> None:
        try:
            self._connection = _open(path)
        except NewerVersionError:
            self._connection = _open(f"{path}.v{VERSION}")
        self._path = path

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close."""
        self._connection.close()

    def verdicts(self, span: Span) -> list[VerdictRow]:
        """Verdicts, the newest first."""
        where, parameters = span.where("time_ns")
        sql = f"SELECT * FROM verdicts WHERE {where} ORDER BY time_ns DESC, id DESC LIMIT ?"  # noqa: S608 - constants
        return [_parse_verdict(row) for row in self._read(sql, *parameters, span.rows)]

    def changes(self, span: Span) -> list[ChangeRow]:
        """What was done, the newest first; what concerns everybody (`off`) only without a uid."""
        where, parameters = span.where("time_ns")
        sql = f"SELECT * FROM changes WHERE {where} ORDER BY time_ns DESC, id DESC LIMIT ?"  # noqa: S608 - constants
        return [_parse_change(row) for row in self._read(sql, *parameters, span.rows)]

    def events(self, span: Span) -> list[VerdictRow | ChangeRow]:
        """Both together, the newest first."""
        both: list[VerdictRow | ChangeRow] = [*self.verdicts(span), *self.changes(span)]
        both.sort(key=lambda row: row.time_ns, reverse=True)
        return both[: span.rows]

    def incidents(self, span: Span) -> list[IncidentRow]:
        """Incidents by their last verdict, the newest first."""
        where, parameters = span.where("last_ns")
        sql = f"SELECT * FROM incidents WHERE {where} ORDER BY last_ns DESC LIMIT ?"  # noqa: S608 - constants
        return [parse_incident(row) for row in self._read(sql, *parameters, span.rows)]

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
        """Where connections went, or which scripts made them, by whole days (UTC); the busiest first.

        Args:
            span: Which part; days that it touches count whole.
            by: What is summed up.
        """
        column = {"address": "address", "port": "port", "script": "script"}[by]
        where, parameters = span.where("day", has_name=False, unit_ns=DAY_NS)
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
        try:
            return dict(_find_peaks(self._connection.execute(sql, parameters), window_minutes))
        except sqlite3.Error as failure:
            raise StateError(f"can't be read: {failure}", where=self._path) from failure

    def why(self, span: Span) -> Why:
        """All that is known about one user.

        Args:
            span: With `uid`; its limit holds for each list, and is at most 100.
        """
        few = Span(
            since_ns=span.since_ns, until_ns=span.until_ns, uid=span.uid, name=span.name, limit=min(span.limit, 100)
        )
        return Why(
            verdicts=tuple(self.verdicts(few)),
            changes=tuple(self.changes(few)),
            incidents=tuple(self.incidents(few)),
            addresses=tuple(self.top_places(few, "address")),
            ports=tuple(self.top_places(few, "port")),
            scripts=tuple(self.top_places(few, "script")),
            minutes=tuple(self.by_minute(few)),
        )

    def _read(self, sql: str, *parameters: int | bytes) -> list[Row]:
        try:
            return self._connection.execute(sql, parameters).fetchall()
        except sqlite3.Error as failure:
            raise StateError(f"can't be read: {failure}", where=self._path) from failure


def _open(path: str) -> sqlite3.Connection:
    if not Path(path).is_file():
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
    user: int | None = None
    inside: list[tuple[int, int]] = []
    begin = total = peak = 0
    for uid, minute, connects in rows:
        if uid != user:
            if user is not None:
                yield user, peak
            user, inside, begin, total, peak = uid, [], 0, 0, 0
        inside.append((minute, connects))
        total += connects
        while inside[begin][0] <= minute - window_minutes:
            total -= inside[begin][1]
            begin += 1
        peak = max(peak, total)
    if user is not None:
        yield user, peak


def _parse_verdict(row: Row) -> VerdictRow:
    (number, time_ns, uid, netns, name, rule, count, limit, window_ns, action, until_ns, mode, why_dry, evidence) = row
    return VerdictRow(
        id=number,
        time_ns=time_ns,
        uid=uid,
        netns=from_signed(netns),
        name=from_name(name),
        rule=from_bytes(rule),
        count=count,
        limit=limit,
        window_ns=window_ns,
        action=action,
        until_ns=until_ns,
        mode=mode,
        why_dry=from_bytes(why_dry),
        evidence=_parse_evidence(evidence),
    )


def _parse_evidence(text: str) -> dict[str, Any]:
    value = json.loads(text)
    return value if isinstance(value, dict) else {}


def _parse_change(row: Row) -> ChangeRow:
    _, time_ns, uid, name, event, by, until_ns, reason = row
    return ChangeRow(
        time_ns=time_ns,
        uid=uid,
        name=from_name(name),
        event=event,
        by=from_bytes(by),
        until_ns=until_ns,
        reason=from_bytes(reason),
    )
