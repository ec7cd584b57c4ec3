"""What the history knows of the whole host in a span of time, part by part, as plain values for `report`.

The same from the daemon and from the file. Each part is one question of bounded length: other questions about the
history slip in between, and the sums of a part come from the same look as its rows. Sums of users are exact to the
minute, those of places and scripts to the hour: what a span touches counts whole.
"""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from smtpguard.settings import HOUR_NS, MINUTE_NS
from smtpguard.state.columns import from_bytes, from_name, from_signed, to_ns
from smtpguard.state.event_query import EventQuery, show_event
from smtpguard.state.history import History
from smtpguard.state.host_question import HostQuestion, Part
from smtpguard.state.lost_times import find_off, sum_losses
from smtpguard.state.minute_windows import PeakFinder
from smtpguard.state.own_history import count_unplaced, rank_own
from smtpguard.state.row_parsers import Row
from smtpguard.state.span import Span
from smtpguard.text import render_address, render_escaped

Found = dict[str, Any]

MAX_LISTED = 10_000
"""Rows of one part; what is beyond is summed up, and counted."""
MAX_CURVES = 12
MAX_POINTS = 10_000
"""Of all curves, or hours."""
MAX_EVIDENCE = 1000
"""Verdicts with evidence that are looked through for sums of files: 16 MB at most."""
MAX_MINUTES = 2_000_000
"""Rows that are looked through for full windows, at most: some 3 s."""


class _Look(Protocol):
    def __call__(self, history: History, question: HostQuestion, /) -> Found: ...


def collect_part(history: History, part: Part, question: HostQuestion) -> Found:
    """One part of what is known.

    Args:
        history: The file.
        part: Which.
        question: Of when.

    Returns:
        `rows`, and what else the part has; JSON values only.
    """
    return _LOOKS[part](history, question)


def _users(history: History, question: HostQuestion) -> Found:
    """Uid, attempts, refused ones, messages, recipients; the busiest first."""
    where, parameters = question.where("minute", MINUTE_NS)
    sql = (
        "SELECT uid, sum(connects), sum(refused), sum(messages), sum(recipients) FROM minutes"  # noqa: S608 - constants
        f" WHERE {where} GROUP BY uid ORDER BY sum(connects) DESC, sum(messages) DESC, uid"
    )
    found = _keep(history.select(sql, *parameters), columns=4)
    mail = list(history.select("SELECT 1 FROM minutes WHERE messages > 0 LIMIT 1"))
    begin = _first(history.select("SELECT min(minute) FROM minutes"))[0]
    return found | {"has_mail": bool(mail), "first_ns": to_ns(begin, MINUTE_NS)}


def _names(history: History, question: HostQuestion) -> Found:
    """Uid and the name it had, from what was written about it in that time."""
    where, parameters = question.where("time_ns")
    named: dict[int, bytes] = {}
    for table, more in (("changes", "uid IS NOT NULL"), ("verdicts", "netns = 0")):
        sql = f"SELECT uid, name, max(time_ns) FROM {table} WHERE {where} AND {more} GROUP BY uid"  # noqa: S608
        named |= {uid: name for uid, name, _ in history.select(sql, *parameters) if name}
    return {"rows": [[uid, from_name(name)] for uid, name in list(named.items())[:MAX_LISTED]]}


def _destinations(history: History, question: HostQuestion) -> Found:
    """Address, port, attempts, refused ones, users, connected, failed, last error; the busiest first."""
    where, parameters = question.where("hour", HOUR_NS)
    sql = (
        "SELECT address, port, sum(connects), sum(refused), count(DISTINCT uid) FROM destinations"  # noqa: S608
        f" WHERE {where} GROUP BY address, port ORDER BY sum(connects) DESC, address, port"
    )
    found = _keep(history.select(sql, *parameters), columns=2, skip=2)
    sql = (
        "SELECT address, port, sum(connected), sum(failed), error, max(error_ns) FROM outcomes"  # noqa: S608
        f" WHERE {where} GROUP BY address, port"
    )
    wanted = {(row[0], row[1]) for row in found["rows"]}
    outcomes: dict[tuple[bytes, int], Row] = {
        (row[0], row[1]): row[2:5] for row in history.select(sql, *parameters) if (row[0], row[1]) in wanted
    }
    unknown = (None, None, None)
    found["rows"] = [
        [render_address(row[0]), *row[1:], *outcomes.get((row[0], row[1]), unknown)] for row in found["rows"]
    ]
    return found


def _scripts(history: History, question: HostQuestion) -> Found:
    """Script, uid, attempts, refused ones; the busiest first. `unnamed` are attempts whose script is not known."""
    where, parameters = question.where("hour", HOUR_NS)
    sql = f"SELECT sum(connects), sum(refused) FROM destinations WHERE {where} AND script = x''"  # noqa: S608
    unnamed = _first(history.select(sql, *parameters))
    sql = (
        f"SELECT script, uid, sum(connects), sum(refused) FROM destinations WHERE {where} AND script <> x''"  # noqa: S608
        " GROUP BY script, uid ORDER BY sum(connects) DESC, script, uid"
    )
    found = _keep(history.select(sql, *parameters), columns=2, skip=2)
    found["rows"] = [[render_escaped(row[0]), *row[1:]] for row in found["rows"]]
    return found | {"unnamed": [count or 0 for count in unnamed]}


def _files(history: History, question: HostQuestion) -> Found:
    """Path and sha256 of files that were looked at with a verdict; `rdns` has addresses with the names they told."""
    where, parameters = question.where("time_ns")
    sql = (
        f"SELECT evidence FROM verdicts WHERE {where} AND instr(evidence, ?) > 0 ORDER BY time_ns DESC, id DESC LIMIT ?"  # noqa: S608
    )
    sums: dict[str, str] = {}
    for (text,) in history.select(sql, *parameters, '"sha256":"', MAX_EVIDENCE):
        for file in _parse(text).get("files") or ():
            if isinstance(file, dict) and file.get("path") and file.get("sha256"):
                sums.setdefault(str(file["path"]), str(file["sha256"]))
    names: dict[str, str] = {}
    for (text,) in history.select(sql, *parameters, '"rdns":"', MAX_EVIDENCE):
        attempt = _parse(text).get("connect")
        if isinstance(attempt, dict) and attempt.get("rdns") not in (None, "-"):
            names.setdefault(str(attempt.get("address")), str(attempt["rdns"]))
    return {
        "rows": [[path, digest] for path, digest in list(sums.items())[:MAX_LISTED]],
        "rdns": [[address, name] for address, name in list(names.items())[:MAX_LISTED]],
    }


def _ports(history: History, question: HostQuestion) -> Found:
    """Uid, port, attempts, refused ones, at most how many networks and addresses they went to."""
    where, parameters = question.where("hour", HOUR_NS)
    network = "substr(address, 1, CASE length(address) WHEN 4 THEN 3 ELSE 6 END)"
    sql = (
        f"SELECT uid, port, sum(connects), sum(refused), count(DISTINCT {network}), count(DISTINCT address)"  # noqa: S608
        f" FROM destinations WHERE {where} GROUP BY uid, port ORDER BY sum(connects) DESC, uid, port"
    )
    ports: Counter[int] = Counter()
    refused: Counter[int] = Counter()
    rows: list[list[int]] = []
    for row in history.select(sql, *parameters):
        ports[row[1]] += row[2]
        refused[row[1]] += row[3]
        if len(rows) < MAX_LISTED:
            rows.append(list(row))
    return {"rows": rows, "ports": [[port, count, refused[port]] for port, count in sorted(ports.items())]}


def _verdicts(history: History, question: HostQuestion) -> Found:
    """Rule, action, mode, why it was only told, uid, namespace (null: the host's), name, how many, first, last."""
    where, parameters = question.where("time_ns")
    sql = (
        "SELECT rule, action, mode, why_dry, uid, netns, name, count(*), min(time_ns), max(time_ns) FROM verdicts"  # noqa: S608
        f" WHERE {where} GROUP BY rule, action, mode, why_dry, uid, netns, name"
        " ORDER BY count(*) DESC, rule, action, mode, uid, netns"
    )
    found = _keep(history.select(sql, *parameters), columns=1, skip=7)
    found["rows"] = [
        [from_bytes(row[0]), *row[1:3], from_bytes(row[3]), row[4], from_signed(row[5]), from_name(row[6]), *row[7:]]
        for row in found["rows"]
    ]
    return found


def _changes(history: History, question: HostQuestion) -> Found:
    """Blocks, their extensions and ends, as `events` shows them, the oldest first."""
    span = Span(since_ns=question.since_ns, until_ns=question.until_ns, limit=MAX_LISTED)
    events, has_more = history.find_events(EventQuery(span=span, kinds=frozenset({"block", "extended", "unblock"})))
    rows = [show_event(row) | {"until_ns": row.until_ns} for row in reversed(events)]
    return {"rows": rows, "has_more": has_more}


def _watched(history: History, question: HostQuestion) -> Found:
    """From when to when a source saw connections; `first_ns` is the first time ever."""
    begin = _first(history.select("SELECT min(since_ns) FROM watched"))[0]
    spans = history.watched(Span(since_ns=question.since_ns, until_ns=question.until_ns))
    return {"rows": [list(span) for span in spans], "first_ns": begin}


def _losses(history: History, question: HostQuestion) -> Found:
    """Kind, and how much was lost of it; `first_ns` is since when that is written down."""
    span = Span(since_ns=question.since_ns, until_ns=question.until_ns, limit=MAX_LISTED)
    counts, first_ns = sum_losses(history, span)
    return {"rows": [list(row) for row in counts.items()], "first_ns": first_ns}


def _off(history: History, question: HostQuestion) -> Found:
    """From when to when the guard was switched off."""
    return {"rows": [list(span) for span in find_off(history, question.since_ns, question.until_ns)]}


def _own(history: History, question: HostQuestion) -> Found:
    """As own_history.rank_own has it; of `unknown` attempts no address of the host's is known."""
    span = Span(since_ns=question.since_ns, until_ns=question.until_ns, limit=MAX_LISTED)
    rows, count = rank_own(history, span)
    return {"rows": [list(row) for row in rows], "count": count, "unknown": count_unplaced(history, span)}


def _peaks(history: History, question: HostQuestion) -> Found:
    """Uid, minutes of a window, the most that one of this length let through; null if there is too much to look at."""
    where, parameters = question.where("minute", MINUTE_NS)
    sql = f"SELECT uid, minute, connects - refused FROM minutes WHERE {where} ORDER BY uid, minute LIMIT ?"  # noqa: S608
    finder = PeakFinder(question.windows)
    for number, row in enumerate(history.select(sql, *parameters, MAX_MINUTES + 1)):
        if number == MAX_MINUTES:
            return {"rows": None}
        finder.feed(*row)
    peaks = finder.take()
    return {"rows": [[uid, window, peak] for uid, found in peaks.items() for window, peak in found.items() if peak]}


def _curves(history: History, question: HostQuestion) -> Found:
    """Uid, time, attempts and refused ones in a step, of the busiest users."""
    where, parameters = question.where("minute", MINUTE_NS)
    sql = (
        f"SELECT uid FROM minutes WHERE {where} GROUP BY uid"  # noqa: S608
        " ORDER BY sum(connects) DESC, sum(messages) DESC, uid LIMIT ?"
    )
    uids = [row[0] for row in history.select(sql, *parameters, MAX_CURVES)]
    sql = (
        f"SELECT uid, minute / ? AS point, sum(connects), sum(refused) FROM minutes WHERE {where}"  # noqa: S608
        f" AND uid IN ({', '.join('?' * len(uids))}) GROUP BY uid, point ORDER BY uid, point LIMIT ?"
    )
    rows = history.select(sql, question.step, *parameters, *uids, MAX_POINTS)
    return {"rows": [[uid, point * question.step * MINUTE_NS, *counts] for uid, point, *counts in rows]}


def _hours(history: History, question: HostQuestion) -> Found:
    """Hour, attempts and refused ones of all, in order."""
    where, parameters = question.where("minute", MINUTE_NS)
    sql = (
        f"SELECT minute / 60 AS hour, sum(connects), sum(refused) FROM minutes WHERE {where}"  # noqa: S608
        " GROUP BY hour ORDER BY hour DESC LIMIT ?"
    )
    rows = [[hour * HOUR_NS, *counts] for hour, *counts in history.select(sql, *parameters, MAX_POINTS)]
    return {"rows": rows[::-1]}


_LOOKS: dict[Part, _Look] = {
    "users": _users,
    "names": _names,
    "destinations": _destinations,
    "scripts": _scripts,
    "files": _files,
    "ports": _ports,
    "verdicts": _verdicts,
    "changes": _changes,
    "watched": _watched,
    "losses": _losses,
    "off": _off,
    "own": _own,
    "peaks": _peaks,
    "curves": _curves,
    "hours": _hours,
}


def _keep(rows: Iterable[Row], *, columns: int, skip: int = 1) -> Found:
    """The first rows, and of all of them the sums of some columns.

    Args:
        rows: In order.
        columns: How many columns are summed up.
        skip: How many stand before those.
    """
    kept: list[Sequence[Any]] = []
    sums = [0] * columns
    count = 0
    for count, row in enumerate(rows, 1):
        if count <= MAX_LISTED:
            kept.append(list(row))
        for number in range(columns):
            sums[number] += row[skip + number]
    return {"rows": kept, "count": count, "sums": sums}


def _first(rows: Iterable[Row]) -> Row:
    return list(rows)[0]  # noqa: RUF015 - to its end, as a look has to end


def _parse(text: str) -> Found:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
