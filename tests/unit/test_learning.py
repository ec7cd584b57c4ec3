"""`novel` learns first: since when it is known who sends, what logs of before add, and what the engine makes of it."""

import json
import sqlite3
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import pytest

from smtpguard.clock import WallMap
from smtpguard.daemon.record.learning_period import WRITE_NS, LearningPeriod
from smtpguard.daemon.startup.instance_lock import InstanceLock
from smtpguard.errors import BusyError, StateError
from smtpguard.model import NS, Connect, Verdict
from smtpguard.policy.history import MAX_GAP_NS, MAX_SPANS, Span, add_spans, known_since, watched_since
from smtpguard.settings import DAY_NS, HOUR_NS, Rule, Settings
from smtpguard.standalone.learn import Learner, open_for_learning
from smtpguard.state.learned import LEARNED, WATCHED, read_spans, render_spans
from smtpguard.state.rows import FactRow
from tests.support.policy import BURST, T0, WEB, connect, engine_of, feed, only
from tests.support.zone import local_zone

_zone = local_zone("UTC")

RULE = replace(BURST, name="newcomer", action="warn", limit=0, novel_ns=30 * DAY_NS)
SETTINGS = Settings(dry_run=False, rules=(RULE,))
NOW = 1_790_000_000 * NS


# Spans


@pytest.mark.parametrize(
    ("spans", "joined"),
    [
        ([], ()),
        ([(5, 9), (1, 2)], ((1, 9),)),
        ([(0, 1), (MAX_GAP_NS + 1, MAX_GAP_NS + 2)], ((0, MAX_GAP_NS + 2),)),
        ([(0, 1), (MAX_GAP_NS + 2, MAX_GAP_NS + 3)], ((0, 1), (MAX_GAP_NS + 2, MAX_GAP_NS + 3))),
        ([(0, 100), (5, 6)], ((0, 100),)),
    ],
)
def test_spans_are_joined_over_a_day_and_no_more(spans: list[Span], joined: tuple[Span, ...]) -> None:
    assert add_spans((), spans) == joined


def test_spans_are_bounded() -> None:
    many = [(n * 3 * DAY_NS, n * 3 * DAY_NS + 1) for n in range(2 * MAX_SPANS)]
    assert add_spans((), many) == tuple(many[-MAX_SPANS:])


@pytest.mark.parametrize(
    ("watched", "learned", "since"),
    [
        (100 * DAY_NS, [], 100 * DAY_NS),
        (100 * DAY_NS, [(70 * DAY_NS, 100 * DAY_NS)], 70 * DAY_NS),
        (100 * DAY_NS, [(70 * DAY_NS, 99 * DAY_NS)], 70 * DAY_NS),
        (100 * DAY_NS, [(70 * DAY_NS, 98 * DAY_NS)], 100 * DAY_NS),
        (100 * DAY_NS, [(60 * DAY_NS, 80 * DAY_NS), (81 * DAY_NS, 100 * DAY_NS)], 60 * DAY_NS),
        (100 * DAY_NS, [(60 * DAY_NS, 70 * DAY_NS), (80 * DAY_NS, 100 * DAY_NS)], 80 * DAY_NS),
        (100 * DAY_NS, [(120 * DAY_NS, 130 * DAY_NS)], 100 * DAY_NS),
    ],
)
def test_logs_count_as_far_as_they_lead_up_to_the_guards_own_watching(
    watched: int, learned: list[Span], since: int
) -> None:
    assert known_since(watched, learned) == since


def test_a_pause_of_more_than_a_day_begins_anew() -> None:
    assert watched_since([(5, 10)], 10 + MAX_GAP_NS) == 5
    assert watched_since([(5, 10)], 11 + MAX_GAP_NS) == 11 + MAX_GAP_NS
    assert watched_since([], 7) == 7
    assert watched_since([(50, 60)], 7) == 7, "of the future"


@pytest.mark.parametrize(
    "text", ["", "{", "5", "[[1]]", '[["a", 1]]', "[[true, 5]]", "[[-1, 5]]", "[[5, 1]]", "[" * 99999]
)
def test_facts_that_are_no_spans_are_none(text: str) -> None:
    assert read_spans({"x": text}, "x") == ()
    assert read_spans({}, "x") == ()
    assert read_spans({"x": render_spans(((1, 2),))}, "x") == ((1, 2),)


# The engine


def test_nobody_is_a_newcomer_before_the_guard_has_watched_for_the_whole_span() -> None:
    engine = engine_of(RULE)
    engine.memory.know_since(T0)
    day_s = 86_400
    assert not only(Verdict, feed(engine, [n * day_s for n in range(29)], uid=WEB))
    assert not only(Verdict, feed(engine, [30 * day_s - 1], uid=1002)), "everybody would be one"
    assert only(Verdict, feed(engine, [30 * day_s], uid=1003)), "from now on it is known"
    assert not only(Verdict, feed(engine, [30 * day_s + 1], uid=1002)), "who came while it learned is none"
    assert not only(Verdict, feed(engine, [31 * day_s], uid=WEB))


# The daemon's part


class Facts:
    def __init__(self) -> None:
        self.facts: dict[str, str] = {}
        self.puts = 0

    def put(self, row: FactRow) -> None:
        self.facts[row.name] = row.value
        self.puts += 1


class Clock:
    """Event time is wall time here, unless the wall clock is set."""

    def __init__(self) -> None:
        self.now_ns, self.ahead_ns = NOW, 0

    def boot_ns(self) -> int:
        return self.now_ns

    def wall_ns(self) -> int:
        return self.now_ns + self.ahead_ns


class Watching:
    """A guard's part that learns, over restarts."""

    def __init__(self) -> None:
        self.clock, self.facts, self.sees = Clock(), Facts(), True
        self.start()

    def start(self, seen: dict[tuple[int, int], int] | None = None) -> None:
        self.engine = engine_of(RULE)
        wall = WallMap(self.clock)  # type: ignore[arg-type]  # as much of a clock as it reads
        self.learning_period = LearningPeriod(self.engine, self.facts, wall, lambda: self.sees)
        self.learning_period.restore(self.facts.facts, seen or {}, self.clock.now_ns)

    def spend(self, days: float) -> None:
        end_ns = self.clock.now_ns + round(days * DAY_NS)
        while self.clock.now_ns < end_ns:
            self.clock.now_ns += HOUR_NS
            self.learning_period.on_time(self.clock.now_ns)

    def says(self, uid: int) -> bool:
        attempt = connect((self.clock.now_ns - T0) / NS, uid)
        return bool(only(Verdict, self.engine.feed(attempt)))

    def silent(self) -> bool:
        return bool(self.learning_period.waiting(SETTINGS, self.clock.now_ns))


@pytest.fixture
def watching() -> Watching:
    return Watching()


def test_it_learns_for_the_rules_span_over_restarts(watching: Watching) -> None:
    watching.spend(20)
    assert watching.silent()
    assert not watching.says(1)
    assert "newcomer until 2026-10-21" in str(watching.learning_period.render(SETTINGS, watching.clock.now_ns))
    watching.start()  # as after SIGKILL: with what was written down
    watching.spend(9.9)
    assert watching.silent()
    watching.spend(0.2)
    assert not watching.silent()
    assert watching.learning_period.render(SETTINGS, watching.clock.now_ns) is None
    assert watching.says(2)


def test_a_day_off_is_fine_and_two_begin_anew(watching: Watching) -> None:
    watching.spend(31)
    watching.clock.now_ns += 23 * HOUR_NS
    watching.start()
    assert not watching.silent()
    watching.clock.now_ns += 25 * HOUR_NS
    watching.start()
    assert watching.silent()
    assert not watching.says(3)


def test_blind_days_are_not_watched(watching: Watching) -> None:
    watching.spend(31)
    watching.sees = False
    watching.spend(2)
    watching.sees = True
    watching.spend(0.1)
    assert watching.silent()


def test_it_is_written_down_now_and_then_only(watching: Watching) -> None:
    for _ in range(3600):
        watching.clock.now_ns += NS
        watching.learning_period.on_time(watching.clock.now_ns)
    assert watching.facts.puts <= 3600 * NS // WRITE_NS + 1


def test_a_clock_that_is_set_changes_no_length(watching: Watching) -> None:
    watching.spend(20)
    watching.clock.ahead_ns = 40 * DAY_NS
    watching.learning_period._wall.refresh()
    watching.learning_period.clock_was_set(40 * DAY_NS)
    assert watching.silent()
    watching.spend(10.1)
    assert not watching.silent()


def test_what_logs_tell_is_known_at_once_and_after_a_restart(watching: Watching) -> None:
    watching.spend(0.1)
    first_ns = NOW - 31 * DAY_NS
    seen = {(7, 25): NOW - DAY_NS}
    watching.learning_period.learn([(first_ns, NOW)], seen)
    assert not watching.silent()
    assert not watching.says(7)
    assert watching.says(8)
    watching.start(seen)
    assert not watching.silent()
    assert not watching.says(7)
    assert watching.says(9)


def test_the_state_that_is_read_late_shortens_it(watching: Watching) -> None:
    watching.spend(31)
    kept = dict(watching.facts.facts)
    watching.facts.facts = {}
    watching.start()
    assert watching.silent()
    watching.learning_period.restore(kept, {}, watching.clock.now_ns)
    assert not watching.silent()


# Logs


def attempt(at_ns: int, uid: int = 5001, **changes: object) -> Connect:
    values: dict[str, object] = {"port": 25, "address": bytes([192, 0, 2, 1]), "sensor": "replay", **changes}
    return Connect(time_ns=at_ns, uid=uid, **values)  # type: ignore[arg-type]


class State:
    """A state file, and runs of the learner over it."""

    def __init__(self, directory: Path, wall_ns: int = NOW) -> None:
        self.settings = replace(SETTINGS, state_path=str(directory / "s" / "state.db"), nft_table="learning_test")
        self.wall_ns = wall_ns

    def learn(self, *connects: Connect) -> Learner:
        with open_for_learning(self.settings, wall_ns=self.wall_ns) as state:
            learner = Learner(self.settings, state, wall_ns=self.wall_ns, node="host.example")
            learner.take(connects)
            learner.write()
        return learner

    def read(self, what: str) -> list[tuple[int, ...]]:
        with closing(sqlite3.connect(self.settings.state_path)) as state:
            return state.execute(what).fetchall()

    def total(self) -> int:
        return self.read("SELECT coalesce(sum(connects), 0) FROM minutes")[0][0]


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> State:
    lock = partial(InstanceLock, directory=str(tmp_path / "lock"))
    monkeypatch.setattr("smtpguard.standalone.learn.InstanceLock", lock)
    return State(tmp_path)


def test_logs_fill_who_was_seen_and_what_is_usual(state: State) -> None:
    first = NOW - 10 * DAY_NS
    learner = state.learn(*(attempt(first + n * HOUR_NS, 5001 + n % 2) for n in range(200)))
    assert (learner.learned.connects, learner.learned.users) == (200, 2)
    assert learner.learned.spans == ((first, first + 199 * HOUR_NS),)
    assert state.read("SELECT * FROM seen ORDER BY uid") == [
        (5001, 25, first + 198 * HOUR_NS),
        (5002, 25, first + 199 * HOUR_NS),
    ]
    assert state.total() == 200
    assert state.read("SELECT sum(connects) FROM destinations") == [(200,)]
    assert set(learner.waiting()) == {"newcomer"}


def test_the_same_log_counts_once_whatever_it_is_called_and_nothing_gets_older(state: State) -> None:
    first = NOW - 20 * DAY_NS
    log = [attempt(first + n * HOUR_NS) for n in range(100)]
    state.learn(*log)
    again = state.learn(*log)
    assert (again.learned.connects, again.learned.known) == (0, 100)
    older = state.learn(*(attempt(first - n * HOUR_NS) for n in range(1, 50)))
    assert older.learned.connects == 49
    assert state.total() == 149
    assert state.read("SELECT last_ns FROM seen") == [(first + 99 * HOUR_NS,)], "the newest stays"
    part = state.learn(*log[50:], attempt(first + 101 * HOUR_NS))
    assert (part.learned.connects, part.learned.known) == (1, 50)


def test_lines_in_any_order_make_one_span(state: State) -> None:
    first = NOW - 20 * DAY_NS
    learner = state.learn(*(attempt(first + hours * HOUR_NS) for hours in (0, 9, 5, 9)))
    assert learner.learned.spans == ((first, first + 9 * HOUR_NS),)
    assert learner.learned.connects == 4


def test_a_run_that_was_interrupted_is_repeated(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smtpguard.standalone.learn.STEP", 10)
    first = NOW - 20 * DAY_NS
    log = [attempt(first + n * HOUR_NS) for n in range(35)]
    with open_for_learning(state.settings, wall_ns=NOW) as file:
        Learner(state.settings, file, wall_ns=NOW, node=None).take(log)  # and never write()
    assert state.total() == 30
    assert state.learn(*log).learned.connects == 5
    assert state.total() == 35


def test_what_the_guard_has_watched_itself_is_left_out(state: State) -> None:
    state.learn()
    with closing(sqlite3.connect(state.settings.state_path)) as file:
        spans = json.dumps([[NOW - DAY_NS, NOW - 60 * NS]])
        file.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (WATCHED, spans.encode()))
        file.commit()
    learner = state.learn(attempt(NOW - 2 * DAY_NS), attempt(NOW - HOUR_NS), attempt(NOW - NS))
    assert (learner.learned.connects, learner.learned.known) == (1, 2)


def test_what_does_not_concern_this_host_is_left_out(state: State) -> None:
    at_ns = NOW - DAY_NS
    learner = state.learn(
        attempt(at_ns),
        attempt(at_ns + 1, node=b"host"),
        attempt(at_ns + 2, node=b"other"),
        attempt(at_ns + 3, 0, user=b"web01"),  # root, by another name
        attempt(at_ns + 4, address=bytes([127, 0, 0, 1])),
        attempt(NOW - 31 * DAY_NS),
        attempt(NOW + 1),
        replace(attempt(at_ns + 5), uid=None),
    )
    found = learner.learned
    assert (found.connects, found.foreign, found.strangers, found.old, found.future) == (2, 1, 2, 1, 1)
    assert found.hosts == {b"other"}


def test_refused_attempts_make_nobody_seen(state: State) -> None:
    learner = state.learn(attempt(NOW - DAY_NS, result="refused", refused_by="block"))
    assert learner.learned.seen == {}
    assert state.read("SELECT connects, refused FROM minutes") == [(1, 1)]


def test_who_is_remembered_is_bounded(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smtpguard.standalone.learn.MAX_SEEN", 10)
    learner = state.learn(*(attempt(NOW - DAY_NS + n, 6000 + n) for n in range(30)))
    assert len(learner.learned.seen) == 10


def test_another_versions_state_is_not_touched(state: State) -> None:
    state.learn()
    with closing(sqlite3.connect(state.settings.state_path)) as file:
        file.execute("PRAGMA user_version = 99")
    with pytest.raises(StateError, match="newer smtpguard"):
        state.learn(attempt(NOW - DAY_NS))


def test_a_months_log_lets_the_rule_speak(state: State) -> None:
    learner = state.learn(*(attempt(NOW - n * HOUR_NS) for n in reversed(range(1, 30 * 24))), attempt(NOW - 1))
    assert set(learner.waiting()) == {"newcomer"}, "an hour is missing"
    state.wall_ns += HOUR_NS
    assert state.learn(attempt(NOW + 1)).waiting() == {}
    assert read_spans({LEARNED: state.read("SELECT value FROM facts WHERE name = 'learned'")[0][0].decode()}, LEARNED)  # type: ignore[attr-defined]


def test_a_rule_without_the_past_waits_for_nothing() -> None:
    watching = Watching()
    settings = replace(SETTINGS, rules=(Rule(name="x", count="connections", limit=1, window_ns=NS),))
    assert watching.learning_period.waiting(settings, NOW) == {}


def test_a_state_that_can_not_be_written_keeps_nothing_of_the_step(state: State) -> None:
    with open_for_learning(state.settings, wall_ns=NOW) as file:
        learner = Learner(state.settings, file, wall_ns=NOW, node=None)
        assert learner.novel_rules() == ["newcomer"]
        learner.take([attempt(NOW - DAY_NS)])
        file.execute("CREATE TRIGGER broken BEFORE INSERT ON facts BEGIN SELECT RAISE(ABORT, 'is broken'); END")
        with pytest.raises(StateError, match="can't be written: is broken"):
            learner.write()
        assert not file.in_transaction
    assert state.total() == 0
    with open_for_learning(state.settings, wall_ns=NOW) as file:
        learner = Learner(state.settings, file, wall_ns=NOW, node=None)
        learner.take([attempt(NOW - DAY_NS)])
        file.execute("BEGIN")  # as another process that has it
        with pytest.raises(StateError, match="can't be written: cannot start a transaction"):
            learner.write()
    assert state.total() == 0


@pytest.mark.parametrize("what", ["a link", "a folder", "no database", "another version", "nothing"])
def test_beside_a_guard_its_file_has_to_be_one_that_it_uses(
    what: str, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    state.learn()
    path = Path(state.settings.state_path)
    if what == "another version":
        with closing(sqlite3.connect(path)) as file:
            file.execute("PRAGMA user_version = 1")
    else:
        for left in path.parent.glob("state.db*"):
            left.unlink()
    if what == "a link":
        path.symlink_to("/etc/passwd")
    elif what == "a folder":
        path.mkdir()
    elif what == "no database":
        path.write_text("nothing of ours" * 100)
    monkeypatch.setattr("smtpguard.standalone.learn.InstanceLock", Mock(side_effect=BusyError("another guard")))
    words = {"another version": "is of another version", "no database": "can't be read: file is not a database"}
    with pytest.raises(StateError, match=words.get(what, "not a plain file of ours|can't be opened")):
        state.learn()


@pytest.mark.parametrize("value", [5, 1 << 40, "[[1, 2]]", 1.5])
def test_a_fact_of_another_kind_is_none(state: State, value: object) -> None:
    """A number of bytes is so many of them, a terabyte if the disk says so."""
    first = NOW - 10 * DAY_NS
    state.learn(attempt(first, 5001))
    with closing(sqlite3.connect(state.settings.state_path)) as file:
        file.execute("UPDATE facts SET value = ?", (value,))
        file.commit()
    assert state.learn(attempt(first + HOUR_NS, 5002)).learned.connects == 1
