"""What windows of a user usually hold, of rules that minutes can't answer for: networks, destinations, failures, ports.

Where connections went is kept by the hour, so windows here are whole hours, one after the other, back from now; a rule
whose window is no whole hours has no answer. Attempts to exempt destinations are among them: which were exempt then is
not known.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from smtpguard.settings import HOUR_NS
from smtpguard.state.event_query import Shown
from smtpguard.state.history import History

MAX_ASKED = 8
"""Rules: of a user with the most places that are kept (6,000 a day) one takes some 0.1 s."""
_HOUR_S, _DAY_S = 3600, 86_400
_NETWORK = "substr(address, 1, CASE length(address) WHEN 4 THEN 3 ELSE 6 END)"
_COUNTED = {
    "connections": ("destinations", "sum(connects - refused)"),
    "destinations": ("destinations", "count(DISTINCT CASE WHEN connects > refused THEN address END)"),
    "networks": ("destinations", f"count(DISTINCT CASE WHEN connects > refused THEN {_NETWORK} END)"),
    "failures": ("outcomes", "sum(failed)"),
}
"""Table, and what is counted in a window."""


def count_usual_places(
    history: History, rules: Iterable[Mapping[str, Any]], uid: int, *, since_ns: int, until_ns: int
) -> Shown:
    """Of each rule that can be answered for by its name: median, 95th percentile, and of how many days.

    Args:
        history: The file.
        rules: As `why` shows them.
        uid: Whose.
        since_ns: From when on.
        until_ns: Until when.
    """
    hourly = (rule for rule in rules if rule["window"] >= _HOUR_S and rule["window"] % _HOUR_S == 0)
    asked = [rule for rule in hourly if rule["count"] in _COUNTED][:MAX_ASKED]
    found = {}
    for rule in asked:
        windows = _count(history, rule, uid, since_ns // HOUR_NS, -(-until_ns // HOUR_NS))
        if windows:
            found[str(rule["name"])] = sum_up(windows, rule["window"])
    return found


def sum_up(windows: Sequence[tuple[int, int]], window_s: int) -> Shown:
    """Median and 95th percentile of windows that held anything; numbers count back from now."""
    sums = sorted(held for _, held in windows)
    days = {number * window_s // _DAY_S for number, _ in windows}
    return {"p50": sums[len(sums) // 2], "p95": sums[min(len(sums) - 1, len(sums) * 95 // 100)], "days": len(days)}


def _count(history: History, rule: Mapping[str, Any], uid: int, since: int, until: int) -> list[tuple[int, int]]:
    table, counted = _COUNTED[rule["count"]]
    hours = rule["window"] // _HOUR_S
    ports = sorted(rule["ports"] or ())
    among = f" AND port IN ({', '.join('?' * len(ports))})" if rule["ports"] is not None else ""
    rows = history.select(
        f"SELECT (? - hour) / ? AS number, {counted} AS held FROM {table}"  # noqa: S608 - constants
        f" WHERE uid = ? AND hour >= ? AND hour < ?{among} GROUP BY number HAVING held > 0 ORDER BY number",
        until - 1, hours, uid, since, until, *ports,
    )  # fmt: skip
    return [(number, held) for number, held in rows]
