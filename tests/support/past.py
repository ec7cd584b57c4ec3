"""What the state's file holds, as tests ask for it."""

import sqlite3
from contextlib import closing
from pathlib import Path

from smtpguard.policy.window_export import HEAD
from smtpguard.state.event_query import KINDS, EventQuery
from smtpguard.state.history import History
from smtpguard.state.incident_row import IncidentRow
from smtpguard.state.rows import ChangeRow, VerdictRow
from smtpguard.state.span import Span


def list_events(history: History, span: Span) -> list[VerdictRow | ChangeRow]:
    """Verdicts and changes, the newest first."""
    return history.find_events(EventQuery(span=span))[0]


def list_verdicts(history: History, span: Span) -> list[VerdictRow]:
    """Verdicts, the newest first."""
    rows, _ = history.find_events(EventQuery(span=span, kinds=frozenset({"exceeded"})))
    return [row for row in rows if isinstance(row, VerdictRow)]


def list_changes(history: History, span: Span) -> list[ChangeRow]:
    """What was done, the newest first."""
    rows, _ = history.find_events(EventQuery(span=span, kinds=frozenset(KINDS) - {"exceeded"}))
    return [row for row in rows if isinstance(row, ChangeRow)]


def list_incidents(history: History, span: Span) -> list[IncidentRow]:
    """Incidents by their last verdict, the newest first."""
    return [row for row, _ in history.find_incidents(EventQuery(span=span), is_open=False)[0]]


def count_kept(state: Path, uid: int) -> int:
    """Attempts that a user's windows hold in the file: a guard that is killed now begins with these.

    0 where it is not one yet.
    """
    try:
        with closing(sqlite3.connect(f"file:{state}?mode=ro", uri=True)) as file:
            rows = file.execute("SELECT rule, data FROM windows WHERE uid = ?", (uid,)).fetchall()
    except sqlite3.OperationalError:
        return 0
    return sum((len(data) - HEAD.size) // 8 for name, data in rows if b"/t/" in bytes(name))


def count_blocks(state: Path) -> int:
    """Blocks in the file; 0 where it is not one yet."""
    try:
        with closing(sqlite3.connect(f"file:{state}?mode=ro", uri=True)) as file:
            return int(file.execute("SELECT count(*) FROM blocks").fetchone()[0])
    except sqlite3.OperationalError:
        return 0
