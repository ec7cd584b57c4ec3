"""All that the history knows about one user, as plain values for `why`: the same from the daemon and from the file."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from smtpguard.logline import render_time
from smtpguard.model import NS
from smtpguard.settings import DAY_NS, HOUR_NS, MINUTE_NS
from smtpguard.state.event_query import EventQuery, Shown, show_event, show_incident
from smtpguard.state.history import History
from smtpguard.state.holders import find_tenure
from smtpguard.state.lost_times import SEEN_BY_NOBODY, sum_losses
from smtpguard.state.minute_windows import sum_windows
from smtpguard.state.own_history import count_unplaced, list_own, show_own
from smtpguard.state.past_blocks import KINDS, find_past_blocks
from smtpguard.state.rows import BlockRow, ChangeRow, VerdictRow
from smtpguard.state.span import Span, find_gaps
from smtpguard.state.usual_places import count_usual_places
from smtpguard.text import render_address, render_escaped, render_words, split_line

USUAL_DAYS = 14
MAX_SHOWN = 20
MAX_EVENTS = 300
"""Looked through for whose a uid was, and what was in force."""
_MINUTES_A_DAY = DAY_NS // MINUTE_NS


def collect_user(
    history: History,
    *,
    uid: int | None,
    name: str | None,
    now_ns: int,
    names: Collection[str] = (),
    rules: Sequence[Mapping[str, Any]] = (),
    is_past: bool = False,
) -> Shown:
    """What is known of a user up to a moment. What a uid did while it was another account's is left out.

    Args:
        history: The file.
        uid: Whose; None for an account that is gone.
        name: Its name then; None with a uid.
        now_ns: The moment, wall time.
        names: What the account of the uid is called; empty where it is not known.
        rules: As `why` shows them: of these it is told what is usual.
        is_past: Whether the moment is past: what was in force then is found in the history.
    """
    until_ns = now_ns + 1
    if uid is None:
        last, _ = history.find_events(EventQuery(span=Span(until_ns=until_ns, name=name, limit=1)))
        uid = next((row.uid for row in last), None)
    figures: Shown = {
        "uid": uid, "hour": [0, 0], "day": [0, 0], "destinations": [], "scripts": [], "events": [], "incident": None,
        "evidence": {}, "ports": [], "own_addresses": [], "own_unknown": 0,
    }  # fmt: skip
    if uid is not None:
        figures |= _collect(history, uid, names if name is None else (name,), now_ns, name, rules)
    since_ns = figures.pop("since_ns", 0)
    return figures | {
        "time": render_time(now_ns),
        "blocks": _find_blocks(history, uid, since_ns, now_ns) if uid is not None and is_past else [],
        "lost": _count_lost(history, now_ns),
        "blind": find_blind(history.watched(Span(since_ns=now_ns - HOUR_NS, until_ns=until_ns)), now_ns),
    }


def _collect(
    history: History,
    uid: int,
    names: Collection[str],
    now_ns: int,
    gone: str | None,
    rules: Sequence[Mapping[str, Any]],
) -> Shown:
    rows, _ = history.find_events(EventQuery(span=Span(until_ns=now_ns + 1, uid=uid, limit=MAX_EVENTS)))
    since_ns, end_ns = find_tenure(rows, names, is_living=gone is None)
    own = [row for row in rows if not names or not row.name or row.name in names]
    events = [row for row in own if row.time_ns >= since_ns and (end_ns is None or row.time_ns < end_ns)][:MAX_SHOWN]
    verdicts = [row for row in events if isinstance(row, VerdictRow)]
    named = Span(since_ns=since_ns, until_ns=now_ns + 1 if end_ns is None else end_ns, uid=uid, name=gone, limit=1)
    incidents, _ = history.find_incidents(EventQuery(span=named), is_open=False)
    return {
        "since_ns": since_ns,
        **_figures(history, uid, now_ns, verdicts, (since_ns, end_ns)),
        "usual_of": count_usual_places(
            history,
            rules,
            uid,
            since_ns=-(-max(since_ns, now_ns - USUAL_DAYS * DAY_NS) // HOUR_NS) * HOUR_NS,
            until_ns=now_ns + 1 if end_ns is None else end_ns // HOUR_NS * HOUR_NS,
        ),
        "events": [show_event(row) for row in events],
        "incident": show_incident(*incidents[0], now_ns) if incidents else None,
        "evidence": verdicts[0].evidence if verdicts else {},
    }


def _find_blocks(history: History, uid: int, since_ns: int, at_ns: int) -> list[Shown]:
    spans = (
        Span(since_ns=since_ns, until_ns=at_ns + 1, uid=uid, limit=MAX_EVENTS),
        Span(until_ns=at_ns + 1, limit=MAX_EVENTS),
    )
    found: list[ChangeRow] = []
    for span, kinds in zip(spans, (KINDS - {"off", "on"}, frozenset({"off", "on"})), strict=True):
        rows, _ = history.find_events(EventQuery(span=span, kinds=kinds))
        found += [row for row in rows if isinstance(row, ChangeRow)]
    return find_past_blocks(sorted(found, key=lambda row: row.time_ns), at_ns)


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


def _count_lost(history: History, now_ns: int) -> int:
    """Attempts of all users in the last hour that no source told of."""
    counts, _ = sum_losses(history, Span(since_ns=now_ns - HOUR_NS, until_ns=now_ns + 1))
    return sum(count for kind, count in counts.items() if kind.endswith(SEEN_BY_NOBODY))


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


def _figures(
    history: History, uid: int, now_ns: int, verdicts: list[VerdictRow], tenure: tuple[int, int | None]
) -> Shown:
    """Figures while the uid was this account's: of a minute or hour in which it was given away nothing is counted."""
    held_ns, end_ns = tenure
    first = -(-held_ns // MINUTE_NS)
    until_ns = now_ns if end_ns is None else end_ns - MINUTE_NS
    minutes = history.minutes_of(uid, max(now_ns - USUAL_DAYS * DAY_NS, first * MINUTE_NS), until_ns)
    passed = [(minute, connects - refused) for minute, connects, refused in minutes]
    held_ns = -(-held_ns // HOUR_NS) * HOUR_NS
    until_ns = now_ns + 1 if end_ns is None else end_ns // HOUR_NS * HOUR_NS

    def span(length_ns: int) -> Span:
        return Span(since_ns=max(now_ns - length_ns, held_ns), until_ns=until_ns, uid=uid, limit=MAX_SHOWN)

    # To exempt destinations rules count nothing: of these the last day's are known, 14 days of places take seconds.
    ports = {int(total.key) for total in history.top_places(span(DAY_NS), "port")}
    ports.update(history.ports_of(uid, max(now_ns - USUAL_DAYS * DAY_NS, held_ns)))
    return {
        "hour": _sum_from(minutes, (now_ns - HOUR_NS) // MINUTE_NS),
        "day": _sum_from(minutes, (now_ns - DAY_NS) // MINUTE_NS),
        "usual": {str(window): count_usual(passed, window) for window in (1, 10, 60, 1440)},
        "ports": sorted(ports),
        "failed_hour": sum(row[1] for row in history.outcomes_of(span(HOUR_NS)).values()),
        "destinations": _destinations(history, span(DAY_NS), verdicts),
        "scripts": _scripts(history, span(DAY_NS), verdicts),
        "own_addresses": [
            {"address": render_address(own.address)} | show_own(own) for own in list_own(history, span(DAY_NS))
        ],
        "own_unknown": count_unplaced(history, span(DAY_NS)),
    }


def _sum_from(minutes: list[tuple[int, int, int]], first: int) -> list[int]:
    later = minutes[bisect_left(minutes, (first, 0, 0)) :]
    return [sum(row[1] for row in later), sum(row[2] for row in later)]


def _destinations(history: History, span: Span, verdicts: list[VerdictRow]) -> list[Shown]:
    attempts = [verdict.evidence.get("connect", {}) for verdict in verdicts]
    names = {attempt.get("address"): attempt.get("rdns") for attempt in reversed(attempts)}
    places = history.places_of(span)
    outcomes = history.outcomes_of(span)
    shown = []
    for address, port, connects, refused in places:
        connected, failed, error, error_ns = outcomes.get((address, port), (None, None, None, 0))
        text = render_address(address)
        shown.append(
            {
                "address": text,
                "name": names.get(text),
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


def _scripts(history: History, span: Span, verdicts: list[VerdictRow]) -> list[Shown]:
    """Scripts by their attempts, with what was found with verdicts: of each script and file the latest counts."""
    found = [verdict.evidence for verdict in reversed(verdicts)]
    files = {file.get("path"): file for evidence in found for file in _list_files(evidence)}
    seen = {evidence["script"]: evidence for evidence in found if evidence.get("script")}
    clients = Counter((evidence.get("script"), evidence.get("client")) for evidence in found if evidence.get("client"))
    shown = []
    for total in history.top_places(span, "script"):
        full = render_escaped(bytes(total.key)) if isinstance(total.key, bytes) and total.key else None
        script, line = split_line(full)
        file = files.get(script, {})
        evidence = seen.get(full, {})
        shown.append(
            {
                "script": script,
                "line": line,
                "stack": evidence.get("stack") or [],
                "count": total.connects,
                "attr": evidence.get("attr"),
                "owner": file.get("owner"),
                "ctime": None if file.get("ctime") is None else render_time(int(float(file["ctime"]) * NS)),
                "sha256": file.get("sha256"),
                "drivers": [
                    {"address": client, "count": count} for (by, client), count in clients.most_common() if by == full
                ],
            }
        )
    return shown


def _list_files(evidence: Mapping[str, Any]) -> list[Shown]:
    return [file for file in evidence.get("files") or () if isinstance(file, dict)]
