"""Rows of the state file as types. What can't be read raises ValueError, TypeError or KeyError."""

import json
from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import itemgetter
from typing import Any

from smtpguard.fast_dataclass import quick_maker
from smtpguard.state.columns import from_bytes, from_name, from_ports, from_signed
from smtpguard.state.incident_row import IncidentRow
from smtpguard.state.rows import AllowanceRow, BlockRow, ChangeRow, EscalationRow, SwitchRow, VerdictRow, WindowRow

Row = tuple[Any, ...]
_make_block_row = quick_maker(
    BlockRow,
    *("uid", "netns", "name", "source", "kind", "since_ns", "until_ns", "mode", "rule", "reason", "level"),
    *("ranges", "ids", "ports"),
)
_NO_ITEMS = "[]"


def parse_block(row: Row) -> BlockRow:
    """A row of `blocks`, all columns."""
    uid, netns, name, source, kind, ports, since_ns, until_ns, mode, rule, reason, level, ranges, _, ids = row
    return _make_block_row(
        uid,
        from_signed(netns),
        from_name(name),
        from_bytes(source),
        kind,
        since_ns,
        until_ns,
        mode,
        None if rule is None else from_bytes(rule),
        from_bytes(reason),
        level,
        () if ranges == _NO_ITEMS else tuple((first, count) for first, count in json.loads(ranges)),
        () if ids == _NO_ITEMS else tuple(map(str, json.loads(ids))),
        from_ports(ports),
    )


def parse_allowance(row: Row) -> AllowanceRow:
    """A row of `allowances`, all columns."""
    uid, name, since_ns, until_ns, max_count, window_ns, by, reason, everything = row
    return AllowanceRow(
        uid=uid,
        name=from_name(name),
        since_ns=since_ns,
        until_ns=until_ns,
        max_count=max_count,
        window_ns=window_ns,
        by=from_bytes(by),
        reason=from_bytes(reason),
        everything=bool(everything),
    )


def parse_switch(row: Row) -> SwitchRow:
    """A row of `switches`, all columns."""
    name, since_ns, until_ns, by = row
    return SwitchRow(name=name, since_ns=since_ns, until_ns=until_ns, by=from_bytes(by))


def parse_escalation(row: Row) -> EscalationRow:
    """A row of `escalation`, all columns."""
    uid, name, level, last_ns = row
    return EscalationRow(uid=uid, name=from_name(name), level=level, last_ns=last_ns)


def parse_seen(row: Row) -> tuple[tuple[int, int], int]:
    """A row of `seen`, all columns."""
    uid, port, last_ns = row
    if not all(isinstance(value, int) for value in row):
        raise ValueError("no number")
    return (uid, port), last_ns


def parse_fact(row: Row) -> tuple[str, str]:
    """A row of `facts`, all columns."""
    name, value = row
    return str(name), from_bytes(value)


def parse_window(row: Row) -> WindowRow:
    """A row of `windows`, all columns."""
    uid, netns, rule, data, offset_ns, _ = row
    return WindowRow(uid=uid, netns=from_signed(netns), rule=from_bytes(rule), data=data, offset_ns=offset_ns)


def parse_incident(row: Row) -> IncidentRow:
    """A row of `incidents`, all columns."""
    uid, netns, name, first_ns, last_ns, verdicts, connects, refused, peak, destinations, rules, told_ns, *more = row
    mode, is_over, tops = more
    return IncidentRow(
        uid=uid,
        netns=from_signed(netns),
        name=from_name(name),
        first_ns=first_ns,
        last_ns=last_ns,
        verdicts=verdicts,
        connects=connects,
        refused=refused,
        peak_per_minute=peak,
        destinations=destinations,
        rules=tuple(json.loads(rules)),
        told_ns=told_ns,
        mode=mode,
        is_over=bool(is_over),
        tops=_parse_object(tops),
    )


def parse_verdict(row: Row) -> VerdictRow:
    """A row of `verdicts`, all columns."""
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
        evidence=_parse_object(evidence),
    )


def _parse_object(text: str) -> dict[str, Any]:
    value = json.loads(text)
    return value if isinstance(value, dict) else {}


def parse_change(row: Row) -> ChangeRow:
    """A row of `changes`, all columns."""
    _, time_ns, uid, name, event, by, until_ns, reason, details = row
    return ChangeRow(
        time_ns=time_ns,
        uid=uid,
        name=from_name(name),
        event=event,
        by=from_bytes(by),
        until_ns=until_ns,
        reason=from_bytes(reason),
        details=_parse_object(details),
    )


def parse_losses(rows: Iterable[Row]) -> Iterator[ChangeRow]:
    """Rows of `losses` (minute, kind, count, time of the last one) in the order of minutes: a change of each minute."""
    for _, found in groupby(rows, key=itemgetter(0)):
        lost = list(found)
        yield ChangeRow(
            time_ns=max(last_ns for *_, last_ns in lost),
            uid=None,
            name=None,
            event="lost",
            by="guard",
            reason=", ".join(f"{kind} {count}" for _, kind, count, _ in lost),
            details={"losses": {kind: count for _, kind, count, _ in lost}},
        )
