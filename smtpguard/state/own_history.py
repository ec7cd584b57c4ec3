"""From which of the host's own addresses users connected, read back: for `events --src`, `why` and `report`.

Sums of whole hours. Only connections of which a source told how they went have an address; of how many none is known is
an answer of its own.
"""

from collections.abc import Sequence
from dataclasses import replace

from smtpguard.logline import render_time
from smtpguard.settings import HOUR_NS, MINUTE_NS
from smtpguard.state.event_query import EventQuery, Shown
from smtpguard.state.history import History
from smtpguard.state.row_parsers import Row
from smtpguard.state.span import OwnTotal, Span
from smtpguard.text import render_address

_FIELDS = ("uid", "address", "connected", "failed", "first_ns", "last_ns")


def list_own(history: History, span: Span, address: bytes | None = None) -> Sequence[OwnTotal]:
    """What users connected from which address; the busiest first.

    Args:
        history: The file.
        span: Which part; hours that it touches count whole.
        address: Only this one; None for all.
    """
    where, parameters = span.where("hour", has_name=False, unit_ns=HOUR_NS)
    among: list[bytes] = [] if address is None else [address]
    rows = history.select(
        "SELECT uid, address, sum(connected), sum(failed), min(first_ns), max(last_ns)"  # noqa: S608 - constants
        f" FROM own_addresses WHERE {where}{' AND address = ?' * len(among)} GROUP BY uid, address"
        " ORDER BY sum(connected) + sum(failed) DESC, uid, address LIMIT ?",
        *parameters, *among, span.rows,
    )  # fmt: skip
    return [OwnTotal(**dict(zip(_FIELDS, row, strict=True))) for row in rows]


def rank_own(history: History, span: Span) -> tuple[Sequence[Row], int]:
    """Address, uid, connected, failed, first, last; then of the whole address connected, failed and users.

    Args:
        history: The file.
        span: Which part; hours that it touches count whole.

    Returns:
        The rows, the busiest address and user first, and how many addresses there are.
    """
    where, parameters = span.where("hour", has_name=False, unit_ns=HOUR_NS)
    rows = history.select(
        "WITH pairs AS (SELECT address, uid, sum(connected) AS c, sum(failed) AS f,"  # noqa: S608 - constants
        " min(first_ns) AS a, max(last_ns) AS z"
        f" FROM own_addresses WHERE {where} GROUP BY address, uid),"
        " places AS (SELECT address, sum(c) AS cs, sum(f) AS fs, count(*) AS users FROM pairs GROUP BY address)"
        " SELECT address, uid, c, f, a, z, cs, fs, users FROM pairs JOIN places USING (address)"
        " ORDER BY cs + fs DESC, address, c + f DESC, uid LIMIT ?",
        *parameters, span.rows,
    )  # fmt: skip
    found = [(render_address(row[0]), *row[1:]) for row in rows]
    sql = f"SELECT count(DISTINCT address) FROM own_addresses WHERE {where}"  # noqa: S608
    return found, next(iter(history.select(sql, *parameters)))[0]


def count_unplaced(history: History, span: Span) -> int:
    """Attempts let through of which no own address is known: no report yet, or a source that tells none."""
    whole = replace(span, since_ns=span.since_ns // HOUR_NS * HOUR_NS, until_ns=-(-span.until_ns // HOUR_NS) * HOUR_NS)
    passed, minutes = whole.where("minute", has_name=False, unit_ns=MINUTE_NS)
    told, hours = span.where("hour", has_name=False, unit_ns=HOUR_NS)
    rows = history.select(
        "SELECT sum(max(0, passed - ifnull(told, 0))) FROM"  # noqa: S608 - constants
        f" (SELECT uid, sum(connects - refused) AS passed FROM minutes WHERE {passed} GROUP BY uid) LEFT JOIN"
        f" (SELECT uid, sum(connected + failed) AS told FROM own_addresses WHERE {told} GROUP BY uid) USING (uid)",
        *minutes, *hours,
    )  # fmt: skip
    return next(iter(rows))[0] or 0


def find_source(history: History, query: EventQuery) -> Shown | None:
    """Who connected from the own address that is asked for, and of how many attempts no address is known.

    Args:
        history: The file.
        query: With or without an own address; None without one.
    """
    if query.src is None:
        return None
    return {
        "address": render_address(query.src),
        "users": [{"uid": own.uid} | show_own(own) for own in list_own(history, query.span, query.src)],
        "unknown": count_unplaced(history, query.span),
    }


def show_own(own: OwnTotal) -> Shown:
    """What came from one of the host's own addresses."""
    return {
        "connected": own.connected,
        "failed": own.failed,
        "first": render_time(own.first_ns),
        "last": render_time(own.last_ns),
    }
