"""The engine: limits, actions, whom it may hit, what people's commands do. Times are given, nothing sleeps."""

from dataclasses import replace

import pytest

from smtpguard.errors import ConfigError, PolicyError
from smtpguard.model import (
    NS,
    Account,
    Block,
    BreakerChange,
    Customer,
    Decision,
    Ended,
    Refusal,
    RefusedBy,
    Standing,
    Subject,
    Verdict,
)
from smtpguard.policy.blocks import AHEAD_NS
from smtpguard.policy.rules import matches
from smtpguard.settings import DAY_NS, HOUR_NS, MINUTE_NS, BreakerLimits, Escalation, Match, Override, Rule
from tests.support.policy import BURST, T0, WEB, People, block_of, connect, engine_of, feed, only, person, settings_of

# -- limits and actions ------------------------------------------------------------------------------------------------


def test_limit_passes_and_one_more_is_the_verdict() -> None:
    engine = engine_of(BURST)
    assert feed(engine, (0, 1, 2)) == []
    verdict, block = feed(engine, [3])
    assert isinstance(verdict, Verdict)
    assert (verdict.rule, verdict.count, verdict.limit, verdict.mode) == ("burst", 4, 3, "enforce")
    assert verdict.until_ns == T0 + 3 * NS + 30 * MINUTE_NS
    assert isinstance(block, Block)
    assert (block.kind, block.mode, block.source, block.until_ns) == ("block", "enforce", "guard", verdict.until_ns)


def test_window_slides_by_event_time() -> None:
    engine = engine_of(BURST)
    assert feed(engine, (0, 20, 40, 60, 80, 100, 120)) == []
    assert only(Verdict, feed(engine, [120.5]))


def test_attempt_that_leaves_exactly_now_is_out() -> None:
    assert feed(engine_of(BURST), (0, 1, 2, 60)) == []
    assert only(Verdict, feed(engine_of(BURST), (0, 1, 2, 59.999999)))


def test_refused_attempts_enter_no_window_and_cause_no_verdict() -> None:
    engine = engine_of(BURST)
    feed(engine, (0, 1, 2, 3))
    during = feed(engine, range(4, 1800, 10))
    assert {type(decision) for decision in during} == {Refusal}
    assert {decision.by for decision in only(Refusal, during)} == {"block"}
    after = 3 + 30 * 60
    assert feed(engine, (after, after + 1, after + 2)) == []
    assert only(Verdict, feed(engine, [after + 3]))


def test_block_empties_the_window_of_its_rule_only() -> None:
    slow = Rule(name="slow", count="connections", limit=5, window_ns=HOUR_NS, action="warn")
    engine = engine_of(replace(BURST, block_ns=10 * NS), slow)
    feed(engine, (0, 1, 2, 3))  # three taken, the fourth is the verdict of burst
    out = feed(engine, (13, 14, 15))  # burst starts from nothing, slow has six by now
    assert [verdict.rule for verdict in only(Verdict, out)] == ["slow"]


@pytest.mark.parametrize("by", ["block", "throttle", "cap"])
def test_what_the_kernel_refused_counts_nowhere(by: RefusedBy) -> None:
    engine = engine_of(BURST)
    out = feed(engine, range(10), result="refused", refused_by=by)
    assert [type(decision) for decision in out] == [Refusal] * 10
    assert feed(engine, (10, 11, 12)) == []


def test_somebody_elses_refusal_is_an_attempt() -> None:
    assert only(Verdict, feed(engine_of(BURST), range(4), result="refused"))


def test_credit_refusal_is_the_verdict_or_nothing() -> None:
    engine = engine_of(BURST)
    feed(engine, (0, 1))
    [refusal] = feed(engine, [2], result="refused", refused_by="credit", rule=0)
    assert (refusal.by, refusal.mode) == ("credit", "enforce")  # the kernel is stricter than the engine: nothing counts
    feed(engine, [3])
    assert only(Verdict, feed(engine, [4], result="refused", refused_by="credit", rule=0))


def test_throttle_lets_the_limit_pass_in_any_window() -> None:
    engine = engine_of(replace(BURST, action="throttle", limit=5))
    passed = [tenth for tenth in range(6000) if not engine.feed(connect(tenth / 10))]
    assert len(passed) >= 5 * 9
    assert all(sum(1 for other in passed if tenth - 600 < other <= tenth) <= 5 for tenth in passed)


def test_throttle_is_told_once_a_window_and_goes_on_in_between() -> None:
    engine = engine_of(replace(BURST, action="throttle", limit=1))
    out = feed(engine, (0, 30, 60, 89, 91, 120, 121))
    assert [verdict.time_ns for verdict in only(Verdict, out)] == [T0 + 30 * NS, T0 + 121 * NS]
    held = [((block.since_ns - T0) // NS, (block.until_ns - T0) // NS, block.renewed) for block in only(Block, out)]
    assert held == [(30, 60, False), (89, 120, True), (121, 180, False)]


def test_warn_is_told_when_the_count_rises_over_the_limit() -> None:
    engine = engine_of(replace(BURST, action="warn"))
    out = feed(engine, (0, 1, 2, 3, 4, 5, 6))
    assert [(verdict.count, verdict.until_ns) for verdict in only(Verdict, out)] == [(4, None)]
    assert not only(Block, out)
    assert feed(engine, (200, 201, 202)) == []
    assert len(only(Verdict, feed(engine, (203, 204, 205)))) == 1


def test_warn_is_told_at_most_once_a_window() -> None:
    engine = engine_of(replace(BURST, action="warn", limit=1))
    out = feed(engine, (0, 59, 61, 62, 122, 123))  # the count rises over one at 59, at 61 and at 123
    assert [(verdict.time_ns - T0) // NS for verdict in only(Verdict, out)] == [59, 123]


def test_warn_is_not_told_again_while_it_stays_over_the_limit() -> None:
    engine = engine_of(replace(BURST, action="warn", limit=1))
    out = feed(engine, range(1000))
    assert [(verdict.time_ns - T0) // NS for verdict in only(Verdict, out)] == [1]


def test_known_keys_count_anew_after_the_window_was_emptied() -> None:
    engine = engine_of(replace(BURST, count="networks", limit=2))
    nets = [bytes([192, 0, net, 1]) for net in range(3)]
    feed(engine, [0], address=nets[0])
    feed(engine, [1], address=nets[1])
    engine.commands.unblock(Subject(id=WEB), by="admin", now_ns=T0 + 2 * NS)
    feed(engine, [3], address=nets[2])
    assert feed(engine, [4], address=nets[0]) == []
    assert only(Verdict, feed(engine, [5], address=nets[1]))


def test_two_tables_for_one_port() -> None:
    wide = replace(BURST, name="wide", count="networks", limit=3)
    narrow = replace(BURST, name="narrow", count="destinations", limit=4, ports=frozenset({25}))
    engine = engine_of(wide, narrow)
    for at_s, (net, host) in enumerate([(1, 1), (1, 2), (1, 3), (1, 4), (1, 1), (1, 2)]):
        assert feed(engine, [at_s], address=bytes([192, 0, net, host])) == []
    assert [v.rule for v in only(Verdict, feed(engine, [6], address=bytes([192, 0, 2, 1])))] == ["narrow"]
    for at_s, net in enumerate([1, 2, 3]):
        assert feed(engine, [at_s], uid=1002, address=bytes([192, 0, net, 1]), port=587) == []
    assert feed(engine, [3], uid=1002, address=bytes([192, 0, 1, 1])) == []
    assert [v.rule for v in only(Verdict, feed(engine, [4], uid=1002, address=bytes([192, 0, 9, 1])))] == ["wide"]


def test_limit_zero_is_a_verdict_at_once() -> None:
    [verdict, block] = feed(engine_of(replace(BURST, limit=0)), [0])
    assert (verdict.count, verdict.limit) == (1, 0)
    throttle = engine_of(replace(BURST, limit=0, action="throttle"))
    [verdict, block] = feed(throttle, [0])
    assert block.until_ns == T0 + MINUTE_NS
    assert isinstance(feed(throttle, [59])[0], Refusal)
    assert isinstance(feed(throttle, [60])[0], Verdict)


def test_networks_are_slash_24_and_48() -> None:
    engine = engine_of(replace(BURST, count="networks", limit=2))
    same4 = [bytes([192, 0, 2, host]) for host in range(20)]
    same6 = [bytes.fromhex("20010db80001") + bytes([0, host]) + bytes(8) for host in range(20)]
    for number, address in enumerate(same4 + same6):
        assert engine.feed(connect(number / 10, address=address)) == []
    [verdict, _] = engine.feed(connect(5, address=bytes.fromhex("20010db80002") + bytes(10)))
    assert isinstance(verdict, Verdict)
    assert verdict.count == 3


def test_destinations_are_addresses_and_age_by_their_last_attempt() -> None:
    engine = engine_of(replace(BURST, count="destinations", limit=2))
    a, b, c = (bytes([192, 0, 2, host]) for host in (1, 2, 3))
    for at_s, address in ((0, a), (30, b), (50, a)):
        assert engine.feed(connect(at_s, address=address)) == []
    assert engine.feed(connect(90, address=c)) == []  # b has left at 90, a was seen at 50
    assert engine.feed(connect(100, address=b))  # a, c and b within 60 s


def test_ports_keep_rules_apart() -> None:
    mx = replace(BURST, name="mx", ports=frozenset({25}))
    submission = replace(BURST, name="submission", ports=frozenset({465, 587}))
    engine = engine_of(mx, submission)
    assert feed(engine, (0, 1, 2), port=25) == []
    assert feed(engine, (3, 4), port=587) == []
    assert feed(engine, [5], port=465) == []
    assert [v.rule for v in only(Verdict, feed(engine, [6], port=465))] == ["submission"]


def test_port_that_is_not_guarded_is_left_alone() -> None:
    engine = engine_of(BURST)
    assert feed(engine, range(10), port=80) == []
    assert engine.stats().no_uid == 10


def test_blocks_at_several_ports_refuse_without_a_look_at_the_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is blocked tries most, so each port's block is at hand, and costs attempts at the other ports nothing."""
    mx = replace(BURST, name="mx", ports=frozenset({25}))
    submission = replace(BURST, name="submission", ports=frozenset({465, 587}), action="throttle")
    engine = engine_of(mx, submission)
    feed(engine, (0, 1, 2, 3), port=25)
    feed(engine, (4, 5, 6, 7), port=587)
    assert feed(engine, [8], port=2525) == []
    with monkeypatch.context() as patch:
        patch.setattr(engine, "_consider", None)
        by = [[decision.by for decision in feed(engine, [9, 9.5], port=port)] for port in (25, 587, 465, 2525)]
    assert by == [["block"] * 2, ["throttle"] * 2, ["throttle"] * 2, []]
    assert feed(engine, [70], port=587) == [], "the throttle is over, the block at the other port is not"
    assert only(Refusal, feed(engine, [71], port=25))


def test_all_verdicts_of_one_attempt_are_told_in_order() -> None:
    other = replace(BURST, name="second", action="throttle")
    third = replace(BURST, name="third", action="warn")
    out = feed(engine_of(BURST, other, third), (0, 1, 2, 3))
    assert [verdict.rule for verdict in only(Verdict, out)] == ["burst", "second", "third"]


def test_late_attempt_is_put_where_it_belongs() -> None:
    engine = engine_of(BURST)
    assert feed(engine, (0, 1, 40)) == []
    [verdict, block] = feed(engine, [30])
    assert verdict.time_ns == T0 + 30 * NS
    assert block.since_ns == T0 + 40 * NS


def test_attempt_from_inside_a_block_that_is_reported_after_its_end() -> None:
    engine = engine_of(replace(BURST, block_ns=10 * NS))
    feed(engine, (0, 1, 2, 3))
    engine.tick(T0 + 13 * NS)
    assert isinstance(feed(engine, [12.5])[0], Refusal)
    assert feed(engine, [13]) == []


def test_novel_concerns_only_who_was_silent_for_so_long() -> None:
    newcomer = replace(BURST, name="newcomer", action="warn", limit=1, novel_ns=30 * DAY_NS)
    engine = engine_of(newcomer)
    assert len(only(Verdict, feed(engine, (0, 1)))) == 1  # never seen: a newcomer
    day = 86_400
    assert feed(engine, (2 * day, 2 * day + 1)) == []  # two days later no longer
    assert len(only(Verdict, feed(engine, (33 * day, 33 * day + 1)))) == 1


def test_novel_remembers_what_was_seen_before_this_run() -> None:
    newcomer = replace(BURST, name="newcomer", action="warn", limit=1, novel_ns=30 * DAY_NS)
    engine = engine_of(newcomer)
    engine.memory.restore_seen(Subject(id=WEB), 25, T0 - DAY_NS)
    assert feed(engine, (0, 1, 2)) == []


# -- modes -------------------------------------------------------------------------------------------------------------


def test_dry_run_tells_the_same_and_enforces_nothing() -> None:
    script = [n * 1.5 for n in range(3000)]
    hot, dry = engine_of(BURST), engine_of(BURST, dry_run=True)
    for at_s in script:
        told_hot, told_dry = hot.feed(connect(at_s)), dry.feed(connect(at_s))
        assert [(v.rule, v.time_ns, v.until_ns) for v in only(Verdict, told_hot)] == [
            (v.rule, v.time_ns, v.until_ns) for v in only(Verdict, told_dry)
        ]
        assert {d.mode for d in only(Verdict, told_dry) + only(Block, told_dry)} <= {"dry-run"}
        assert len(only(Refusal, told_hot)) == len(only(Refusal, told_dry))
    assert {v.why_dry for v in only(Verdict, feed(engine_of(BURST, dry_run=True), range(5)))} == {"dry_run"}


def test_rule_in_dry_run_hides_nothing_from_rules_in_earnest() -> None:
    trial = replace(BURST, name="trial", limit=1, dry_run=True)
    out = feed(engine_of(trial, BURST), (0, 1, 2, 3, 4))
    assert [(v.rule, v.mode, (v.time_ns - T0) // NS) for v in only(Verdict, out)] == [
        ("trial", "dry-run", 1),
        ("burst", "enforce", 3),
    ]
    assert [refusal.mode for refusal in only(Refusal, out)] == ["dry-run", "dry-run", "enforce"]


def test_attempt_that_is_refused_in_earnest_is_in_no_window_of_a_rule_in_dry_run() -> None:
    trial = replace(BURST, name="trial", limit=4, dry_run=True)
    engine = engine_of(trial, replace(BURST, block_ns=NS))
    out = feed(engine, (0, 1, 2, 3, 4))  # burst refuses the one at 3, so trial has four of four at 4
    assert [v.rule for v in only(Verdict, out)] == ["burst"]
    assert [v.rule for v in only(Verdict, feed(engine, [5]))] == ["trial"]


def test_backlog_is_told_and_not_enforced() -> None:
    engine = engine_of(replace(BURST, block_ns=10 * NS))
    engine.tick(T0 + HOUR_NS)
    [verdict, block] = feed(engine, (0, 1, 2, 3))
    assert (verdict.mode, verdict.why_dry, block.mode) == ("dry-run", "already over", "dry-run")


def test_fail2ban_blocks_instead_of_the_guard() -> None:
    engine = engine_of(BURST, block_by="fail2ban")
    [verdict] = feed(engine, (0, 1, 2, 3))
    assert (verdict.action, verdict.mode) == ("block", "enforce")
    assert engine.blocks() == []
    assert [r.mode for r in only(Refusal, feed(engine, (4, 12)))] == ["dry-run", "dry-run"]
    assert feed(engine, (13, 14, 15)) == []  # fail2ban did nothing: counting goes on
    assert only(Verdict, feed(engine, [16]))


# -- whom it may hit ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("standing", ["root", "mta", "exempt"])
def test_root_mta_and_exempt_users_are_never_counted(standing: Standing) -> None:
    engine = engine_of(replace(BURST, limit=0), people=People([person(WEB, standing)]))
    assert feed(engine, range(100)) == []


def test_shared_user_is_told_unless_listed() -> None:
    people = People([person(33, "shared", "www-data")])
    told = feed(engine_of(BURST, people=people), range(4), uid=33)
    assert [(v.mode, v.why_dry) for v in only(Verdict, told)] == [("dry-run", "shared user")]
    listed = engine_of(BURST, people=people, shared_block=frozenset({"www-data"}))
    assert [v.mode for v in only(Verdict, feed(listed, range(4), uid=33))] == ["enforce"]


def test_a_thousand_subordinate_uids_count_as_one() -> None:
    ranges = ((100_000, 65_536),)
    people = People([person(WEB, "tenant", "web01", ranges=ranges)], owners={100_000 + n: WEB for n in range(65_536)})
    engine = engine_of(replace(BURST, limit=999), people=people)
    for n in range(999):
        assert engine.feed(connect(n / 1000, uid=100_000 + n, netns=n % 7 or None)) == []
    [verdict, block] = feed(engine, [1])
    assert verdict.subject == Subject(id=WEB)
    assert isinstance(block, Block)
    assert (block.name, block.ranges) == ("web01", ranges)
    assert isinstance(engine.feed(connect(2, uid=100_999))[0], Refusal)
    assert engine.stats().subjects == 1


def test_a_containers_uid_is_not_the_hosts() -> None:
    people = People([person(WEB, "tenant", "web01")])
    engine = engine_of(BURST, people=people)
    [verdict, block] = feed(engine, range(4), netns=77)
    assert (verdict.mode, verdict.why_dry, verdict.account.name) == ("dry-run", "container", None)
    assert verdict.subject == Subject(id=WEB, scope=77)
    assert block.subject == verdict.subject
    assert feed(engine, (4, 5, 6)) == []  # the host's own 1001 has a window of its own


def test_a_containers_uid_gets_no_exemption_of_the_hosts() -> None:
    engine = engine_of(BURST, people=People([person(WEB, "exempt")]))
    assert only(Verdict, feed(engine, range(4), netns=77))


def test_roots_subordinate_uids_are_containers() -> None:
    engine = engine_of(BURST, people=People(owners={100_033: 0}))
    assert [v.why_dry for v in only(Verdict, feed(engine, range(4), uid=100_033, netns=5))] == ["container"]


@pytest.mark.parametrize("kind", ["exempt", "own", "loopback"])
def test_destinations_that_pass_never_count_not_even_in_a_block(kind: str) -> None:
    home = bytes([198, 51, 100, 1])
    engine = engine_of(replace(BURST, limit=0), why_exempt={home: kind}.get)
    assert feed(engine, range(50), address=home) == []
    feed(engine, [60])
    assert feed(engine, [61], address=home) == []
    assert only(Refusal, feed(engine, [61]))


def test_loopback_counts_on_request() -> None:
    engine = engine_of(BURST, why_exempt=lambda _: "loopback", loopback="count")
    assert only(Verdict, feed(engine, range(4)))


def test_destinations_are_asked_about_again_when_told() -> None:
    exemptions: dict[bytes, str] = {}
    engine = engine_of(BURST, why_exempt=exemptions.get)
    feed(engine, (0, 1, 2))
    exemptions[bytes([192, 0, 2, 1])] = "exempt"
    engine.forget_destinations()
    assert feed(engine, range(3, 20)) == []


def test_uid_that_is_not_known_counts_for_nobody() -> None:
    engine = engine_of(replace(BURST, limit=0))
    assert feed(engine, [0], uid=None) == []
    assert engine.stats().no_uid == 1


@pytest.mark.parametrize(
    "match",
    [
        Match(users=("news*",)),
        Match(groups=("mailers",)),
        Match(uids=((1000, 1002),)),
        Match(packages=("business",)),
        Match(packages=("bus*",)),
        Match(resellers=("resel*",)),
    ],
)
def test_first_override_that_matches_wins(match: Match) -> None:
    own = person(
        WEB,
        "tenant",
        "newsletter",
        groups=frozenset({"mailers"}),
        customer=Customer(package="business", reseller="reseller7"),
    )
    overrides = (
        Override(match=Match(users=("other",), uids=((5, 9),)), rules={"burst": replace(BURST, limit=1)}),
        Override(match=match, rules={"burst": replace(BURST, limit=6)}),
        Override(match=match, rules={"burst": replace(BURST, limit=2)}),
    )
    engine = engine_of(BURST, people=People([own]), overrides=overrides)
    assert feed(engine, range(6)) == []
    assert [v.limit for v in only(Verdict, feed(engine, [6]))] == [6]
    assert only(Verdict, feed(engine, range(4), uid=1003))


def test_rule_that_can_not_be_counted_is_refused() -> None:
    with pytest.raises(ConfigError, match="recipients"):
        engine_of(replace(BURST, count="recipients"))


# -- people's commands -------------------------------------------------------------------------------------------------


def test_ends_of_one_source_do_not_undo_another() -> None:
    engine = engine_of(BURST)
    for source in ("admin", "fail2ban:a", "fail2ban:b"):
        engine.commands.add_block(block_of(source))
    [ended] = engine.commands.end(Subject(id=WEB), source="fail2ban:a", by="fail2ban:a", now_ns=T0 + NS)
    assert ended.block.source == "fail2ban:a"
    assert {block.source for block in engine.blocks_of(Subject(id=WEB))} == {"admin", "fail2ban:b"}
    assert only(Refusal, feed(engine, [2]))
    assert engine.commands.end(Subject(id=WEB), source="fail2ban:zzz", by="x", now_ns=T0) == []


def test_blocks_end_by_themselves() -> None:
    engine = engine_of(BURST)
    feed(engine, (0, 1, 2, 3))
    until_ns = T0 + 3 * NS + 30 * MINUTE_NS
    assert engine.next_deadline() == until_ns - AHEAD_NS, "whether the user goes on trying is asked just before"
    assert engine.tick(until_ns - AHEAD_NS) == []
    assert engine.next_deadline() == until_ns
    assert engine.tick(until_ns - 1) == []
    [ended] = engine.tick(until_ns)
    assert isinstance(ended, Ended)
    assert (ended.by, ended.block.rule) == ("time", "burst")
    assert engine.blocks() == []
    assert engine.next_deadline() is None


def test_a_persons_later_word_wins() -> None:
    engine = engine_of(BURST)
    engine.commands.add_block(block_of("admin", for_s=3600))
    engine.commands.add_block(replace(block_of("admin"), since_ns=T0 + NS, until_ns=T0 + 60 * NS))
    [block] = engine.blocks()
    assert block.until_ns == T0 + 60 * NS
    assert feed(engine, [60]) == []


def test_unblock_frees_at_once_from_empty_windows() -> None:
    engine = engine_of(BURST, escalation=Escalation(factor=2, max_ns=DAY_NS, forget_ns=DAY_NS))
    feed(engine, (0, 1, 2, 3))
    engine.commands.add_block(block_of("admin"))
    ended = engine.commands.unblock(Subject(id=WEB), by="admin", reason="sorry", now_ns=T0 + 10 * NS)
    assert {(e.by, e.reason, e.block.source) for e in ended} == {
        ("admin", "sorry", "guard"),
        ("admin", "sorry", "admin"),
    }
    assert engine.blocks() == []
    assert feed(engine, (11, 12, 13)) == []
    [block] = only(Block, feed(engine, [14]))
    assert block.until_ns - block.since_ns == 30 * MINUTE_NS  # the first block was forgotten
    assert block.level == 0


def test_root_is_never_blocked_and_exempt_users_by_force() -> None:
    engine = engine_of(BURST, people=People([person(0, "root", "root"), person(1005, "exempt"), person(33, "shared")]))
    for force in (False, True):
        with pytest.raises(PolicyError, match="root"):
            engine.commands.add_block(block_of("admin", uid=0), force=force)
    with pytest.raises(PolicyError, match="exempt"):
        engine.commands.add_block(block_of("admin", uid=1005))
    assert engine.commands.add_block(block_of("admin", uid=1005), force=True)
    assert only(Refusal, feed(engine, [1], uid=1005))
    [told] = only(Block, engine.commands.add_block(block_of("fail2ban:x", uid=33)))
    assert told.mode == "dry-run"


def test_a_persons_block_is_enforced_even_in_dry_run_and_fail2bans_is_not() -> None:
    engine = engine_of(BURST, dry_run=True)
    [mine] = only(Block, engine.commands.add_block(block_of("admin")))
    [theirs] = only(Block, engine.commands.add_block(block_of("fail2ban:x", uid=1002)))
    assert (mine.mode, theirs.mode) == ("enforce", "dry-run")


def test_block_of_a_uid_that_belongs_to_another_name() -> None:
    engine = engine_of(BURST)
    [ended] = engine.commands.add_block(block_of("admin", name="someone-else"))
    assert isinstance(ended, Ended)
    assert engine.blocks() == []


# -- escalation and breaker --------------------------------------------------------------------------------------------


def test_each_further_block_lasts_longer_up_to_the_maximum() -> None:
    rule = replace(BURST, limit=0, block_ns=60 * NS)
    engine = engine_of(rule, escalation=Escalation(factor=2, max_ns=200 * NS, forget_ns=1000 * NS))
    lengths, levels = [], []
    at_s = 0
    for _ in range(5):
        [block] = only(Block, feed(engine, [at_s]))
        lengths.append((block.until_ns - block.since_ns) // NS)
        levels.append(block.level)
        at_s += lengths[-1] + 1
    assert lengths == [60, 120, 200, 200, 200]
    assert levels == [0, 1, 2, 3, 4]
    [block] = only(Block, feed(engine, [at_s + 1000]))
    assert (block.level, block.until_ns - block.since_ns) == (0, 60 * NS)


def test_a_block_longer_than_the_maximum_is_not_cut() -> None:
    engine = engine_of(replace(BURST, limit=0, block_ns=7 * DAY_NS), escalation=Escalation(max_ns=DAY_NS))
    [block] = only(Block, feed(engine, [0]))
    assert block.until_ns - block.since_ns == 7 * DAY_NS


def test_breaker_turns_further_blocks_into_throttles_until_it_is_calm() -> None:
    rule = replace(BURST, limit=1)
    engine = engine_of(rule, breaker=BreakerLimits(blocks=3, per_ns=10 * MINUTE_NS))
    out: list[Decision] = []
    for n in range(5):
        out += feed(engine, (n, n + 0.5), uid=2000 + n)
    assert [v.action for v in only(Verdict, out)] == ["block"] * 3 + ["throttle"] * 2
    assert [(c.tripped, c.blocks, c.mode) for c in only(BreakerChange, out)] == [(True, 4, "enforce")]
    assert engine.is_tripped("enforce")
    calm_ns = T0 + round(4.5 * NS) + 10 * MINUTE_NS
    assert only(BreakerChange, engine.tick(calm_ns - 1)) == []
    [change] = only(BreakerChange, engine.tick(calm_ns))
    assert not change.tripped
    assert [v.action for v in only(Verdict, feed(engine, (700, 700.5), uid=3000))] == ["block"]


def test_shared_users_and_containers_do_not_trip_the_breaker() -> None:
    people = People([person(n, "shared") for n in range(100, 120)])
    engine = engine_of(replace(BURST, limit=0), people=people, breaker=BreakerLimits(blocks=1))
    for n in range(20):
        feed(engine, [n], uid=100 + n)
        feed(engine, [n], uid=5000 + n, netns=9)
    assert [v.action for v in only(Verdict, feed(engine, [30]))] == ["block"]


# -- reload ------------------------------------------------------------------------------------------------------------


def test_reload_keeps_windows_of_rules_that_stay() -> None:
    engine = engine_of(BURST)
    feed(engine, (0, 1, 2))
    added = replace(BURST, name="added", limit=1)
    assert engine.reconfigure(settings_of(added, replace(BURST, limit=4)), People(), T0 + 3 * NS) == []
    assert feed(engine, [3]) == []  # burst holds four of four, the new rule one of one
    assert [v.rule for v in only(Verdict, feed(engine, [4]))] == ["added", "burst"]


def test_reload_with_a_lower_limit_counts_what_is_there() -> None:
    engine = engine_of(BURST)
    feed(engine, (0, 1, 2))
    engine.reconfigure(settings_of(replace(BURST, limit=1)), People(), T0 + 3 * NS)
    assert [v.count for v in only(Verdict, feed(engine, [3]))] == [4]


def test_reload_that_can_not_be_counted_changes_nothing() -> None:
    engine = engine_of(BURST)
    with pytest.raises(ConfigError):
        engine.reconfigure(settings_of(replace(BURST, count="messages")), People(), T0)
    assert only(Verdict, feed(engine, range(4)))


def test_reload_that_exempts_a_blocked_user_frees_him() -> None:
    engine = engine_of(BURST)
    feed(engine, (0, 1, 2, 3))
    engine.commands.add_block(block_of("admin"))
    freed = engine.reconfigure(settings_of(BURST), People([person(WEB, "exempt")]), T0 + 5 * NS)
    assert {(e.by, e.block.source) for e in only(Ended, freed)} == {("exempt", "guard"), ("exempt", "admin")}
    assert feed(engine, range(6, 60)) == []


def test_reload_leaves_a_block_by_force_alone() -> None:
    people = People([person(WEB, "exempt")])
    engine = engine_of(BURST, people=people)
    engine.commands.add_block(block_of("admin"), force=True)
    assert engine.reconfigure(settings_of(BURST), people, T0 + NS) == []
    assert engine.blocks()


def test_reload_to_dry_run_lifts_what_the_guard_enforces() -> None:
    engine = engine_of(BURST)
    feed(engine, (0, 1, 2, 3))
    engine.commands.add_block(block_of("admin"))
    lifted = engine.reconfigure(settings_of(BURST, dry_run=True), People(), T0 + 5 * NS)
    assert [(e.by, e.block.source) for e in only(Ended, lifted)] == [("reload", "guard")]


def test_uid_given_to_another_name_is_free_and_starts_anew() -> None:
    engine = engine_of(BURST)
    feed(engine, (0, 1, 2, 3))
    freed = engine.reconfigure(settings_of(BURST), People([person(WEB, "tenant", "new-owner")]), T0 + 5 * NS)
    assert [e.by for e in only(Ended, freed)] == ["name"]
    assert feed(engine, (6, 7, 8)) == []


def test_account_that_is_removed_stays_blocked() -> None:
    engine = engine_of(BURST)
    feed(engine, (0, 1, 2, 3))
    gone = Account(uid=WEB, name=None, standing="tenant")
    assert engine.reconfigure(settings_of(BURST), People([gone]), T0 + 5 * NS) == []
    assert only(Refusal, feed(engine, [6]))


def test_ranges_of_a_block_follow_the_account() -> None:
    engine = engine_of(BURST)
    feed(engine, (0, 1, 2, 3))
    ranges = ((300_000, 10),)
    engine.reconfigure(settings_of(BURST), People([person(WEB, "tenant", ranges=ranges)]), T0 + 5 * NS)
    assert [block.ranges for block in engine.blocks()] == [ranges]


@pytest.mark.parametrize(
    ("package", "reseller", "pattern", "is_meant"),
    [
        ("business", None, "business", True),
        ("res1/business", "res1", "business", False),
        ("res1/business", "res1", "*", False),
        ("res1/business", "res1", "*business", False),
        ("res1/business", "res1", "res1/business", True),
        ("res1/business", "res1", "res2/business", False),
        ("res1/business", "res1", "*/bus*", True),
        ("res1_business", "res1", "res1_business", True),  # cPanel's own way to tell them apart
        ("Gold/2026", None, "Gold/2026", True),
        ("Gold/2026", None, "Gold*", True),
        ("Gold/2026", "res1", "Gold/2026", True),
        ("res1/Gold/2026", "res1", "Gold/2026", False),
    ],
)
def test_a_resellers_package_is_not_meant_by_the_hosts_of_that_name(
    package: str, reseller: str | None, pattern: str, is_meant: bool
) -> None:
    customer = Customer(package=package, reseller=reseller)
    account = person(WEB, "tenant", customer=customer)
    assert matches(Match(packages=(pattern,)), account) is is_meant
