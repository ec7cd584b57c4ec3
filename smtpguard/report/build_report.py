"""Puts a report together from what the history and the configuration say. Pure.

Attempts, not sums of lists, are what is counted: what a list has no room for is in the figures all the same.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import groupby
from operator import itemgetter
from typing import Any

from smtpguard.report.fullest_windows import find_fullest
from smtpguard.report.host_report import (
    Curve,
    DestinationFigures,
    Gap,
    HostReport,
    OwnFigures,
    OwnUser,
    Point,
    PortFigures,
    ReportedBlock,
    UserFigures,
    VerdictFigures,
)
from smtpguard.report.report_input import ReportInput
from smtpguard.report.script_figures import sum_scripts
from smtpguard.report.unseen import list_unseen
from smtpguard.settings import DAY_NS, HOUR_NS
from smtpguard.state.span import find_gaps
from smtpguard.text import render_words

MONTH_NS = 30 * DAY_NS
MAX_SHOWN_ERROR = 80
MAX_OWN_USERS = 50
"""Of each own address; how many there are is known."""
_OWN_FIELDS = ("uid", "connected", "failed", "first_ns", "last_ns")


def build_report(given: ReportInput) -> HostReport:
    """The report."""
    users = given.parts["users"] or {"rows": [], "count": 0, "sums": [0, 0, 0, 0], "has_mail": False}
    destinations = given.parts["destinations"] or {"rows": [], "count": 0, "sums": [0, 0]}
    scripts, script_count = sum_scripts(given)
    has_mail = users["has_mail"]
    blind = _find_blind(given, "watched", given.since_ns)
    blind_ns = sum(gap.until_ns - gap.since_ns for gap in blind)
    month_ns = given.until_ns - MONTH_NS
    connects, refused, messages, recipients = users["sums"]
    report = HostReport(
        host=given.host,
        since_ns=given.since_ns,
        until_ns=given.until_ns,
        places_since_ns=given.since_ns // HOUR_NS * HOUR_NS,
        places_until_ns=given.until_ns if given.ends_now else -(-given.until_ns // HOUR_NS) * HOUR_NS,
        watched_s=max(0, given.until_ns - given.since_ns - blind_ns) // 1_000_000_000,
        connects=connects,
        refused=refused,
        messages=messages if has_mail else None,
        recipients=recipients if has_mail else None,
        user_count=users["count"],
        script_count=script_count,
        destination_count=destinations["count"],
        unnamed=(given.parts["scripts"] or {"unnamed": [0]})["unnamed"][0],
        users=tuple(_show_users(given, has_mail=has_mail)),
        scripts=scripts,
        destinations=tuple(_show_destinations(given)),
        providers=(),
        ports=tuple(
            PortFigures(port=port, connects=count, refused=denied)
            for port, count, denied in (given.parts["ports"] or {"ports": []})["ports"]
        ),
        own_addresses=tuple(_show_own(given)),
        own_count=(given.parts["own"] or {"count": 0})["count"],
        own_unknown=(given.parts["own"] or {"unknown": None})["unknown"],
        verdicts=tuple(_sum_verdicts(given.rows("verdicts"))),
        blocks=tuple(_join_blocks(given.rows("changes"))),
        losses=_sum_losses(given),
        blind=blind,
        off=tuple(Gap(since_ns=since_ns, until_ns=until_ns) for since_ns, until_ns in given.rows("off")),
        fullest=find_fullest(given),
        step=given.step,
        curves=tuple(_draw_curves(given)),
        month=None if given.parts.get("month") is None else tuple(_points(given.rows("month"))),
        blind_month=_find_blind(given, "watched_month", month_ns),
    )
    return replace(report, unseen=tuple(list_unseen(report, given)))


def _show_users(given: ReportInput, *, has_mail: bool) -> Iterable[UserFigures]:
    verdicts: dict[int, list[int]] = {}
    for _, _, mode, _, uid, netns, _, count, _, _ in given.rows("verdicts"):
        if netns is None:
            sums = verdicts.setdefault(uid, [0, 0])
            sums[0] += count
            sums[1] += count if mode == "dry-run" else 0
    for uid, connects, refused, messages, recipients in given.rows("users"):
        every, would = verdicts.get(uid, (0, 0))
        yield UserFigures(
            user=given.user(uid),
            uid=uid,
            connects=connects,
            refused=refused,
            messages=messages if has_mail else None,
            recipients=recipients if has_mail else None,
            verdicts=every,
            would=would,
        )


def _show_destinations(given: ReportInput) -> Iterable[DestinationFigures]:
    files = given.parts.get("files")
    names = dict(files["rdns"]) if files is not None else {}
    for address, port, connects, refused, users, connected, failed, error in given.rows("destinations"):
        yield DestinationFigures(
            address=address,
            port=port,
            name=names.get(address),
            provider=None,
            users=users,
            connects=connects,
            refused=refused,
            connected=connected,
            failed=failed,
            error=None if error is None else render_words(error, max_bytes=MAX_SHOWN_ERROR),
        )


def _show_own(given: ReportInput) -> Iterable[OwnFigures]:
    """Rows come address by address, the busiest first, and so do the users of each."""
    for address, found in groupby(given.rows("own"), key=itemgetter(0)):
        rows = list(found)
        yield OwnFigures(
            address=address,
            connected=rows[0][6],
            failed=rows[0][7],
            users=tuple(
                OwnUser(user=given.user(row[1]), **dict(zip(_OWN_FIELDS, row[1:6], strict=True)))
                for row in rows[:MAX_OWN_USERS]
            ),
            user_count=rows[0][8],
        )


def _sum_verdicts(rows: list[Any]) -> Iterable[VerdictFigures]:
    sums: dict[tuple[str, str, str], list[Any]] = {}
    for rule, action, mode, _, uid, netns, _, count, first_ns, last_ns in rows:
        found = sums.setdefault((rule, action, mode), [0, 0, set(), first_ns, last_ns])
        found[0] += count
        found[1] += 0 if netns is None else count
        found[2].add((uid, netns))
        found[3], found[4] = min(found[3], first_ns), max(found[4], last_ns)
    for (rule, action, mode), found in sorted(sums.items(), key=lambda item: (-item[1][0], item[0])):
        yield VerdictFigures(
            rule=render_words(rule),
            action=action,
            mode=mode,
            count=found[0],
            containers=found[1],
            users=len(found[2]),
            first_ns=found[3],
            last_ns=found[4],
        )


def _join_blocks(events: list[Any]) -> Iterable[ReportedBlock]:
    """Beginning, going on and end of each block, by whose, who made it, kind and ports."""
    blocks: list[dict[str, Any]] = []
    active: dict[tuple[Any, ...], dict[str, Any]] = {}
    for event in events:
        ports = event.get("ports")
        key = (event["uid"], event["user"], event.get("source"), event.get("block_kind"), repr(ports))
        block = active.get(key)
        if block is None or event["kind"] == "block":
            block = active[key] = {
                "user": event["user"] or "-",
                "uid": event["uid"],
                "kind": event.get("block_kind") or "block",
                "ports": None if ports is None else tuple(ports),
                "by": render_words(str(event.get("source") or event["by"])),
                "who": event.get("who"),
                "rule": event.get("rule"),
                "mode": event.get("mode") or "enforce",
                "since_ns": event["time_ns"] if event["kind"] == "block" else None,
                "until_ns": event["until_ns"],
                "ended_ns": None,
                "ended_by": None,
                "reason": event["reason"],
            }
            blocks.append(block)
        if event["kind"] == "unblock":
            block["ended_ns"] = event["time_ns"]
            block["ended_by"] = render_words(str(event.get("who") or event["by"]))
            del active[key]
        else:
            block["until_ns"] = event["until_ns"]
    return [ReportedBlock(**block) for block in blocks]


def _find_blind(given: ReportInput, part: str, since_ns: int) -> tuple[Gap, ...]:
    gaps = find_gaps(given.rows(part), since_ns, given.until_ns)
    return tuple(Gap(since_ns=begin, until_ns=end) for begin, end in gaps)


def _sum_losses(given: ReportInput) -> dict[str, int] | None:
    """What was lost; not known where nobody wrote it down then, or it took too long to read."""
    losses = given.parts["losses"]
    if losses is None or losses["first_ns"] is None or losses["first_ns"] >= given.until_ns:
        return None
    return {render_words(name): count for name, count in given.rows("losses")}


def _draw_curves(given: ReportInput) -> Iterable[Curve]:
    of: dict[int, list[list[int]]] = {}
    for uid, *point in given.rows("curves"):
        of.setdefault(uid, []).append(point)
    for row in given.rows("users"):
        if row[0] in of:
            yield Curve(user=given.user(row[0]), uid=row[0], points=tuple(_points(of[row[0]])))


def _points(rows: Iterable[Sequence[int]]) -> Iterable[Point]:
    for at_ns, connects, refused in rows:
        yield Point(at_ns=at_ns, connects=connects, refused=refused)
