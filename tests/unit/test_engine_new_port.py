"""A port that a user has not used before: its rules hold from the first attempt on, whatever was worked out before."""

from dataclasses import replace

from smtpguard.model import NS, BreakerChange, Verdict
from smtpguard.settings import DAY_NS, MINUTE_NS, BreakerLimits, Escalation
from tests.support.policy import BURST, T0, People, block_of, connect, engine_of, feed, only, settings_of

SUBMISSION = replace(BURST, ports=frozenset({587}))
AGAIN_S = 31 * 60


def test_a_first_attempt_that_is_refused_hides_no_later_one() -> None:
    """It enters no window, so that nothing is worked out anew with it: many passed once its block was over."""
    for first in ({}, {"result": "refused", "refused_by": "credit"}):
        engine = engine_of(replace(SUBMISSION, limit=0))
        feed(engine, [0])
        assert only(Verdict, feed(engine, [1], port=587, **first))
        assert only(Verdict, feed(engine, [AGAIN_S], port=587))


def test_nor_does_one_inside_a_block_of_somebody_elses() -> None:
    engine = engine_of(SUBMISSION)
    feed(engine, [0])
    engine.commands.add_block(block_of("admin", for_s=60))
    feed(engine, [1], port=587)
    engine.tick(T0 + 61 * NS)
    feed(engine, [62])
    assert len(only(Verdict, feed(engine, (63, 64, 65, 66), port=587))) == 1


def test_who_was_silent_on_a_rules_ports_is_a_newcomer_there_whatever_they_did_on_others() -> None:
    rule = replace(BURST, limit=0, ports=frozenset({25}), novel_ns=5 * DAY_NS)
    day_s = DAY_NS // NS
    engine = engine_of(rule)
    assert only(Verdict, feed(engine, [0]))
    assert not feed(engine, (3 * day_s, 6 * day_s), port=587)
    assert only(Verdict, feed(engine, [6 * day_s + 1]))


def test_an_old_report_is_no_sign_of_many_blocks_at_once() -> None:
    engine = engine_of(replace(BURST, limit=0), breaker=BreakerLimits(blocks=2, per_ns=MINUTE_NS))
    for uid, at_s in enumerate((0, -100, 1)):
        assert not only(BreakerChange, engine.feed(connect(at_s, uid=2000 + uid)))
    assert only(BreakerChange, engine.feed(connect(2, uid=2009)))


def test_a_brake_that_was_loosened_by_a_reload_takes_hold_all_the_same() -> None:
    rule = replace(BURST, limit=0)
    engine = engine_of(rule, breaker=BreakerLimits(blocks=1, per_ns=MINUTE_NS), escalation=Escalation())
    loose = settings_of(rule, breaker=BreakerLimits(blocks=4, per_ns=MINUTE_NS))
    engine.reconfigure(loose, People(), T0)
    changes = [only(BreakerChange, engine.feed(connect(0, uid=2000 + number))) for number in range(5)]
    assert [bool(change) for change in changes] == [False] * 4 + [True]
