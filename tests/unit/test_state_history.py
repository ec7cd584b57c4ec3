"""The history as commands ask for it: right, bounded, and harmless whatever names it holds."""

import errno
import os
import queue
import sqlite3
import threading
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from smtpguard.errors import StateError
from smtpguard.model import NS
from smtpguard.settings import DAY_NS, HOUR_NS, MINUTE_NS
from smtpguard.state import desk as desk_module
from smtpguard.state import span as span_module
from smtpguard.state import statements
from smtpguard.state.activity import Tally
from smtpguard.state.columns import Statement
from smtpguard.state.desk import HistoryDesk
from smtpguard.state.event_query import EventQuery
from smtpguard.state.history import History
from smtpguard.state.incident_row import IncidentRow
from smtpguard.state.migrations import VERSION
from smtpguard.state.rows import ChangeRow, VerdictRow
from smtpguard.state.span import Span, Total
from smtpguard.state.store import Store
from smtpguard.state.user_history import MAX_SHOWN, collect_user
from tests.support.past import list_changes, list_events, list_verdicts

NOW_NS = 20_000 * DAY_NS + 12 * 3600 * NS
HOSTILE = "x\udcff'; DROP TABLE verdicts; --"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "odd ?#%" / "state.db"


@pytest.fixture
def store(path: Path) -> Store:
    return Store.open(str(path), boot_id="b", wall_ns=NOW_NS, max_bytes=10**8)


def verdict(uid: int, time_ns: int, name: str = "web") -> VerdictRow:
    return VerdictRow(
        time_ns=time_ns, uid=uid, netns=None, name=name, rule="mx-fanout", count=11, limit=10, window_ns=600 * NS,
        action="block", until_ns=time_ns + 1, mode="enforce", evidence={"connect": {"port": 25}},
    )  # fmt: skip


def change(uid: int | None, time_ns: int, name: str | None = "web") -> ChangeRow:
    return ChangeRow(time_ns=time_ns, uid=uid, name=name, event="block", by="admin", reason=HOSTILE)


def run(store: Store, *rows: Statement) -> None:
    store.run(rows, durable=False)


def test_events_newest_first_within_their_span(store: Store, path: Path) -> None:
    run(
        store,
        *(statements.add(verdict(n % 2, NOW_NS + 2 * n)) for n in range(10)),
        *(statements.add(change(n % 2, NOW_NS + 2 * n + 1)) for n in range(10)),
        statements.add(change(None, NOW_NS + 100, None)),
    )
    with History(str(path)) as past:
        times = [row.time_ns - NOW_NS for row in list_events(past, Span())]
        assert times == [100, *range(19, -1, -1)]
        times = [row.time_ns - NOW_NS for row in list_events(past, Span(since_ns=NOW_NS + 5, until_ns=NOW_NS + 9))]
        assert times == [8, 7, 6, 5]
        assert [row.time_ns - NOW_NS for row in list_events(past, Span(uid=1, limit=3))] == [19, 18, 15]
        assert list_verdicts(past, Span(uid=1, limit=1)) == [
            VerdictRow(**{f: getattr(verdict(1, NOW_NS + 18), f) for f in VerdictRow.__slots__} | {"id": 10})
        ]
        assert list_changes(past, Span(limit=1))[0] == change(None, NOW_NS + 100, None)
        assert list_changes(past, Span(limit=0)) == []
        assert list_changes(past, Span(limit=-5)) == []


def test_a_number_that_is_used_again_shows_nothing_of_its_former_owner(store: Store, path: Path) -> None:
    run(
        store,
        statements.add(verdict(1, NOW_NS, HOSTILE)),
        statements.add(verdict(1, NOW_NS + 1, "new")),
        statements.add(change(1, NOW_NS + 2, HOSTILE)),
    )
    with History(str(path)) as past:
        assert [row.name for row in list_events(past, Span(uid=1, name="new"))] == ["new"]
        assert [row.name for row in list_events(past, Span(uid=1, name=HOSTILE))] == [HOSTILE, HOSTILE]
        assert list_events(past, Span(uid=1, name="")) == []


def test_totals(store: Store, path: Path) -> None:
    tally = Tally()
    for n in range(100):
        tally.add_connect(
            n % 3, wall_ns=NOW_NS + n * MINUTE_NS // 10, address=(n % 5).to_bytes(4, "big"), port=25 if n % 2 else 587,
            script=b"/a" if n % 3 else None, refused=n >= 90,
        )  # fmt: skip
    tally.add_message(7, wall_ns=NOW_NS, recipients=1000)
    run(store, *tally.take())
    with History(str(path)) as past:
        assert past.top_users(Span(limit=2)) == [
            Total(key=7, connects=0, refused=0, messages=1, recipients=1000),
            Total(key=0, connects=34, refused=4),
        ]
        assert [(t.key, t.connects, t.users) for t in past.top_places(Span(), "port")] == [(25, 50, 3), (587, 50, 3)]
        assert [(t.key, t.connects) for t in past.top_places(Span(), "script")] == [(b"/a", 66), (b"", 34)]
        assert len(past.top_places(Span(uid=2), "address")) == 5
        assert past.top_places(Span(until_ns=NOW_NS - DAY_NS), "address") == []
        minutes = past.by_minute(Span(since_ns=NOW_NS + 2 * MINUTE_NS, until_ns=NOW_NS + 4 * MINUTE_NS))
        assert [(int(t.key) - NOW_NS // MINUTE_NS, t.connects) for t in minutes] == [(3, 10), (2, 10)]
        with pytest.raises(KeyError):
            past.top_places(Span(), "uid; DROP TABLE minutes")  # type: ignore[arg-type]


def test_peaks_are_those_of_any_window(store: Store, path: Path) -> None:
    minute = NOW_NS // MINUTE_NS
    for uid, figures in ((1, {0: 5, 1: 5, 9: 7, 10: 1, 11: 1}), (2, {0: 3}), (3, {0: 9, 5: 2})):
        run(
            store,
            *(
                statements.add_minute(minute + at, uid, connects=count + 1, refused=1, messages=0, recipients=0)
                for at, count in figures.items()
            ),
        )
    with History(str(path)) as past:
        assert past.peaks(Span(), 1) == {1: 7, 2: 3, 3: 9}
        assert past.peaks(Span(), 3) == {1: 10, 2: 3, 3: 9}
        assert past.peaks(Span(), 10) == {1: 17, 2: 3, 3: 11}
        assert past.peaks(Span(), 60) == {1: 19, 2: 3, 3: 11}


def test_why_is_bounded_whatever_there_is(store: Store, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[Statement] = []
    for n in range(300):
        rows += [
            statements.add(verdict(1, NOW_NS + n)),
            statements.add(change(1, NOW_NS + n)),
            statements.add_destination(
                NOW_NS // HOUR_NS, 1, n.to_bytes(4, "big"), n, b"%d" % n, first_ns=1, last_ns=1, connects=n, refused=0
            ),
            statements.add_minute(n, 1, connects=1, refused=0, messages=0, recipients=0),
            statements.put(
                IncidentRow(
                    uid=1, netns=None, name="web", first_ns=n, last_ns=NOW_NS, verdicts=1, connects=1, refused=0,
                    peak_per_minute=1, destinations=1,
                )
            , ""),
        ]  # fmt: skip
    run(store, *rows)
    with History(str(path)) as past:
        known = collect_user(past, uid=1, name=None, now_ns=NOW_NS + 1000)
        assert [len(known[part]) for part in ("events", "destinations", "scripts")] == [MAX_SHOWN] * 3
        assert known["scripts"][0]["script"] == "299"
        assert collect_user(past, uid=2, name=None, now_ns=NOW_NS)["events"] == []
        monkeypatch.setattr(span_module, "MAX_ROWS", 50)
        assert len(list_verdicts(past, Span(limit=10**9))) == 50


def test_it_reads_beside_a_writer_and_never_writes(store: Store, path: Path) -> None:
    with History(str(path)) as past:
        store.run([statements.add(change(1, NOW_NS))], durable=True)
        assert len(list_changes(past, Span())) == 1
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            past._connection.execute("DELETE FROM changes")
    store.close()
    with History(str(path)) as past:
        assert len(list_changes(past, Span())) == 1


def test_what_can_not_be_read(path: Path) -> None:
    with pytest.raises(StateError, match="no history yet"):
        History(str(path))
    assert not path.exists()
    path.parent.mkdir()
    path.write_bytes(b"x" * 5000)
    with pytest.raises(StateError, match="not a database"):
        History(str(path))
    path.write_bytes(b"")
    with pytest.raises(StateError, match="older"):
        History(str(path))


def test_a_newer_file_is_passed_by_for_the_one_beside_it(store: Store, path: Path) -> None:
    store.close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(StateError):
        History(str(path))
    beside = Store.open(str(path), boot_id="b", wall_ns=NOW_NS, max_bytes=10**8)
    assert beside.path.endswith(f".v{VERSION}")
    beside.run([statements.add(change(1, NOW_NS))], durable=True)
    with History(str(path)) as past:
        assert len(list_changes(past, Span())) == 1


def test_a_look_that_takes_too_long_is_given_up(store: Store, path: Path) -> None:
    rows: list[Statement] = []
    for n in range(5000):
        rows += [
            statements.add(change(n, NOW_NS)),
            statements.add_minute(n, n, connects=1, refused=0, messages=0, recipients=0),
        ]
    run(store, *rows)
    with History(str(path), timeout_s=0) as past:
        with pytest.raises(StateError, match="took longer than 0 s"):
            list_changes(past, Span())
        with pytest.raises(StateError, match="took longer than 0 s"):
            past.peaks(Span(), 5)


def test_the_desk_answers_without_anybody_waiting(store: Store, path: Path) -> None:
    run(store, statements.add(change(1, NOW_NS)))
    desk = HistoryDesk(str(path))
    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
    begun, free = threading.Event(), threading.Event()

    def hang(past: History) -> int:
        begun.set()
        assert free.wait(60)
        return len(list_changes(past, Span()))

    desk.ask(hang, answers.put)
    assert begun.wait(60)
    for _ in range(desk_module.MAX_WAITING):
        desk.ask(lambda past: list_changes(past, Span())[0].uid, answers.put)
    with pytest.raises(StateError, match="too many"):
        desk.ask(hang, answers.put)
    free.set()
    assert [answers.get(timeout=60) for _ in range(desk_module.MAX_WAITING + 1)] == [1] * (desk_module.MAX_WAITING + 1)

    def fail(past: History) -> None:
        raise StateError("no", where=str(past))

    desk.ask(fail, answers.put)
    assert isinstance(answers.get(timeout=60), StateError)
    desk.ask(lambda past: len(list_changes(past, Span())), answers.put)
    assert answers.get(timeout=60) == 1
    desk.close(60)
    assert not any(thread.name == "history" for thread in threading.enumerate())


def test_a_mistake_in_a_question_is_told_to_who_asked_and_to_who_watches_threads(
    store: Store, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(store, statements.add(change(1, NOW_NS)))
    seen: queue.SimpleQueue[type] = queue.SimpleQueue()
    monkeypatch.setattr(threading, "excepthook", lambda said: seen.put(said.exc_type))
    desk = HistoryDesk(str(path))
    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
    desk.ask(lambda past: past.find_incidents(EventQuery(span=Span(until_ns=1 << 63)), is_open=False), answers.put)
    assert "by a mistake of smtpguard's own" in str(answers.get(timeout=60))
    assert seen.get(timeout=60) is OverflowError
    desk.ask(lambda past: len(list_changes(past, Span())), answers.put)
    assert answers.get(timeout=60) == 1
    desk.close(60)


def test_what_was_asked_while_a_mistake_ends_the_thread_is_answered_too(
    store: Store, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Be it in the queue already, or asked for while the thread is on its way out."""
    run(store, statements.add(change(1, NOW_NS)))
    desk = HistoryDesk(str(path))
    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
    died: queue.SimpleQueue[type] = queue.SimpleQueue()
    free = threading.Event()

    def ask_in_the_last_moment(said: threading.ExceptHookArgs) -> None:
        desk.ask(lambda past: len(list_changes(past, Span())), answers.put)
        died.put(said.exc_type)

    def err(past: History) -> int:
        assert free.wait(60)
        return len(list_changes(past, Span())) // 0

    monkeypatch.setattr(threading, "excepthook", ask_in_the_last_moment)
    desk.ask(err, answers.put)
    desk.ask(err, answers.put)
    desk.ask(lambda past: list_changes(past, Span())[0].uid, answers.put)
    free.set()
    told = [answers.get(timeout=60) for _ in range(5)]
    assert sum(isinstance(answer, StateError) for answer in told) == 2
    assert [answer for answer in told if not isinstance(answer, StateError)] == [1] * 3
    assert [died.get(timeout=60) for _ in range(2)] == [ZeroDivisionError] * 2
    desk.close(60)


def test_a_disk_that_fails_is_told_too(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the kernel says of the file: who asked hears of it."""
    disk = Mock(side_effect=OSError(errno.EIO, os.strerror(errno.EIO)))
    desk = HistoryDesk(str(path))
    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
    with monkeypatch.context() as broken:
        broken.setattr("smtpguard.state.history.Path", lambda _: Mock(stat=disk))
        desk.ask(lambda past: list_changes(past, Span()), answers.put)
        assert "can't be read: Input/output error" in str(answers.get(timeout=60))
    desk.close(60)


def test_the_desk_without_a_file_says_so_and_sees_a_new_one(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk_module, "IDLE_S", 0.001)
    desk = HistoryDesk(str(path))
    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
    desk.ask(lambda past: list_changes(past, Span()), answers.put)
    assert isinstance(answers.get(timeout=60), StateError)
    made = Store.open(str(path), boot_id="b", wall_ns=NOW_NS, max_bytes=10**8)
    desk.ask(lambda past: list_changes(past, Span()), answers.put)
    assert answers.get(timeout=60) == []
    made.close()
    desk.close(60)
