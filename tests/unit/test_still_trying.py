"""A block goes on while its user goes on trying, and never for a mail that a plugin tries again: a night, simulated."""

import random
from dataclasses import dataclass, field, replace

import pytest

from smtpguard.logline import parse_line, render_block
from smtpguard.model import NS, Account, Connect, Ended, Extended, Refusal
from smtpguard.policy.engine import Engine
from smtpguard.settings import HOUR_NS, MINUTE_NS, Escalation, Rule, Settings

RULE = Rule(
    name="mx", count="networks", limit=10, window_ns=10 * MINUTE_NS, ports=frozenset({25}), block_ns=30 * MINUTE_NS
)
SETTINGS = Settings(dry_run=False, rules=(RULE,))
T0 = 1000 * HOUR_NS
UID = 1001


class Tenants:
    def owner(self, uid: int) -> int:
        return uid

    def account(self, uid: int) -> Account:
        return Account(uid=uid, name=f"u{uid}", standing="tenant")


@dataclass
class Night:
    """What became of a night's attempts, with the kernel as it would have been told."""

    passed: int = 0
    refused: int = 0
    extended: list[Extended] = field(default_factory=list)
    ended: list[Ended] = field(default_factory=list)


def spend(settings: Settings, every_s: float, hours: int = 8, *, until_h: float = 24, told: bool = False) -> Night:
    """Let a hacked site, or a plugin, try at a rate; as bpf tells of it, or (`told`) nflog."""
    chance = random.Random(13)
    engine = Engine(settings=settings, directory=Tenants(), why_exempt=lambda _: None)
    night = Night()
    time_ns = T0
    for _ in range(int(hours * 3600 / every_s)):
        time_ns += round(chance.uniform(0.5, 1.5) * every_s * NS)
        while (due := engine.next_deadline()) is not None and due <= time_ns:
            for decision in engine.tick(due):
                if isinstance(decision, Extended):
                    night.extended.append(decision)
                elif isinstance(decision, Ended):
                    night.ended.append(decision)
        if time_ns - T0 > until_h * HOUR_NS:
            continue
        stands = any(block.until_ns > time_ns for block in engine.blocks())
        address = bytes([chance.randrange(1, 200), chance.randrange(256), chance.randrange(256), 7])
        connect = Connect(time_ns=time_ns, uid=UID, port=25, address=address, sensor="bpf")
        if stands and not told:
            connect = replace(connect, result="refused", refused_by="block")
        decisions = engine.feed(connect)
        if any(isinstance(decision, Refusal) for decision in decisions):
            night.refused += 1
        else:
            night.passed += 1
    return night


@pytest.mark.parametrize("told", [False, True])
@pytest.mark.parametrize("dry_run", [False, True])
def test_a_site_that_never_stops_stays_refused_all_night(told: bool, dry_run: bool) -> None:
    night = spend(replace(SETTINGS, dry_run=dry_run), 6, told=told or dry_run)
    assert night.passed == RULE.limit + 1, "up to the first verdict, and not once more"
    assert not night.ended
    lengths = [(extended.block.until_ns - extended.block.since_ns) // MINUTE_NS for extended in night.extended]
    assert lengths == [60, 120, 240, 480, 960]
    assert all(e.refused >= 20 and e.time_ns == e.block.since_ns + (e.block.until_ns - e.block.since_ns) // 2 - 2 * NS
               for e in night.extended)  # fmt: skip
    before = spend(
        replace(SETTINGS, dry_run=dry_run, escalation=Escalation(still_trying="end")), 6, told=told or dry_run
    )
    assert not before.extended
    assert before.passed >= 4 * RULE.limit


def test_a_mail_that_is_tried_again_every_few_minutes_never_extends_one() -> None:
    settings = replace(SETTINGS, rules=(replace(RULE, limit=0),))
    night = spend(settings, 300, hours=24)
    assert not night.extended
    assert night.ended


def test_it_is_never_longer_than_max_and_ends_when_the_user_has_stopped() -> None:
    night = spend(replace(SETTINGS, escalation=Escalation(max_ns=2 * HOUR_NS)), 6, hours=3, until_h=1.9)
    (first, second) = night.extended
    assert second.block.until_ns - second.block.since_ns == 2 * HOUR_NS
    assert first.block.since_ns == second.block.since_ns
    assert [ended.block.until_ns for ended in night.ended] == [second.block.until_ns], "19 minutes of it were quiet"
    short = spend(SETTINGS, 6, hours=3, until_h=0.3)
    assert not short.extended, "quiet in its last ten minutes"


def test_the_line_of_the_log() -> None:
    (extended, *_) = spend(SETTINGS, 6, hours=1).extended
    account = Account(uid=UID, name="web01", standing="tenant")
    line = parse_line(render_block(extended.block, account, T0, extended.block.until_ns, event="EXTENDED"))
    assert line.event == "EXTENDED"
    assert list(line.fields) == ["BY", "UNTIL", "RULE", "MODE", "REASON", "KIND", "PORTS"]
    assert line.fields["PORTS"] == "25"
