"""What is undone when a doubted address turns out to be an exempt name's, fail2ban's ban of that verdict too."""

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from smtpguard.daemon.forgiveness import BAN_NS, MAX_REMEMBERED, Forgiveness, _remember
from smtpguard.enrich.host_addresses import Cleared
from smtpguard.model import NS, Account, Decision, Ended, Refusal, Subject, Verdict
from tests.support.policy import BURST, T0, WEB, block_of, engine_of, feed

if TYPE_CHECKING:
    from smtpguard.daemon.execution import Execution

RELAY, MX = bytes([198, 18, 7, 1]), bytes([198, 18, 9, 9])
WEB01 = Subject(id=WEB)
CLEARED = [Cleared(subject=WEB01, address=RELAY, name="relay.example")]
BAN = replace(block_of("fail2ban:smtpguard"), ids=("u1001", "1001"))


class Host:
    """A guard of a real engine, and what it is told."""

    def __init__(self, **settings: Any) -> None:  # noqa: ANN401 - as engine_of
        self.engine = engine_of(BURST, **settings)
        self.now_ns = T0 + 10 * NS
        self.ended: list[Ended] = []
        self.requested: list[str] = []
        self.unbanned: list[tuple[tuple[str, ...], str]] = []
        self.doubted: list[tuple[bytes, Subject]] = []
        self.enforcement: Any = SimpleNamespace(request=self.requested.append)
        self.clearing = Forgiveness(
            self.engine,
            cast("Execution", self),
            self.enforcement,
            self.now,
            doubt=lambda *asked: self.doubted.append(asked),
            tell_fail2ban=self.unban,
        )

    def now(self) -> int:
        return self.now_ns

    def account_of(self, subject: Subject) -> Account:
        return Account(uid=subject.id, name=f"u{subject.id}", standing="tenant")

    def act(self, decisions: Iterable[Decision]) -> None:
        self.ended += [decision for decision in decisions if isinstance(decision, Ended)]

    def unban(self, sources: Iterable[str], user: str) -> int:
        self.unbanned.append((tuple(sources), user))
        return 1

    def see(self, times: Iterable[float], address: bytes) -> None:
        for decision in feed(self.engine, times, address=address):
            match decision:
                case Verdict():
                    self.clearing.judged(decision)
                case Refusal():
                    self.clearing.refused(decision)


def test_verdicts_and_refusals_are_doubted_and_warnings_are_not() -> None:
    host = Host()
    host.see(range(5), MX)
    assert host.doubted == [(MX, WEB01)] * 2
    host = Host()
    [verdict, _] = feed(host.engine, range(4), address=MX)
    host.clearing.judged(replace(verdict, action="warn"))
    assert host.doubted == []


def test_the_guards_block_and_the_ban_that_followed_are_undone() -> None:
    host = Host()
    host.see(range(4), RELAY)
    host.engine.commands.add_block(replace(BAN, since_ns=T0 + 4 * NS))
    host.engine.commands.add_block(replace(block_of("admin"), since_ns=T0 + 4 * NS))
    host.clearing.take(CLEARED)
    assert [(end.block.source, end.by) for end in host.ended] == [("guard", "exempt"), (BAN.source, "exempt")]
    assert host.unbanned == [((BAN.source,), "u1001"), ((BAN.source,), "1001")]
    assert host.requested == ["forgiven"]
    assert [block.source for block in host.engine.blocks()] == ["admin"]


def test_a_ban_that_comes_later_is_recognised_and_another_is_not() -> None:
    host = Host(block_by="fail2ban")
    host.see(range(4), RELAY)
    assert not host.clearing.is_undone(WEB01, T0 + 4 * NS)
    host.clearing.take(CLEARED)
    assert len(feed(host.engine, range(11, 15), address=MX)) == 1, "judged again at once: a verdict"
    assert host.clearing.is_undone(WEB01, T0 + 2 * NS), "its log line has whole seconds"
    assert host.clearing.is_undone(WEB01, T0 + 10 * NS)
    assert not host.clearing.is_undone(WEB01, T0)
    assert not host.clearing.is_undone(WEB01, T0 + 4 * NS + BAN_NS)
    assert not host.clearing.is_undone(Subject(id=1002), T0 + 4 * NS)
    host.see(range(30, 34), MX)
    assert not host.clearing.is_undone(WEB01, T0 + 23 * NS), "a verdict over something else"


def test_who_was_judged_over_something_else_stays_blocked_and_banned() -> None:
    host = Host()
    host.see(range(4), MX)
    host.engine.commands.add_block(replace(BAN, since_ns=T0 + 4 * NS))
    host.see([5], RELAY)
    host.clearing.take(CLEARED)
    assert (host.ended, host.unbanned, host.requested) == ([], [], [])
    assert len(host.engine.blocks()) == 2


def test_what_is_remembered_of_users_has_a_bound() -> None:
    memory: OrderedDict[Subject, int] = OrderedDict()
    for uid in range(MAX_REMEMBERED + 5):
        _remember(memory, Subject(id=uid), uid)
    assert len(memory) == MAX_REMEMBERED
    assert Subject(id=0) not in memory
