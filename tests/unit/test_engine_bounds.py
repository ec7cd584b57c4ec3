"""What a tenant can make the engine hold, and whom that may cost: that tenant."""

from dataclasses import replace

from smtpguard.model import NS, Account, Refusal, Subject, Verdict
from smtpguard.policy.engine import Engine
from smtpguard.policy.roster import Limits
from smtpguard.settings import DAY_NS, HOUR_NS, Rule
from tests.support.policy import BURST, T0, WEB, People, connect, engine_of, feed, only

SMALL = Limits(accounts=40, nameless=20, foreign=30, per_netns=12, per_uid=4, times=4000, keys=2000)


class Known(People):
    """Uids from 1000 to 1999 have accounts, others have no name."""

    def account(self, uid: int) -> Account:
        return super().account(uid) if 1000 <= uid < 2000 else Account(uid=uid, name=None, standing="tenant")


def small(*rules: Rule) -> Engine:
    return engine_of(*rules, people=Known(), limits=SMALL)


def test_namespaces_of_a_tenant_push_out_nobody_elses() -> None:
    engine = small(BURST)
    feed(engine, (0, 1, 2))
    feed(engine, (0, 1, 2), uid=1002, netns=1)
    for netns in range(2, 5000):
        feed(engine, [netns / 100], uid=WEB, netns=netns)
    stats = engine.stats()
    assert stats.subjects <= 1 + 1 + SMALL.per_uid
    assert stats.evicted > 4000
    assert only(Verdict, feed(engine, [51], uid=1002, netns=1))
    assert only(Verdict, feed(engine, [51]))


def test_uids_of_a_containers_root_push_out_only_that_containers() -> None:
    engine = small(BURST)
    feed(engine, (0, 1, 2), uid=70_000, netns=2)
    for uid in range(100_000, 105_000):
        feed(engine, [3], uid=uid, netns=1)
    assert engine.stats().subjects <= 1 + SMALL.per_netns
    assert only(Verdict, feed(engine, [4], uid=70_000, netns=2))


def test_uids_without_a_name_push_out_no_account() -> None:
    engine = small(BURST)
    feed(engine, (0, 1, 2))
    for uid in range(100_000, 105_000):
        feed(engine, [3], uid=uid)
    assert engine.stats().subjects <= 1 + SMALL.nameless
    assert only(Verdict, feed(engine, [4]))


def test_full_pool_drops_the_longest_silent_and_nobody_who_is_blocked() -> None:
    engine = small(BURST)
    feed(engine, range(4), uid=1000)  # blocked, and then silent
    feed(engine, [5], uid=1001)
    for uid in range(1002, 1060):
        feed(engine, [uid - 990], uid=uid)
    assert engine.stats().subjects <= SMALL.accounts
    assert only(Refusal, feed(engine, [100], uid=1000))
    assert only(Verdict, feed(engine, (100, 101, 102), uid=1059))  # the newest was kept
    assert feed(engine, (103, 104, 105), uid=1001) == []


def test_times_are_bounded_and_the_flood_pays_itself() -> None:
    day = Rule(name="day", count="connections", limit=100_000, window_ns=DAY_NS, action="throttle")
    engine = small(day, replace(BURST, name="warn", action="warn", limit=5))
    feed(engine, range(5), uid=1002)
    for n in range(20_000):
        engine.feed(connect(10 + n / 1000))
    stats = engine.stats()
    assert stats.times <= SMALL.times + 2 * 64
    assert stats.dropped > 10_000
    assert only(Verdict, feed(engine, [31], uid=1002))  # nothing of theirs was lost


def test_a_million_destinations_are_bounded_and_the_flood_pays_itself() -> None:
    fanout = Rule(name="fanout", count="destinations", limit=1_000_000, window_ns=HOUR_NS, action="throttle")
    engine = small(fanout, replace(BURST, count="networks"))
    near = [bytes([192, 0, net, 1]) for net in range(4)]
    for net in near[:3]:
        assert engine.feed(connect(0, uid=1002, address=net)) == []
    for n in range(20_000):  # one tenant, 20,000 addresses in one network
        assert engine.feed(connect(1 + n / 1000, address=bytes.fromhex("20010db80001") + n.to_bytes(10, "big"))) == []
    stats = engine.stats()
    assert stats.keys <= SMALL.keys + 4 * 64
    assert stats.dropped > 0
    assert only(Verdict, engine.feed(connect(30, uid=1002, address=near[3])))


def test_windows_that_are_empty_are_forgotten() -> None:
    engine = small(BURST)
    for uid in range(1000, 1030):
        feed(engine, [uid - 1000], uid=uid)
    for n in range(4):
        engine.tick(T0 + DAY_NS + n * HOUR_NS)
    stats = engine.stats()
    assert (stats.subjects, stats.times, stats.keys) == (0, 0, 0)


def test_what_is_remembered_of_blocks_outlives_the_windows() -> None:
    engine = small(replace(BURST, block_ns=10 * NS))
    feed(engine, range(4))
    engine.tick(T0 + DAY_NS)
    engine.tick(T0 + DAY_NS + HOUR_NS)
    assert engine.stats().times == 0
    record = engine.memory.escalation(Subject(id=WEB))
    assert record is not None
    assert record.blocks == 1
    engine.tick(T0 + 9 * DAY_NS)
    engine.tick(T0 + 10 * DAY_NS)
    assert engine.stats().subjects == 0


def test_a_newcomer_is_one_for_a_day_however_short_the_window() -> None:
    rule = replace(BURST, name="newcomer", action="warn", limit=1, novel_ns=30 * DAY_NS)
    engine = small(rule)
    feed(engine, [0])
    engine.tick(T0 + 3 * HOUR_NS)
    engine.tick(T0 + 3 * HOUR_NS + 60 * NS)
    assert only(Verdict, feed(engine, (4 * 3600, 4 * 3600 + 1)))


def test_blocks_that_ended_leave_nothing() -> None:
    engine = small(replace(BURST, limit=0, block_ns=NS))
    for uid in range(1000, 1030):
        feed(engine, [1], uid=uid)
    engine.tick(T0 + DAY_NS)
    assert engine.blocks() == []
    assert engine._blocks._entries == {}


def test_destinations_remembered_are_bounded() -> None:
    from smtpguard.policy import engine as module

    engine = engine_of(replace(BURST, limit=10**6))
    for n in range(module.MAX_NETWORKS + 10):
        engine.feed(connect(n / 1000, address=(10 << 24 | n).to_bytes(4, "big")))
    assert len(engine._networks) <= module.MAX_NETWORKS
