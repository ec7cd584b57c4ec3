"""All that the history knows about one user, as plain values for `why`: the same from the daemon and from the file."""

from bisect import bisect_left
from collections.abc import Iterable
from typing import Any

from smtpguard.logline import render_time
from smtpguard.model import NS
from smtpguard.settings import DAY_NS, HOUR_NS, MINUTE_NS
from smtpguard.state.event_query import EventQuery, Shown, show_event, show_incident
from smtpguard.state.history import History
from smtpguard.state.minute_windows import sum_windows
from smtpguard.state.rows import BlockRow, VerdictRow
from smtpguard.state.span import Span, find_gaps
from smtpguard.text import render_address, render_escaped, render_words, split_line

USUAL_DAYS = 14
MAX_SHOWN = 20
_MINUTES_A_DAY = DAY_NS // MINUTE_NS


def collect_user(history: History, *, uid: int | None, name: str | None, now_ns: int) -> Shown:
    """What is known of a user up to a moment.

    Args:
        history: The file.
        uid: Whose; None for an account that is gone.
        name: Its name then; None with a uid.
        now_ns: The moment, wall time.
    """
    until_ns = now_ns + 1
    named = Span(until_ns=until_ns, uid=uid, name=name, limit=MAX_SHOWN)
    events, _ = history.find_events(EventQuery(span=named))
    incidents, _ = history.find_incidents(EventQuery(span=named), is_open=False)
    if uid is None:
        uid = next((row.uid for row in events if row.uid is not None), None)
    verdict = next((row for row in events if isinstance(row, VerdictRow)), None)
    figures: Shown = {"uid": uid, "hour": [0, 0], "day": [0, 0], "destinations": [], "scripts": [], "minutes": []}
    if uid is not None:
        figures |= _figures(history, uid, now_ns, verdict)
    return figures | {
        "time": render_time(now_ns),
        "events": [show_event(row) for row in events],
        "incident": show_incident(*incidents[0], now_ns) if incidents else None,
        "evidence": {} if verdict is None else verdict.evidence,
        "blind": find_blind(history.watched(Span(since_ns=now_ns - HOUR_NS, until_ns=until_ns)), now_ns),
    }


def show_block(row: BlockRow) -> Shown:
    """A block or throttle as `why` shows it, from the file: how often it refused is not known there."""
    return {
        "kind": row.kind,
        "ports": None if row.ports is None else list(row.ports),
        "since": render_time(row.since_ns),
        "until": render_time(row.until_ns),
        "by": row.source,
        "rule": row.rule,
        "why": render_words(row.reason, max_bytes=200) or row.rule or "-",
        "mode": row.mode,
        "suspended": False,
        "level": row.level,
        "refused": None,
    }


def find_blind(spans: Iterable[tuple[int, int]], now_ns: int) -> list[list[str]]:
    """From when to when nothing was watched in the hour before a moment.

    Args:
        spans: When it was, in order.
        now_ns: The moment.
    """
    return [[render_time(begin), render_time(end)] for begin, end in find_gaps(spans, now_ns - HOUR_NS, now_ns)]


def count_usual(minutes: list[tuple[int, int]], window_minutes: int) -> Shown | None:
    """What windows of a user usually hold: the median and the 95th percentile over the minutes that had any.

    Args:
        minutes: (minute, attempts let through), in order.
        window_minutes: Length of the window.

    Returns:
        p50, p95, and of how many days; None where nothing is known.
    """
    if not minutes:
        return None
    sums = sorted(sum_windows(minutes, window_minutes))
    days = len({minute // _MINUTES_A_DAY for minute, _ in minutes})
    return {"p50": sums[len(sums) // 2], "p95": sums[min(len(sums) - 1, len(sums) * 95 // 100)], "days": days}


def _figures(history: History, uid: int, now_ns: int, verdict: VerdictRow | None) -> Shown:
    since_ns = now_ns - USUAL_DAYS * DAY_NS
    minutes = history.minutes_of(uid, since_ns, now_ns)
    passed = [(minute, connects - refused) for minute, connects, refused in minutes]
    recent = Span(since_ns=now_ns - DAY_NS, until_ns=now_ns + 1, uid=uid, limit=MAX_SHOWN)
    return {
        "hour": _sum_from(minutes, (now_ns - HOUR_NS) // MINUTE_NS),
        "day": _sum_from(minutes, (now_ns - DAY_NS) // MINUTE_NS),
        "usual": {str(window): count_usual(passed, window) for window in (1, 10, 60, 1440)},
        "destinations": _destinations(history, recent, verdict),
        "scripts": _scripts(history, recent, verdict),
    }


def _sum_from(minutes: list[tuple[int, int, int]], first: int) -> list[int]:
    later = minutes[bisect_left(minutes, (first, 0, 0)) :]
    return [sum(row[1] for row in later), sum(row[2] for row in later)]


def _destinations(history: History, span: Span, verdict: VerdictRow | None) -> list[Shown]:
    attempt = {} if verdict is None else verdict.evidence.get("connect", {})
    places = history.places_of(span)
    outcomes = history.outcomes_of(span)
    shown = []
    for address, port, connects, refused in places:
        connected, failed, error, error_ns = outcomes.get((address, port), (None, None, None, 0))
        text = render_address(address)
        shown.append(
            {
                "address": text,
                "name": attempt.get("rdns") if attempt.get("address") == text else None,
                "provider": None,
                "port": port,
                "count": connects,
                "refused": refused,
                "connected": connected,
                "failed": failed,
                "last_failure": None if error is None else {"error": error, "time": render_time(error_ns)},
            }
        )
    return shown


def _scripts(history: History, span: Span, verdict: VerdictRow | None) -> list[Shown]:
    evidence: dict[str, Any] = {} if verdict is None else verdict.evidence
    files = {file.get("path"): file for file in evidence.get("files") or () if isinstance(file, dict)}
    shown = []
    for total in history.top_places(span, "script"):
        full = render_escaped(bytes(total.key)) if isinstance(total.key, bytes) and total.key else None
        script, line = split_line(full)
        file = files.get(script, {})
        is_seen = full is not None and full == evidence.get("script")
        client = evidence.get("client") if is_seen else None
        shown.append(
            {
                "script": script,
                "line": line,
                "stack": evidence.get("stack") or [] if is_seen else [],
                "count": total.connects,
                "attr": evidence.get("attr") if is_seen else None,
                "owner": file.get("owner"),
                "ctime": None if file.get("ctime") is None else render_time(int(file["ctime"] * NS)),
                "sha256": file.get("sha256"),
                "drivers": [] if client is None else [{"address": client, "count": 1}],
            }
        )
    return shown
