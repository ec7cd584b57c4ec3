"""The two windows of user space agree: what the ledger grants is the limit less what the engine's window holds.

`ExactLimits`, `CreditLedger` and the engine are the daemon's own; the program is a model of `take()` over the same
maps, byte for byte. Users connect, reports come late, neighbours in any order, a person unblocks, allows and ends
that, the configuration is read again with other limits, it is off for a while, the daemon ends and is restored from
its export. Whenever nothing is on its way and a tick has passed, both must agree exactly. Why there are two:
docs/adr/0001-two-windows-of-credits.md.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from smtpguard.daemon.enforce.exact_limits import ExactLimits
from smtpguard.model import NS, Allowance, AllowanceEnded, Block, Connect, Decision, Ended, Refusal, Subject, Verdict
from smtpguard.policy.engine import Engine
from smtpguard.policy.window_restore import StoredPart
from smtpguard.settings import Rule
from smtpguard.sources.bpf import credit_maps, kernel_credits, maps
from tests.support.policy import People, engine_of, settings_of

MS = NS // 1000
T0 = 1_000_000 * NS
USERS = (1001, 1002)
PORTS = (25, 587)
DRIFT_NS = 6 * MS
"""A credit may come back so late: the pause between two ticks."""
USED, ALLOWED = 3, 3
"""Where in the packed account and grant the counts of the rules begin."""


class Table:
    """A map of the kernel: bytes to bytes."""

    def __init__(self) -> None:
        self.rows: dict[bytes, bytes] = {}

    def lookup(self, key: bytes, *, locked: bool = False) -> bytes | None:
        del locked
        return self.rows.get(key)

    def update(self, key: bytes, value: bytes, *, locked: bool = False) -> None:
        del locked
        self.rows[key] = value

    def delete(self, key: bytes) -> bool:
        return self.rows.pop(key, None) is not None

    def keys(self) -> list[bytes]:
        return list(self.rows)

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        return iter(list(self.rows.items()))


class Program:
    """What connect.bpf.c does with rules that count connections, and what the daemon reads and writes of it."""

    features = SimpleNamespace(keys=False)

    def __init__(self) -> None:
        self.tables: dict[str, Table] = {}
        self.fields = SimpleNamespace(flags=0, heartbeat_ns=0, keyed=0, holding=0, cap_interval_ns=0, cap_depth_ns=0)
        self.config = SimpleNamespace(fields=self.fields, set_flag=self._set_flag)
        self.ports = frozenset(PORTS)
        self.rules_of: dict[int, int] = {}
        self.deny: dict[tuple[int, int | None], int] = {}
        self.enforcing = True

    def _set_flag(self, flag: int, *, on: bool) -> None:
        self.fields.flags = self.fields.flags | flag if on else self.fields.flags & ~flag

    def map(self, name: str) -> Table:
        return self.tables.setdefault(name, Table())

    def set_ports(self, ports: frozenset[int], rules: dict[int, int]) -> None:
        del ports
        self.rules_of = dict(rules)

    def read_count(self, which: int) -> int:
        del which
        return 0

    def connect(self, uid: int, port: int, now_ns: int) -> Connect:
        """take() of credits.bpf.h, without cap and keys."""
        made = Connect(
            time_ns=now_ns, uid=uid, port=port, address=bytes([192, 0, 2, 1]), sensor="bpf", result="allowed"
        )
        if self.enforcing and any(
            until > now_ns and where in (None, port) for (who, where), until in self.deny.items() if who == uid
        ):
            return replace(made, result="refused", refused_by="block")
        if not self.fields.flags & maps.FLAG_CREDITS:
            return made
        key = maps.pack_subject(uid, 0)
        grants, accounts = self.map("grants"), self.map("accounts")
        packed = grants.rows.setdefault(key, self.map("new_grant").rows[bytes(4)])
        grant = credit_maps._GRANT.unpack(packed)
        account = list(credit_maps._ACCOUNT.unpack(accounts.rows.get(key, bytes(credit_maps._ACCOUNT.size))))
        rules = [index for index in range(16) if self.rules_of.get(port, 0) >> index & 1]
        as_of_ns, spoken_ns, settled_ns = grant[2], grant[19], grant[36]
        verdict_ns, verdict_rule, last_ns = account[23], account[24], account[26]
        account[26] = now_ns if now_ns > max(as_of_ns, last_ns) else max(as_of_ns, last_ns) + 1
        made = replace(made, time_ns=account[26])
        exhausted = [index for index in rules if account[USED + index] >= grant[ALLOWED + index]]
        unsettled = verdict_ns > spoken_ns or now_ns <= settled_ns
        held = unsettled and (verdict_rule in rules or self.fields.holding >> 16 + verdict_rule & 1)
        if exhausted or held:
            begins = [index for index in exhausted if self.fields.holding >> index & 1]
            if begins and verdict_ns <= spoken_ns:
                account[23:25] = made.time_ns, begins[0]
            rule = account[24] if held or begins else exhausted[0]
            made = replace(made, result="refused", refused_by="credit", rule=rule)
        else:
            for index in rules:
                account[USED + index] += 1
            made = replace(made, credits=sum(1 << index for index in rules))
        accounts.rows[key] = credit_maps._ACCOUNT.pack(*account)
        return made


def reordered(connects: list[Connect], dice: random.Random) -> list[Connect]:
    """As two CPUs may have put them into the ring: neighbours that were let through change places.

    Around a verdict of a rule that blocks the engine is told what is still to come (`Engine.catch_up`), and has that
    twice in its other windows when it comes: see the ADR.
    """
    some = list(connects)
    for at in range(1, len(some)):
        if some[at - 1].result == some[at].result == "allowed" and dice.random() < 0.3:
            some[at - 1 : at + 1] = some[at], some[at - 1]
    return some


def rules_of(limits: tuple[int, int, int]) -> tuple[Rule, ...]:
    one, two, three = limits
    return (
        Rule(name="burst", count="connections", limit=one, window_ns=40 * MS, action="throttle", ports=frozenset({25})),
        Rule(name="busy", count="connections", limit=two, window_ns=90 * MS, action="throttle"),
        Rule(name="much", count="connections", limit=three, window_ns=250 * MS, action="block", block_ns=30 * MS),
        Rule(
            name="tried",
            count="connections",
            limit=one,
            window_ns=20 * MS,
            block_ns=50 * MS,
            action="block",
            dry_run=True,
        ),
    )


@dataclass
class World:
    """A guard without log, state and nft, and its program."""

    limits_of: tuple[int, int, int]
    now_ns: int = T0
    waiting: list[Connect] = field(default_factory=list)
    engine: Engine = field(init=False)
    program: Program = field(init=False)
    limits: ExactLimits = field(init=False)
    source: Any = field(init=False)

    def __post_init__(self) -> None:
        self.people = People()
        self.engine = engine_of(*rules_of(self.limits_of), people=self.people)
        self.start()

    def clock(self) -> int:
        return self.now_ns

    def start(self) -> None:
        self.program = Program()
        self.source = SimpleNamespace(
            guard=self.program,
            stats=SimpleNamespace(lost=0, notes={}),
            ring_lost=0,
            drained_ns=self.now_ns,
        )
        self.limits = ExactLimits(cast("Any", self.people), self.engine, self.clock)
        self.limits.attach(self.source)
        self.limits.judge_unread = self.catch_up
        self.refresh(restored=True)

    def refresh(self, *, restored: bool = False, anew: bool = True) -> None:
        settings_ = settings_of(*rules_of(self.limits_of), ports=frozenset(PORTS), attribution_process=False)
        self.limits.refresh(settings_, (), trusted=True, anew=anew, restored=restored)
        assert self.limits.trouble is None
        self.now_ns += 1  # what begins after it is later

    def act(self, decisions: list[Decision]) -> None:
        for decision in decisions:
            if isinstance(decision, Block | Ended):
                block = decision if isinstance(decision, Block) else decision.block
                self.carry_out(block.subject.id)
            elif isinstance(decision, AllowanceEnded):
                self.limits.reset(decision.allowance.subject.id, decision.time_ns - 1)
                self.refresh()

    def carry_out(self, uid: int) -> None:
        """What the kernel is to refuse somebody, from all blocks that are in force: one ends, another goes on."""
        for key in [key for key in self.program.deny if key[0] == uid]:
            del self.program.deny[key]
        for block in self.engine.blocks():
            if block.subject.id == uid and block.mode == "enforce":
                for port in [None] if block.ports is None else block.ports:
                    self.program.deny[uid, port] = max(block.until_ns, self.program.deny.get((uid, port), 0))

    def deliver(self, connects: list[Connect]) -> None:
        for connect in connects:
            subject = Subject(id=cast("int", connect.uid))
            if connect.refused_by == "credit":
                assert self.limits.prepare(connect, subject) is None
            decisions = self.engine.feed(connect)
            self.act(decisions)
            self.limits.note(connect, subject, decisions)
            if connect.result == "allowed" and connect.credits:
                found = [d for d in decisions if isinstance(d, Verdict | Refusal) and d.mode == "enforce"]
                assert not found, (connect, decisions)

    def catch_up(self) -> None:
        """What the source has is judged now: all of it, as there is never more than one look brings."""
        some, self.waiting = self.waiting, []
        self.now_ns += 1
        self.source.drained_ns = self.now_ns
        self.deliver(some)

    def turn(self) -> None:
        self.source.drained_ns = self.now_ns
        self.act(self.engine.tick(self.now_ns))
        self.limits.on_time(self.now_ns)

    def do(self, step: tuple[str, int, int], dice: random.Random) -> None:
        what, who, many = step
        uid = USERS[who % len(USERS)]
        subject = Subject(id=uid)
        if what == "connect":
            for _ in range(many):
                self.waiting.append(self.program.connect(uid, dice.choice(PORTS), self.now_ns))
                self.now_ns += dice.choice([1, 1000, MS])
                if any(allowance.until_ns <= self.now_ns for allowance in self.engine.allowances()):
                    self.turn()  # until it hears of the end the program lets through what the allowance did
        elif what == "wait":
            self.now_ns += many * 5 * MS
            self.turn()
        elif what == "deliver":
            some, self.waiting = self.waiting[: many * 2], self.waiting[many * 2 :]
            self.deliver(reordered(some, dice))
        elif what == "restart":  # what was on its way is lost with the program
            self.settle()
            parts = self.engine.memory.export(full=True)
            self.engine = engine_of(*rules_of(self.limits_of), people=self.people)
            self.engine.memory.restore_windows([StoredPart(part=part, shift_ns=0) for part in parts], self.now_ns)
            self.start()
        elif what == "pause":  # off and on: what came meanwhile and waits unread counts all the same
            self.settle()
            self.switch(off=True)
            for _ in range(many):
                self.waiting.append(self.program.connect(uid, dice.choice(PORTS), self.now_ns))
                self.now_ns += dice.choice([1, 1000, MS])
                if dice.random() < 0.3:
                    self.catch_up()
            self.switch(off=False)
            self.agree()
        else:
            if what == "reload" or dice.random() < 0.5:  # else what was done before the order is reported after it
                self.settle()
            if what == "unblock":
                self.act(list(self.engine.commands.unblock(subject, by="admin", now_ns=self.now_ns)))
                self.limits.reset(uid)
            elif what == "allow":
                until_ns = self.now_ns + many * 20 * MS
                allowance = Allowance(subject=subject, name=None, since_ns=self.now_ns, until_ns=until_ns, by="admin")
                self.act(self.engine.commands.allow(allowance))
                self.limits.reset(uid)
                self.refresh()
            elif what == "end":
                self.act(self.engine.commands.end_allowance(subject, by="admin", now_ns=self.now_ns))
            elif what == "reload":
                self.limits_of = (many % 4 + 1, many % 7 + 2, many + 3)
                changed = settings_of(*rules_of(self.limits_of), ports=frozenset(PORTS))
                self.act(self.engine.reconfigure(changed, self.people, self.now_ns))
                self.refresh()
            self.now_ns += 1

    def switch(self, *, off: bool) -> None:
        self.engine.commands.set_off(off=off)
        self.program.enforcing = not off
        self.refresh(anew=False)

    def settle(self) -> None:
        """Nothing is on its way any more, and a tick has passed: both windows must agree."""
        self.deliver(sorted(self.waiting, key=lambda connect: connect.time_ns))
        self.waiting = []
        self.now_ns += DRIFT_NS
        self.turn()
        self.agree()

    def agree(self) -> None:
        """What the program grants is what the windows leave."""
        now_ns, self.now_ns = self.now_ns, self.now_ns + DRIFT_NS
        assert not self.waiting, "the program's word was not changed by what came before"
        held: dict[tuple[int, str], list[int]] = {
            (uid, name): times for uid, name, times in self.engine.exact.windows()
        }
        allowed = {allowance.subject.id for allowance in self.engine.allowances()}
        for uid in USERS:
            key = maps.pack_subject(uid, 0)
            packed = self.program.map("grants").rows.get(key)
            if packed is None:
                continue
            grant = credit_maps._GRANT.unpack(packed)
            account = credit_maps._ACCOUNT.unpack(
                self.program.map("accounts").rows.get(key, bytes(credit_maps._ACCOUNT.size))
            )
            for index, rule in enumerate(rule for rule in rules_of(self.limits_of) if not rule.dry_run):
                times = [at_ns for at_ns in held.get((uid, rule.name), ()) if at_ns > now_ns - rule.window_ns]
                limit = rule.limit * (10 if uid in allowed else 1)
                left = grant[ALLOWED + index] - account[USED + index]
                assert max(0, left) == max(0, limit - len(times)), (uid, rule, left, len(times))


ORDERS = ("unblock", "allow", "end", "reload", "restart", "pause")
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("connect"), st.integers(0, 1), st.integers(1, 12)),
        st.tuples(st.just("wait"), st.just(0), st.integers(1, 12)),
        st.tuples(st.just("deliver"), st.just(0), st.integers(1, 8)),
        st.tuples(st.sampled_from(ORDERS), st.integers(0, 1), st.integers(1, 9)),
    ),
    min_size=4,
    max_size=40,
)


@given(steps=STEPS, seed=st.integers(0, 1 << 32), limits=st.tuples(*[st.integers(1, 6)] * 3))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_ledger_and_engine_agree_after_any_interleaving(
    monkeypatch: pytest.MonkeyPatch, steps: list[tuple[str, int, int]], seed: int, limits: tuple[int, int, int]
) -> None:
    world = World.__new__(World)
    monkeypatch.setattr(kernel_credits, "boottime_ns", lambda: world.now_ns)
    World.__init__(world, limits_of=(limits[0], limits[0] + limits[1], sum(limits)))
    dice = random.Random(seed)
    for step in steps:
        world.do(step, dice)
    world.settle()
    assert any(step[0] == "connect" for step in steps) or not world.program.map("accounts").rows
