"""The summary: what all incidents since the last one came to, those told at once and those that were not. Pure."""

import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from smtpguard.notify.held import find_group
from smtpguard.text import render_count, render_minute

HOUR = 7
"""Of the morning, local time."""
_MONDAY = 0
_FORGET_S = 2 * 86_400.0
_MAX_GOING = 200
_MAX_USERS = 100
_MAX_RULES = 100
_MAX_NOTES = 20
_OTHERS = "(others)"  # no login is called so: render_user escapes it
Sums = dict[str, Any]


def begin_sums(now_s: float) -> Sums:
    """Nothing yet."""
    zeros = {"incidents": 0, "verdicts": 0, "connects": 0, "refused": 0, "brakes": 0}
    return {"since": now_s, **zeros, "begun": {}, "rules": {}, "users": {}, "notes": []}


def count_begins(sums: Sums, occasion: Mapping[str, Any]) -> None:
    """An incident began or has grown worse."""
    verdict = occasion["verdict"]
    what = f"{verdict['action']} {verdict['mode']}"
    sums["begun"][what] = sums["begun"].get(what, 0) + 1


def count_over(sums: Sums, occasion: Mapping[str, Any]) -> None:
    """An incident is over, with its final figures."""
    incident = occasion["incident"]
    sums["incidents"] += 1
    for name in ("verdicts", "connects", "refused"):
        sums[name] += incident[name]
    for rule in incident["rules"]:
        name = rule if rule in sums["rules"] or len(sums["rules"]) < _MAX_RULES else _OTHERS
        sums["rules"][name] = sums["rules"].get(name, 0) + 1
    users = sums["users"]
    user = occasion["user"]
    if user not in users and len(users) >= _MAX_USERS:
        least = min(users, key=lambda name: users[name]["connects"] if name != _OTHERS else 1 << 62)
        if users[least]["connects"] >= incident["connects"]:
            user = _OTHERS
        else:
            _add(users.setdefault(_OTHERS, _zeros()), users.pop(least))
    _add(users.setdefault(user, _zeros()), {**{name: incident[name] for name in _SUMMED}, "incidents": 1})


def keep_note(sums: Sums, occasion: Mapping[str, Any]) -> None:
    """A person has noted something about a user; of very many the newest are kept."""
    note = {name: occasion[name] for name in ("time", "user", "by", "note")}
    sums["notes"] = [*sums.get("notes", ()), note][-_MAX_NOTES:]


def keep_going(going: Sums, occasion: Mapping[str, Any], now_s: float) -> None:
    """Keep in mind what goes on, until it is over: the summary names it, whether or not it ever ends.

    Args:
        going: By incident; changed.
        occasion: From the daemon.
        now_s: Now.
    """
    going.pop(occasion["key"], None)
    if occasion["kind"] == "incident-over":
        return
    incident = occasion["incident"]
    figures = {name: incident[name] for name in _SUMMED}
    row = {"user": occasion["user"], "group": find_group(occasion), "since": incident["first"], "seen": now_s}
    going[occasion["key"]] = row | figures
    forget_lost(going, now_s)
    if len(going) > _MAX_GOING:  # the oldest of whoever has most goes: one user's many push out none of others'
        counts = Counter(row["group"] for row in going.values())
        most = max(counts, key=lambda group: counts[group])
        del going[next(key for key, row in going.items() if row["group"] == most)]


def forget_lost(going: Sums, now_s: float) -> None:
    """Forget those whose end nobody told us: each that goes on is told of every day."""
    for key in [key for key, row in going.items() if row["seen"] < now_s - _FORGET_S]:
        del going[key]


def is_empty(sums: Sums, going: Sums, held_back: int) -> bool:
    """Whether there is nothing to tell."""
    return not (going or sums["incidents"] or sums["begun"] or held_back or sums["brakes"] or sums.get("notes"))


def show_digest(
    sums: Sums, going: Sums, held_back: int, now_s: float, share: Collection[str]
) -> tuple[str, dict[str, Any]]:
    """The text and the JSON of a summary.

    Args:
        sums: What was counted.
        going: What goes on.
        held_back: Messages that had no room and that no other has named.
        now_s: Until when.
        share: What may leave this host.
    """
    users = [{"user": name if "user" in share else None, **figures} for name, figures in sums["users"].items()]
    users.sort(key=lambda row: -row["connects"])
    counts = {name: sums[name] for name in ("incidents", "verdicts", "connects", "refused", "brakes")}
    shown = {
        "since": _render_time(sums["since"]),
        "until": _render_time(now_s),
        **counts,
        "held_back": held_back,
        "begun": sums["begun"],
        "rules": sums["rules"],
        "users": users,
    }
    lasting = [
        {**row, "user": row["user"] if "user" in share else None}
        for row in ({name: row[name] for name in ("user", "since", *_SUMMED)} for row in going.values())
    ]
    shown["going_on"] = sorted(lasting, key=lambda row: -row["connects"])
    notes = sums.get("notes", ())
    shown["notes"] = [note if "user" in share else note | {"user": None, "note": None} for note in notes]
    if is_empty(sums, going, held_back):
        return f"Nothing since {render_minute(_render_time(sums['since']))}.", shown
    begun = ", ".join(f"{count} {what}" for what, count in sorted(sums["begun"].items())) or "none"
    worst = _name(users)
    return (
        f"{render_count(sums['incidents'], 'incident')} ended, {sums['verdicts']} verdicts, "
        f"{render_count(sums['connects'], 'attempt')}, {sums['refused']} refused. Begun: {begun}."
        + (f" Most attempts{worst}." if worst else "")
        + (f" {render_count(len(lasting), 'incident')} still going on{_name(shown['going_on'])}." if lasting else "")
        + (f" Held back: {render_count(held_back, 'message')}." if held_back else "")
        + (f" {render_count(len(notes), 'note')}{_name_notes(shown['notes'])}." if notes else "")
    ), shown


def next_digest(last_s: float, *, is_weekly: bool) -> float:
    """When the summary after one is due: the next morning, or the morning of the next Monday."""
    last = time.localtime(last_s)
    for days in range(9):
        due = time.mktime((last.tm_year, last.tm_mon, last.tm_mday + days, HOUR, 0, 0, 0, 0, -1))
        if due > last_s and (not is_weekly or time.localtime(due).tm_wday == _MONDAY):
            return due
    return last_s + 7 * 86_400


_SUMMED = ("verdicts", "connects", "refused")


def _name(rows: Sequence[Mapping[str, Any]]) -> str:
    named = ", ".join(f"{row['user']} {row['connects']}" for row in rows[:3] if row["user"])
    return f": {named}" if named else ""


def _zeros() -> dict[str, int]:
    return {"incidents": 0, **dict.fromkeys(_SUMMED, 0)}


def _name_notes(notes: Sequence[Mapping[str, Any]]) -> str:
    named = "; ".join(f"{row['user']}: {row['note']} ({row['by']})" for row in notes[-3:] if row["user"])
    return f": {named}" if named else ""


def _add(to: dict[str, int], what: Mapping[str, int]) -> None:
    for name in to:
        to[name] += what[name]


def _render_time(time_s: float) -> str:
    text = time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(time_s))
    return f"{text[:-2]}:{text[-2:]}"
