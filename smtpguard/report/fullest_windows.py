"""Who came nearest to a limit without exceeding it: where a limit may be too high, or is soon too low. Pure.

The history has attempts by the minute, and where they went by the hour. A window of a rule that counts connections, of
a user with no other ports, is exact to the minute; of other rules it is known that it held no more than so much.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

from smtpguard.report.host_report import FullWindow
from smtpguard.report.report_input import ReportInput
from smtpguard.settings import DAY_NS, MINUTE_NS
from smtpguard.text import render_words

MAX_FULLEST = 10
COUNTED = ("connections", "networks", "destinations")
"""What can be said of from attempts."""
MAX_WINDOW_MINUTES = 31 * DAY_NS // MINUTE_NS


def list_windows(rules: Iterable[Mapping[str, Any]]) -> list[int]:
    """The lengths of windows, in minutes, that there are to look for."""
    lengths = {rule["window"] // 60 for rule in rules if rule["count"] in COUNTED}
    return sorted(length for length in lengths if 1 <= length <= MAX_WINDOW_MINUTES)


def find_fullest(given: ReportInput) -> tuple[FullWindow, ...] | None:
    """The fullest windows of users and rules without a verdict; None if they could not be worked out."""
    found = given.parts.get("peaks")
    if given.rules is None or found is None or found["rows"] is None:
        return None
    ports: dict[int, list[_Port]] = {}
    for uid, *row in given.rows("ports"):
        ports.setdefault(uid, []).append(_Port(*row))
    judged = {(uid, rule) for rule, _, _, _, uid, netns, *_ in given.rows("verdicts") if netns is None}
    windows = []
    for uid, length, peak in found["rows"]:
        for rule in given.rules_of(uid):
            if rule["window"] // 60 != length or rule["count"] not in COUNTED or (uid, rule["name"]) in judged:
                continue
            held, at_most = _bound(rule, peak, ports.get(uid, ()))
            if uid and 0 < held < rule["limit"] + (not at_most):
                windows.append(_show(given, uid, rule, held, at_most=at_most))
    windows.sort(key=lambda window: (-window.held / window.limit, window.at_most, window.uid, window.rule))
    return tuple(windows[:MAX_FULLEST])


class _Port(NamedTuple):
    """What a user did on a port, as state/host_history has it of whole hours."""

    port: int
    attempts: int
    refused: int
    networks: int
    destinations: int


def _bound(rule: Mapping[str, Any], peak: int, ports: Collection[_Port]) -> tuple[int, bool]:
    """The most that a window of a rule can have held, and whether it may have held less."""
    meant = [used for used in ports if rule["ports"] is None or used.port in rule["ports"]]
    passed = sum(used.attempts - used.refused for used in meant)
    if rule["count"] == "connections":
        has_others = len(meant) < len(ports)
        return (min(peak, passed), True) if has_others else (peak if meant or rule["ports"] is None else 0, False)
    distinct = sum(used.networks if rule["count"] == "networks" else used.destinations for used in meant)
    return min(peak, passed, distinct), True


def _show(given: ReportInput, uid: int, rule: Mapping[str, Any], held: int, *, at_most: bool) -> FullWindow:
    return FullWindow(
        user=given.user(uid),
        uid=uid,
        rule=render_words(rule["name"]),
        count=rule["count"],
        window=rule["window"],
        held=held,
        limit=rule["limit"],
        at_most=at_most,
    )
