"""Allowances and the panic switch."""

from dataclasses import replace

from smtpguard.model import (
    NS,
    Account,
    Allowance,
    AllowanceEnded,
    Block,
    Ended,
    Named,
    Refusal,
    Subject,
    Verdict,
    Watch,
    WatchEnded,
)
from smtpguard.settings import HOUR_NS, MINUTE_NS, Rule
from tests.support.policy import BURST, T0, WEB, People, block_of, connect, engine_of, feed, only, person, settings_of

WEB01 = Subject(id=WEB)


def allowance(
    *, since_s: float = 0, for_s: float = 3600, limit: int | None = None, window_ns: int | None = None
) -> Allowance:
    since_ns = T0 + round(since_s * NS)
    return Allowance(
        subject=WEB01,
        name=f"u{WEB}",
        since_ns=since_ns,
        until_ns=since_ns + round(for_s * NS),
        by="admin",
        limit=limit,
        window_ns=window_ns,
        everything=True,
    )


def test_allowance_without_a_limit_counts_nothing_and_ends_by_itself() -> None:
    engine = engine_of(BURST)
    assert engine.commands.allow(allowance()) == []
    assert feed(engine, range(1000)) == []
    assert engine.next_deadline() == T0 + HOUR_NS
    assert engine.tick(T0 + HOUR_NS - 1) == []
    [ended] = engine.tick(T0 + HOUR_NS)
    assert isinstance(ended, AllowanceEnded)
    assert (ended.by, ended.time_ns) == ("time", T0 + HOUR_NS)
    assert engine.allowances() == []
    assert feed(engine, (3600, 3601, 3602)) == []  # what was allowed does not count later
    assert only(Verdict, feed(engine, [3603]))


def test_allowance_frees_whom_the_guard_had_blocked() -> None:
    engine = engine_of(BURST)
    feed(engine, (0, 1, 2, 3))
    engine.commands.add_block(block_of("fail2ban:x"))
    ended = engine.commands.allow(allowance(since_s=5))
    assert {(end.by, end.block.source) for end in only(Ended, ended)} == {("admin", "guard"), ("admin", "fail2ban:x")}
    assert feed(engine, range(6, 60)) == []


def test_allowance_with_a_limit_is_one_throttle_in_place_of_the_rules() -> None:
    engine = engine_of(BURST, replace(BURST, name="fanout", count="networks", limit=1))
    engine.commands.allow(allowance(limit=50, window_ns=10 * MINUTE_NS))
    for n in range(1, 51):
        assert engine.feed(connect(n, address=bytes([192, 0, n, 1]), port=(25, 587)[n % 2])) == []
    [verdict, block] = feed(engine, [51])
    assert (verdict.rule, verdict.action, verdict.limit, verdict.mode) == ("allowance", "throttle", 50, "enforce")
    assert block.until_ns == T0 + NS + 10 * MINUTE_NS


def test_only_a_person_blocks_whom_a_person_allowed() -> None:
    engine = engine_of(BURST)
    engine.commands.allow(allowance())
    [theirs] = only(Block, engine.commands.add_block(block_of("fail2ban:x")))
    assert theirs.mode == "dry-run"
    [mine] = only(Block, engine.commands.add_block(block_of("admin", for_s=60)))
    assert mine.mode == "enforce"
    assert only(Refusal, feed(engine, [1]))[0].mode == "enforce"
    engine.commands.end(WEB01, by="admin", now_ns=T0 + 2 * NS)
    assert feed(engine, range(3, 99)) == []


def test_new_allowance_replaces_the_old_one() -> None:
    engine = engine_of(BURST)
    engine.commands.allow(allowance())
    [ended] = engine.commands.allow(allowance(since_s=1, for_s=60))
    assert isinstance(ended, AllowanceEnded)
    assert ended.by == "allow"
    assert [held.until_ns for held in engine.allowances()] == [T0 + 61 * NS]


def test_allowance_ends_by_hand_and_nothing_to_end_is_fine() -> None:
    engine = engine_of(BURST)
    assert engine.commands.end_allowance(WEB01, by="admin", now_ns=T0) == []
    engine.commands.allow(allowance())
    feed(engine, range(100))
    [ended] = engine.commands.end_allowance(WEB01, by="admin", now_ns=T0 + 100 * NS, reason="enough")
    assert isinstance(ended, AllowanceEnded)
    assert (ended.by, ended.reason) == ("admin", "enough")
    assert only(Verdict, feed(engine, range(100, 104)))


def test_allowance_is_bound_to_the_name() -> None:
    engine = engine_of(BURST)
    engine.commands.allow(allowance())
    ended = engine.reconfigure(settings_of(BURST), People([person(WEB, "tenant", "new-owner")]), T0 + NS)
    assert [end.by for end in only(AllowanceEnded, ended)] == ["name"]
    assert only(Verdict, feed(engine, range(2, 6)))
    [refused] = engine.commands.allow(allowance())
    assert isinstance(refused, AllowanceEnded)
    assert engine.allowances() == []


def test_allowance_of_a_removed_account_stays() -> None:
    engine = engine_of(BURST)
    engine.commands.allow(allowance())
    gone = Account(uid=WEB, name=None, standing="tenant")
    assert engine.reconfigure(settings_of(BURST), People([gone]), T0 + NS) == []
    assert feed(engine, range(2, 60)) == []


def test_reload_keeps_an_allowance() -> None:
    engine = engine_of(BURST)
    engine.commands.allow(allowance())
    engine.reconfigure(settings_of(BURST), People(), T0 + NS)
    assert feed(engine, range(2, 60)) == []


def test_off_tells_everything_and_carries_out_nothing() -> None:
    engine = engine_of(BURST)
    engine.commands.set_off(off=True)
    assert engine.is_off
    [verdict, block] = feed(engine, range(4))
    assert (verdict.mode, verdict.why_dry, block.mode) == ("dry-run", "off", "dry-run")
    assert [refusal.mode for refusal in feed(engine, [5])] == ["dry-run"]


def test_off_keeps_the_windows_and_what_is_left_of_a_block() -> None:
    engine = engine_of(BURST)
    feed(engine, (0, 1, 2, 3))
    feed(engine, (0, 1), uid=1002)
    engine.commands.set_off(off=True)
    assert [refusal.mode for refusal in only(Refusal, feed(engine, [10]))] == ["dry-run"]
    feed(engine, [11], uid=1002)
    engine.commands.set_off(off=False)
    assert [refusal.mode for refusal in only(Refusal, feed(engine, [20]))] == ["enforce"]
    assert [verdict.mode for verdict in only(Verdict, feed(engine, [21], uid=1002))] == ["enforce"]


def test_what_followed_while_off_is_not_carried_out_afterwards() -> None:
    engine = engine_of(BURST)
    engine.commands.set_off(off=True)
    feed(engine, range(4))
    engine.commands.set_off(off=False)
    assert {block.mode for block in engine.blocks()} == {"dry-run"}
    assert {refusal.mode for refusal in only(Refusal, feed(engine, (4, 5, 6)))} == {"dry-run"}
    assert [verdict.mode for verdict in only(Verdict, feed(engine, [7]))] == ["enforce"]


def test_windows_for_the_kernels_credits() -> None:
    engine = engine_of(BURST, replace(BURST, name="warn", action="warn"), replace(BURST, name="n", count="networks"))
    feed(engine, (0, 1))
    feed(engine, (0, 1, 2, 3), uid=1002)  # the verdict empties the window
    feed(engine, [0], netns=7)
    assert list(engine.exact.windows()) == [(WEB, "burst", [T0, T0 + NS]), (1002, "burst", [])]


NAMELESS = People([Account(uid=WEB, name=None, standing="tenant")])


def named(*names: str) -> People:
    return People([Account(uid=WEB, name=names[0], standing="tenant", aliases=names[1:])])


def test_a_block_of_a_nameless_uid_takes_the_name_when_it_comes() -> None:
    engine = engine_of(BURST, people=NAMELESS)
    [_, block] = feed(engine, range(4))
    assert block.name is None
    [change] = only(Named, engine.reconfigure(settings_of(BURST), named("late"), T0 + 5 * NS))
    assert change == Named(before=block, after=replace(block, name="late"))
    assert engine.blocks() == [change.after]
    assert isinstance(feed(engine, [6])[0], Refusal)
    assert engine.reconfigure(settings_of(BURST), NAMELESS, T0 + 7 * NS) == []
    [ended] = only(Ended, engine.reconfigure(settings_of(BURST), named("somebody-else"), T0 + 8 * NS))
    assert (ended.by, ended.block.name) == ("name", "late")


def test_an_allowance_of_a_nameless_uid_takes_the_name_when_it_comes() -> None:
    engine = engine_of(BURST, people=NAMELESS)
    engine.commands.allow(replace(allowance(), name=None))
    [change] = only(Named, engine.reconfigure(settings_of(BURST), named("late"), T0 + NS))
    assert (change.before.name, change.after.name) == (None, "late")
    assert feed(engine, range(2, 60)) == []
    [ended] = only(AllowanceEnded, engine.reconfigure(settings_of(BURST), named("somebody-else"), T0 + 2 * NS))
    assert ended.by == "name"


def test_a_restored_block_of_a_nameless_uid_takes_the_name_too() -> None:
    engine = engine_of(BURST)
    [block] = only(Block, engine.commands.add_block(replace(block_of("admin"), name=None)))
    assert block.name == f"u{WEB}"


def test_a_block_bound_to_any_name_of_the_uid_stays() -> None:
    engine = engine_of(BURST, people=named("web01", "alias01"))
    feed(engine, range(4))
    assert engine.reconfigure(settings_of(BURST), named("alias01", "web01"), T0 + 5 * NS) == []
    [ended] = only(Ended, engine.reconfigure(settings_of(BURST), named("alias01"), T0 + 6 * NS))
    assert ended.by == "name"


RELAY, MX = bytes([192, 0, 2, 77]), bytes([192, 0, 2, 25])


def test_a_block_over_an_attempt_that_should_not_have_counted_is_undone() -> None:
    engine = engine_of(BURST)
    feed(engine, range(3), address=RELAY)
    [verdict, block] = feed(engine, [3], address=RELAY)
    assert (block.address, block.level) == (RELAY, 0)
    assert engine.commands.forgive(WEB01, MX, now_ns=T0 + 4 * NS, reason="") == []
    [ended] = engine.commands.forgive(WEB01, RELAY, now_ns=T0 + 4 * NS, reason="it is exempt")
    assert (ended.block, ended.by, ended.reason) == (block, "exempt", "it is exempt")
    assert engine.blocks() == []
    assert feed(engine, range(5, 8), address=MX) == [], "from an empty window"
    [_, again] = feed(engine, [9], address=MX)
    assert (again.level, again.until_ns - again.since_ns) == (0, verdict.until_ns - verdict.time_ns)


def test_what_was_decided_over_something_else_stays() -> None:
    engine = engine_of(BURST)
    feed(engine, range(4), address=MX)
    engine.commands.add_block(block_of("admin"))
    feed(engine, range(5, 9), address=RELAY)
    assert engine.commands.forgive(WEB01, RELAY, now_ns=T0 + 10 * NS, reason="") == []
    assert {block.source for block in engine.blocks()} == {"guard", "admin"}


def test_earlier_blocks_are_still_remembered_after_one_was_undone() -> None:
    engine = engine_of(BURST)
    feed(engine, range(4), address=MX)
    engine.tick(T0 + 3600 * NS)
    [_, second] = feed(engine, range(3601, 3605), address=RELAY)
    assert second.level == 1
    engine.commands.forgive(WEB01, RELAY, now_ns=T0 + 3606 * NS, reason="")
    [_, third] = feed(engine, range(3610, 3614), address=MX)
    assert third.level == 1


def test_what_came_while_off_is_in_the_windows_when_it_is_on() -> None:
    """The kernel's credits begin from these windows: else it would let the whole limit through once more."""
    engine = engine_of(BURST)
    feed(engine, (0, 1))
    engine.commands.set_off(off=True)
    feed(engine, (2,))
    assert list(engine.exact.windows()) == [], "nobody is held to it"
    engine.commands.set_off(off=False)
    ((_, name, times),) = engine.exact.windows()
    assert name == BURST.name
    assert [(time_ns - T0) / NS for time_ns in times] == [0, 1, 2]


def watch(*, since_s: float = 0, for_s: float = 3600, name: str | None = None) -> Watch:
    since_ns = T0 + round(since_s * NS)
    return Watch(
        subject=Subject(id=WEB), name=name, since_ns=since_ns, until_ns=since_ns + round(for_s * NS), by="admin"
    )


WIDE = Rule(name="wide", count="connections", limit=7, window_ns=10 * MINUTE_NS, action="warn")


def test_a_watch_halves_each_limit_and_what_was_counted_counts() -> None:
    engine = engine_of(WIDE)
    assert feed(engine, (1, 2)) == []
    assert engine.commands.watch(watch(since_s=2.5)) == []
    (verdict,) = only(Verdict, feed(engine, (3, 4)))
    assert (verdict.count, verdict.limit) == (4, 3), "half of 7, rounded down, with the two from before"
    (fill,) = engine.memory.fills(People().account(WEB), T0 + 4 * NS)[0]
    assert (fill.rule.limit, fill.now) == (3, 4)
    assert only(Verdict, feed(engine, (5, 6, 7, 8), uid=1002)) == [], "nobody else's"


def test_a_watch_ends_by_itself_and_by_a_word_and_then_the_usual_limit_holds() -> None:
    engine = engine_of(WIDE)
    engine.commands.watch(watch(for_s=60))
    assert engine.next_deadline() == T0 + 60 * NS
    assert engine.tick(T0 + 59 * NS) == []
    assert [ended.by for ended in only(WatchEnded, engine.tick(T0 + 60 * NS))] == ["time"]
    assert only(Verdict, feed(engine, range(61, 68))) == []
    assert [v.count for v in only(Verdict, feed(engine, [68]))] == [8]
    engine.commands.watch(watch(since_s=70))
    ended = engine.commands.end_watch(Subject(id=WEB), by="admin", now_ns=T0 + 71 * NS)
    assert [end.by for end in only(WatchEnded, ended)] == ["admin"]
    assert engine.commands.end_watch(Subject(id=WEB), by="admin", now_ns=T0 + 71 * NS) == []


def test_a_watch_ends_no_block_and_an_allowance_holds_before_it() -> None:
    engine = engine_of(BURST)
    assert only(Block, feed(engine, (1, 2, 3, 4)))
    engine.commands.watch(watch(since_s=5))
    assert len(engine.blocks()) == 1
    engine.commands.allow(allowance(since_s=6, limit=50, window_ns=10 * MINUTE_NS))
    assert feed(engine, range(7, 57)) == []
    engine.commands.end_allowance(Subject(id=WEB), by="admin", now_ns=T0 + 60 * NS)
    (verdict,) = only(Verdict, feed(engine, (61, 62)))
    assert verdict.limit == 1, "half of three"


def test_a_watch_is_of_a_name_and_ends_when_the_number_is_given_to_another() -> None:
    engine = engine_of(WIDE)
    assert [end.by for end in only(WatchEnded, engine.commands.watch(watch(name="alice")))] == ["name"]
    engine.commands.watch(watch())
    others = People([person(WEB, "tenant", "bob")])
    assert [end.by for end in only(WatchEnded, engine.reconfigure(settings_of(WIDE), others, T0 + NS))] == ["name"]
    assert not engine.own.watches


def test_a_limit_of_one_stays_one() -> None:
    engine = engine_of(replace(WIDE, limit=1))
    engine.commands.watch(watch())
    assert [v.limit for v in only(Verdict, feed(engine, (1, 2)))] == [1]
