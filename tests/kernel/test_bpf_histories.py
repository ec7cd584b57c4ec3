"""Kernel and engine over the same random histories: what one lets through the other does, judged while it happens.

The client connects at random while the daemon's own objects (source, engine, ExactLimits, denies) judge, as Guard does.
Whatever the kernel let through the engine must count without a verdict, and whatever a rule that counts destinations or
networks refused the engine must refuse too, with the same count; but for what the kernel refused because the daemon had
not spoken yet. Credits of a connections rule come back up to a tick late: they may refuse what the engine would not,
never let through what it would.
"""

import os
import random
import time
from collections.abc import Generator, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import pytest

from smtpguard.actions.base import Exemptions
from smtpguard.actions.bpf_deny import BpfDeny
from smtpguard.clock import boottime_ns
from smtpguard.daemon.enforce.exact_limits import ExactLimits
from smtpguard.daemon.enforce.reconciler import merge_denies
from smtpguard.model import NS, Block, Connect, Decision, Ended, Refusal, Subject, Verdict
from smtpguard.policy.engine import Engine
from smtpguard.settings import Escalation, Rule
from tests.kernel.bpf_lab import Lab, dial, open_lab
from tests.support.policy import People, engine_of, person, settings_of

if TYPE_CHECKING:
    from smtpguard.enrich.accounts.directory import AccountDirectory

pytestmark = pytest.mark.kernel

MS = NS // 1000
PORT25 = frozenset({25})
LABS_OF = 200
"""Histories in one loaded program: each has a user of its own, and all users are looked at when limits begin anew."""


@pytest.fixture
def lab() -> Generator[Lab]:
    with open_lab() as made:
        yield made


def draw_rules(dice: random.Random) -> list[Rule]:
    """Up to three rules, in any order, with windows that slide several times in a history."""

    def rule(name: str, count: str, least: int, most: int, *actions: str) -> Rule:
        return Rule(
            name=name,
            ports=PORT25,
            count=cast("Any", count),
            limit=dice.randint(least, most),
            window_ns=dice.choice([5, 12, 30]) * MS,
            action=cast("Any", dice.choice(actions)),
            block_ns=dice.choice([40, 80]) * MS,  # a busy machine keeps the daemon away for 15
        )

    rules = [
        rule("fanout", "networks", 0, 4, "block", "throttle"),
        rule("wide", "destinations", 1, 7, "block"),
        rule("burst", "connections", 3, 20, "throttle", "block"),
    ]
    dice.shuffle(rules)
    return rules[: dice.randint(1, 3)]


@dataclass
class World:
    """The daemon's objects about one user."""

    lab: Lab
    uid: int
    rules: list[Rule]
    deny: BpfDeny
    engine: Engine = field(init=False)
    limits: ExactLimits = field(init=False)
    fed: list[tuple[Connect, list[Decision], bool]] = field(default_factory=list)
    spoken_ns: int = 0

    def __post_init__(self) -> None:
        known = People([person(self.uid, "tenant", "web")])
        self.engine = engine_of(*self.rules, people=known, escalation=Escalation(still_trying="end"))
        self.limits = ExactLimits(cast("AccountDirectory", known), self.engine, boottime_ns)
        self.limits.attach(self.lab.source)
        self.limits.refresh(settings_of(*self.rules), (), trusted=True, anew=True, restored=True)
        assert self.limits.trouble is None

    @property
    def subject(self) -> Subject:
        return Subject(id=self.uid)

    def turn(self) -> None:
        """What the loop does in a turn."""
        for connect in self.lab.source.read():
            if connect.uid == self.uid:
                self.judge(connect, early=False)
        now_ns = boottime_ns()
        self.act(self.engine.tick(now_ns))
        for connect in self.limits.take_overdue(now_ns):
            self.judge(connect, early=True)
        self.limits.on_time(now_ns)

    def judge(self, connect: Connect, *, early: bool) -> None:
        """As Guard._judge."""
        if connect.refused_by == "credit":
            if not early and self.limits.is_known(connect):
                return
            missed = self.limits.prepare(connect, self.subject)
            if missed is not None:
                self.judge(missed, early=True)
        # A refusal before we had spoken is nobody's opinion but the hold's.
        alike = connect.time_ns <= self.spoken_ns or self.engine.exact.would_refuse(self.subject, connect)
        decisions = self.engine.feed(connect)
        self.act(decisions)
        self.limits.note(connect, self.subject, decisions)
        if connect.refused_by == "credit":
            self.spoken_ns = boottime_ns()
        self.fed.append((connect, decisions, alike))

    def act(self, decisions: Iterable[Decision]) -> None:
        if any(isinstance(decision, Block | Ended) for decision in decisions):
            for deny in merge_denies(self.subject, self.engine.blocks_of(self.subject), boottime_ns()).values():
                self.deny.apply_deny(deny)

    def check(self, seed: int) -> None:
        """No difference between what the kernel did and what the engine thinks of it."""
        for connect, decisions, alike in self.fed:
            verdicts = [decision for decision in decisions if isinstance(decision, Verdict)]
            where = (seed, self.rules, connect, decisions)
            assert all(verdict.count == verdict.limit + 1 for verdict in verdicts), where
            if connect.result == "allowed":
                assert not verdicts, where
                refused = any(isinstance(decision, Refusal) for decision in decisions)
                assert not refused, where
            elif connect.refused_by == "credit":
                assert connect.rule is not None
                assert alike or self.rules[connect.rule].count == "connections", where


def run_history(lab: Lab, seed: int, *, processes: int) -> World:
    """One user's history, judged while it happens."""
    dice = random.Random(seed)
    deny = BpfDeny(lab.source.guard)
    deny.apply_exemptions(Exemptions())
    lab.source.guard.set_enforcing(on=True)
    world = World(lab, 100_000 + seed, draw_rules(dice), deny)
    attempts = 40 // processes
    plans = [
        [
            (f"198.18.{dice.randint(1, 6)}.{dice.randint(1, 3)}", dice.choice([0, 0, 0, 0.0005, 0.002, 0.007]))
            for _ in range(attempts)
        ]
        for _ in range(processes)
    ]
    gate, opener = os.pipe()
    children = []
    for plan in plans:
        child = os.fork()
        if child == 0:
            try:
                os.close(opener)
                (lab.cgroup / "cgroup.procs").write_text(str(os.getpid()))
                os.setresuid(world.uid, world.uid, world.uid)
                os.read(gate, 1)
                for address, pause_s in plan:
                    dial(address, nonblocking=True)
                    if pause_s:
                        time.sleep(pause_s)
            finally:
                os._exit(0)
        children.append(child)
    world.turn()
    os.close(opener)
    os.close(gate)
    while children:
        world.turn()
        if dice.random() < 0.1:
            time.sleep(dice.choice([0.001, 0.004]))  # the loop has other things to do
        children = [child for child in children if os.waitpid(child, os.WNOHANG) == (0, 0)]
    world.turn()
    assert len(world.fed) == attempts * processes
    world.check(seed)
    return world


@pytest.mark.parametrize("processes", [1, 2])
def test_kernel_and_engine_judge_random_histories_alike(lab: Lab, processes: int) -> None:
    refusals = sum(
        connect.refused_by == "credit"
        for seed in range(40)
        for connect, _, _ in run_history(lab, seed, processes=processes).fed
    )
    assert refusals > 40


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("processes", [1, 2])
def test_kernel_and_engine_judge_ten_thousand_histories_alike(processes: int) -> None:
    for first in range(1000, 11_000, LABS_OF):
        with open_lab() as lab:
            for seed in range(first, first + LABS_OF):
                run_history(lab, seed, processes=processes)
