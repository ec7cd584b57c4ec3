"""What was lost and when the guard was off: summed up as it happens, and read back for any span."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from smtpguard.model import NS
from smtpguard.report.why import build_why
from smtpguard.settings import HOUR_NS, MINUTE_NS
from smtpguard.state import statements
from smtpguard.state.columns import Statement
from smtpguard.state.event_query import EventQuery, show_event
from smtpguard.state.history import History
from smtpguard.state.lost_times import find_off, sum_losses
from smtpguard.state.rows import ChangeRow
from smtpguard.state.span import Span
from smtpguard.state.store import Store
from smtpguard.state.user_history import collect_user

NOW_NS = 1_771_418_340 * NS
LOSSES = (
    (0, "", 0), (1, "bpf: events", 3), (1, "bpf: events", 4), (1, "bpf: garbled", 2), (9, "history: rows", 1),
)  # fmt: skip
"""Minute, kind, how many."""


def add_loss(minute: int, kind: str, count: int) -> Statement:
    return statements.add_loss(NOW_NS + minute * MINUTE_NS + 30 * NS, kind, count)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "state.db")


def write(path: str, *rows: Any) -> None:  # noqa: ANN401 - rows and statements
    store = Store.open(path, boot_id="b", wall_ns=NOW_NS, max_bytes=1 << 26)
    store.run([statements.add(row) if isinstance(row, ChangeRow) else row for row in rows], durable=False)
    store.close()


@pytest.fixture
def switched(path: str) -> Iterator[History]:
    def switch(event: str, at: int, until: int | None = None) -> ChangeRow:
        until_ns = None if until is None else NOW_NS + until * MINUTE_NS
        return ChangeRow(
            time_ns=NOW_NS + at * MINUTE_NS, uid=None, name=None, event=event, by="admin", until_ns=until_ns
        )

    write(
        path,
        switch("off", 0, 240), switch("on", 10),
        switch("off", 30, 40),  # killed meanwhile: nobody said when it ended
        switch("off", 50), switch("off", 55, 60), switch("on", 58),
        switch("off", 90),
    )  # fmt: skip
    with History(path) as history:
        yield history


@pytest.mark.parametrize(
    ("since", "until", "expected"),
    [
        (-60, 120, [(0, 10), (30, 40), (50, 55), (55, 58), (90, 120)]),
        (5, 35, [(5, 10), (30, 35)]),
        (12, 28, []),
        (100, 110, [(100, 110)]),
        (-60, 0, []),
    ],
)
def test_when_it_was_off(switched: History, since: int, until: int, expected: list[tuple[int, int]]) -> None:
    found = find_off(switched, NOW_NS + since * MINUTE_NS, NOW_NS + until * MINUTE_NS)
    assert [((a - NOW_NS) // MINUTE_NS, (b - NOW_NS) // MINUTE_NS) for a, b in found] == expected


def test_losses_of_a_span_and_since_when_they_are_known(path: str) -> None:
    write(path)
    with History(path) as history:
        assert sum_losses(history, Span()) == ({}, None), "nobody knows"
    write(path, *(add_loss(minute, kind, count) for minute, kind, count in LOSSES))
    with History(path) as history:
        assert sum_losses(history, Span()) == ({"bpf: events": 7, "bpf: garbled": 2, "history: rows": 1}, NOW_NS)
        span = Span(since_ns=NOW_NS + 2 * MINUTE_NS, until_ns=NOW_NS + HOUR_NS)
        assert sum_losses(history, span) == ({"history: rows": 1}, NOW_NS)
        assert sum_losses(history, Span(until_ns=NOW_NS + MINUTE_NS)) == ({}, NOW_NS), "known: nothing"


def test_events_tell_the_losses_of_each_minute_among_all_else(path: str) -> None:
    note = ChangeRow(time_ns=NOW_NS + 2 * MINUTE_NS, uid=7, name="web01", event="note", by="admin")
    write(path, note, *(add_loss(minute, kind, count) for minute, kind, count in LOSSES))
    with History(path) as history:

        def find(kinds: Iterable[str] = (), **span: Any) -> list[tuple[str, str]]:  # noqa: ANN401 - of Span
            rows, _ = history.find_events(EventQuery(span=Span(**span), kinds=frozenset(kinds)))
            return [(show_event(row)["kind"], show_event(row)["reason"]) for row in rows]

        late, early = ("lost", "history: rows 1"), ("lost", "bpf: events 7, bpf: garbled 2")
        assert find() == [late, ("note", ""), early]
        assert find(["lost"]) == [late, early]
        assert find(["note"]) == [("note", "")]
        assert find(uid=7) == [("note", "")], "they are nobody's"
        assert find(["lost"], since_ns=NOW_NS + MINUTE_NS + 31 * NS) == [late]
        assert find(["lost"], until_ns=NOW_NS + MINUTE_NS + 30 * NS) == [], "to the moment of the last one"
        (row,), has_more = history.find_events(EventQuery(span=Span(limit=1)))
        assert (has_more, show_event(row)["losses"], show_event(row)["user"]) == (True, {"history: rows": 1}, None)


def test_where_attempts_were_lost_unseen_it_is_not_known_whose_fault_it_is(path: str) -> None:
    watched = statements.put_watched(NOW_NS - HOUR_NS, NOW_NS + 3 * HOUR_NS)
    write(path, watched, statements.add_loss(NOW_NS, "bpf: garbled", 9))
    with History(path) as history:
        past = collect_user(history, uid=7, name=None, now_ns=NOW_NS + HOUR_NS, is_past=True)
        assert build_why(None, past, None, is_past=True)["verdict"] == "NOT US: no attempt in the last hour"
    kinds = ("bpf: only counted", "bpf: events", "nflog: events")
    write(path, *(statements.add_loss(NOW_NS, kind, 4) for kind in kinds))
    with History(path) as history:
        for hours, lost in ((1, 8), (2, 0)):
            past = collect_user(history, uid=7, name=None, now_ns=NOW_NS + hours * HOUR_NS, is_past=True)
            why = build_why(None, past, None, is_past=True)
            assert (why["lost"], why["verdict_for_customer"]) == (lost, "unknown" if lost else "not_us")
            assert ("UNKNOWN: 8 attempts of all users lost unseen in the last hour" in why["verdict"]) is bool(lost)
