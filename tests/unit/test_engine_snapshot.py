"""Windows survive a restart: what was exported comes back, in parts that are small and few."""

import json
from dataclasses import replace

import pytest

from smtpguard.model import NS, Block, Decision, Subject, Verdict
from smtpguard.policy.engine import Engine
from smtpguard.policy.window_export import SEGMENT, WindowPart
from smtpguard.policy.window_restore import StoredPart
from smtpguard.settings import DAY_NS, HOUR_NS, Rule
from tests.support.policy import BURST, T0, WEB, People, connect, engine_of, feed, only, person
from tests.unit.test_engine_outcomes import BYTES, FAILURES, report, tell

LONG = Rule(name="long", count="connections", limit=5000, window_ns=DAY_NS, action="throttle")
FANOUT = Rule(name="fanout", count="networks", limit=2, window_ns=HOUR_NS, ports=frozenset({25}))


class Store:
    """What the state file does with parts: the latest bytes of each, or none."""

    def __init__(self) -> None:
        self.rows: dict[tuple[Subject, str], bytes] = {}

    def keep(self, parts: list[WindowPart]) -> int:
        for part in parts:
            if part.data is None:
                self.rows.pop((part.subject, part.part), None)
            else:
                self.rows[part.subject, part.part] = part.data
        return sum(len(part.data or b"") for part in parts)

    def stored(self, shift_ns: int = 0) -> list[StoredPart]:
        return [
            StoredPart(part=WindowPart(subject=subject, part=part, data=data), shift_ns=shift_ns)
            for (subject, part), data in self.rows.items()
        ]


def restarted(engine: Engine, new: Engine, now_s: float, store: Store | None = None) -> Engine:
    store = store or Store()
    store.keep(engine.memory.export())
    assert new.memory.restore_windows(store.stored(), T0 + round(now_s * NS)) == 0
    for block in engine.blocks():
        new.commands.add_block(block)
    return new


def test_counting_goes_on_after_a_restart() -> None:
    rules = (BURST, FANOUT, BYTES, FAILURES)
    engine = engine_of(*rules)
    feed(engine, (0, 1, 2))
    feed(engine, [0], uid=1002)
    feed(engine, [0], uid=1002, address=bytes([192, 0, 3, 1]))
    tell(engine, [report(0, "open", 900, uid=1003), *[report(n, uid=1004) for n in range(3)]])
    new = restarted(engine, engine_of(*rules), 3)
    assert [v.rule for v in only(Verdict, feed(new, [3]))] == ["burst"]
    assert [v.rule for v in only(Verdict, feed(new, [3], uid=1002, address=bytes([192, 0, 4, 1])))] == ["fanout"]
    assert [v.rule for v in only(Verdict, tell(new, [report(3, "open", 101, uid=1003, cookie=5)]))] == ["volume"]
    assert [v.rule for v in only(Verdict, tell(new, [report(3, uid=1004)]))] == ["scan"]


def test_networks_count_though_the_times_beside_them_are_lost() -> None:
    engine, store = engine_of(FANOUT), Store()
    for number in range(2):
        feed(engine, [number], address=bytes([192, 0, number, 1]))
    store.keep(engine.memory.export())
    store.rows = {key: data for key, data in store.rows.items() if "/t/" not in key[1]}
    new = engine_of(FANOUT)
    assert new.memory.restore_windows(store.stored(), T0 + 3 * NS) == 0
    assert [v.count for v in only(Verdict, feed(new, [3], address=bytes([192, 0, 9, 1])))] == [3]


def test_what_was_told_and_emptied_is_not_forgotten() -> None:
    warn = replace(BURST, name="warn", action="warn", limit=1)
    engine = engine_of(replace(BURST, block_ns=NS), warn)
    out = feed(engine, (0, 1, 2, 3))  # warn told at 1; burst's verdict at 3 empties its window
    assert [v.rule for v in only(Verdict, out)] == ["warn", "burst"]
    new = restarted(engine, engine_of(replace(BURST, block_ns=NS), warn), 5)
    assert feed(new, (5, 6, 7)) == []
    out = feed(new, [8])
    assert [v.rule for v in only(Verdict, out)] == ["burst"]
    assert [block.level for block in only(Block, out)] == [1]


def test_what_was_told_is_not_told_again_after_a_restart() -> None:
    warn = replace(BURST, action="warn", limit=1)
    engine = engine_of(warn)
    assert only(Verdict, feed(engine, (0, 50)))
    new = restarted(engine, engine_of(warn), 60)
    assert feed(new, [61]) == []  # it rises again, 11 s after it was told
    assert only(Verdict, feed(new, (111, 112)))


def test_events_shift_with_the_clock() -> None:
    engine, store = engine_of(BURST), Store()
    feed(engine, (0, 1, 2))
    store.keep(engine.memory.export())
    new = engine_of(BURST)
    assert new.memory.restore_windows(store.stored(shift_ns=-T0), 3 * NS) == 0  # a reboot: event time began anew
    [verdict] = only(Verdict, new.feed(replace(connect(0), time_ns=3 * NS)))
    assert verdict.time_ns == 3 * NS


def test_nothing_comes_back_from_the_future() -> None:
    engine, store = engine_of(BURST), Store()
    feed(engine, (0, 1, 2))
    store.keep(engine.memory.export())
    new = engine_of(BURST)
    new.memory.restore_windows(store.stored(shift_ns=HOUR_NS), T0 + 3 * NS)  # the clock was set back while we were gone
    assert feed(new, (3, 4, 5)) == []


def test_export_is_incremental_and_small() -> None:
    engine, store = engine_of(LONG), Store()
    for n in range(4000):
        engine.feed(connect(n))
    assert store.keep(engine.memory.export()) > 4000 * 8
    assert engine.memory.export() == []
    engine.feed(connect(4001))
    assert 0 < store.keep(engine.memory.export()) <= (SEGMENT + 1) * 8 + 300
    new = restarted(engine, engine_of(LONG), 4002, store)
    assert [len(times) for _, _, times in new.exact.windows()] == [4001]
    assert new.memory.export() == [] or Store().keep(new.memory.export()) < 100_000


def test_idle_subjects_cost_exports_nothing() -> None:
    engine = engine_of(BURST)
    feed(engine, (0, 1))
    engine.memory.export()
    for _ in range(70):
        assert engine.memory.export() == []
    assert not engine._roster.active
    feed(engine, [2])
    assert len(engine.memory.export()) == 1


def test_late_attempt_is_exported_too() -> None:
    engine, store = engine_of(BURST), Store()
    feed(engine, (0, 20))
    store.keep(engine.memory.export())
    feed(engine, [10])
    store.keep(engine.memory.export())
    new = restarted(engine, engine_of(BURST), 21, store)
    assert [times for _, _, times in new.exact.windows()] == [[T0, T0 + 10 * NS, T0 + 20 * NS]]


def test_full_export_after_the_file_was_lost() -> None:
    engine = engine_of(BURST)
    for uid in range(1000, 1010):
        feed(engine, (0, 1, 2), uid=uid)
    engine.memory.export()
    new = engine_of(BURST)
    assert (
        new.memory.restore_windows([StoredPart(part=part) for part in engine.memory.export(full=True)], T0 + 3 * NS)
        == 0
    )
    assert len(only(Verdict, [d for uid in range(1000, 1010) for d in feed(new, [3], uid=uid)])) == 10


def test_trimmed_and_dropped_windows_leave_the_store() -> None:
    rule = replace(LONG, limit=10, window_ns=60 * NS, action="warn")
    engine, store = engine_of(rule), Store()
    for n in range(10_000):
        engine.feed(connect(n * 30))
        if n % 100 == 0:
            store.keep(engine.memory.export())
    store.keep(engine.memory.export())
    assert len([part for _, part in store.rows if "/t/" in part]) <= 2
    for _ in range(3):
        engine.tick(T0 + 30 * DAY_NS)
        engine.tick(T0 + 31 * DAY_NS)
    store.keep(engine.memory.export())
    assert store.rows == {}
    assert engine.stats().subjects == 0


def test_restart_under_another_mode_keeps_the_count() -> None:
    engine = engine_of(BURST, dry_run=True)
    feed(engine, (0, 1, 2))
    assert [v.mode for v in only(Verdict, feed(restarted(engine, engine_of(BURST), 3), [3]))] == ["enforce"]


def test_rule_that_is_new_begins_empty() -> None:
    engine = engine_of(BURST)
    feed(engine, (0, 1))
    new = restarted(engine, engine_of(BURST, replace(BURST, name="new", limit=1)), 2)
    assert feed(new, [3]) == []
    assert [v.rule for v in only(Verdict, feed(new, [4]))] == ["burst", "new"]


def test_uid_of_another_name_gets_nothing_back() -> None:
    engine, store = engine_of(BURST), Store()
    feed(engine, (0, 1, 2))
    store.keep(engine.memory.export())
    new = engine_of(BURST, people=People([person(WEB, "tenant", "new-owner")]))
    new.memory.restore_windows(store.stored(), T0 + 3 * NS)
    assert feed(new, (3, 4, 5)) == []
    store.keep([part for part in new.memory.export() if part.data is None])
    assert all(b"u1001" not in data for data in store.rows.values())


def test_novelty_survives() -> None:
    rule = replace(BURST, name="newcomer", action="warn", limit=1, novel_ns=30 * DAY_NS)
    engine = engine_of(rule)
    assert len(only(Verdict, feed(engine, (0, 1)))) == 1
    new = restarted(engine, engine_of(rule), 100)
    assert len(only(Verdict, feed(new, (100, 101)))) == 1  # still a newcomer today
    later = restarted(new, engine_of(rule), 3 * 86_400)
    assert feed(later, (3 * 86_400, 3 * 86_400 + 1)) == []


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff" * 7,
        b"{}",
        b"[1, 2]",
        b"null",
        json.dumps({"name": 5, "seen": [], "records": 3, "counters": [[1]]}).encode(),
        b"\x00" * 8 + b"\x01",
    ],
)
def test_garbage_is_counted_and_left_out(data: bytes) -> None:
    engine, store = engine_of(BURST, FANOUT, BYTES, FAILURES), Store()
    feed(engine, (0, 1, 2))
    tell(engine, [report(0, "open", 900), report(1)])
    store.keep(engine.memory.export())
    for key in list(store.rows):
        broken = Store()
        broken.rows = {**store.rows, key: data, (Subject(id=5), "zzz"): data, (Subject(id=6), "a/b/c/d/e/f"): data}
        new = engine_of(BURST, FANOUT, BYTES, FAILURES)
        assert new.memory.restore_windows(broken.stored(), T0 + 3 * NS) >= 2
        decisions: list[Decision] = feed(new, (3, 4, 5, 6, 7))
        assert only(Verdict, decisions)


def test_what_was_counted_on_a_second_port_comes_back() -> None:
    """Its rules began to count after what is known of rules was written: they were taken for new ones, and emptied."""
    submission = replace(BURST, name="submission", ports=frozenset({587}))
    engine, store = engine_of(submission), Store()
    feed(engine, [0])
    store.keep(engine.memory.export())
    feed(engine, (1, 2, 3), port=587)
    again = restarted(engine, engine_of(submission), 4, store)
    assert only(Verdict, feed(again, [5], port=587))


def test_what_was_told_of_attempts_that_were_all_refused_is_not_told_again() -> None:
    rules = (replace(BURST, name="told", action="warn", limit=0), replace(BURST, limit=0, action="throttle"))
    engine = engine_of(*rules)
    assert [verdict.rule for verdict in only(Verdict, feed(engine, [0]))] == ["told", "burst"]
    again = restarted(engine, engine_of(*rules), 1)
    assert [verdict.rule for verdict in only(Verdict, feed(again, [61]))] == ["told", "burst"]
    engine = engine_of(rules[0], replace(rules[1], window_ns=5 * NS))
    feed(engine, [0])
    again = restarted(engine, engine_of(rules[0], replace(rules[1], window_ns=5 * NS)), 1)
    assert [verdict.rule for verdict in only(Verdict, feed(again, [6]))] == ["burst"]


def test_windows_that_were_empty_beside_others_come_back_empty() -> None:
    rules = (
        replace(BURST, name="dry", limit=0, action="throttle", dry_run=True),
        replace(BURST, name="earnest", limit=9),
    )
    engine = engine_of(*rules)
    feed(engine, (0, 30, 40))
    for again in (engine, restarted(engine, engine_of(*rules), 50)):
        (verdict,) = only(Verdict, feed(again, [61]))
        assert (verdict.rule, verdict.count) == ("dry", 1)
