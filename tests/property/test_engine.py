"""The engine equals an oracle that reads the semantics literally, for any rules and traffic, in and out of order."""

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpguard.model import NS, Account, BreakerChange, Connect, Decision, Refusal, Subject, Verdict
from smtpguard.policy import rule_windows
from smtpguard.policy.engine import Engine
from smtpguard.settings import BreakerLimits, Escalation, Rule, Settings
from tests.property.engine_oracle import Oracle, Said

NEWCOMER_NS = 40 * NS
PORTS = (25, 587)
ADDRESSES = [bytes([192, 0, net, host]) for net in (1, 2, 3) for host in (1, 2)] + [
    bytes.fromhex("20010db8000100000000000000000001"),
    bytes.fromhex("20010db8000100010000000000000001"),
]


class Tenants:
    def owner(self, uid: int) -> int:
        return uid

    def account(self, uid: int) -> Account:
        return Account(uid=uid, name=f"u{uid}", standing="tenant")


@st.composite
def rules(draw: st.DrawFn) -> tuple[Rule, ...]:
    many = draw(st.integers(1, 4))
    return tuple(
        Rule(
            name=f"r{i}",
            count=draw(st.sampled_from(["connections", "connections", "destinations", "networks"])),
            limit=draw(st.integers(0, 5)),
            window_ns=draw(st.integers(1, 30)) * NS,
            action=draw(st.sampled_from(["warn", "throttle", "block"])),
            ports=draw(st.sampled_from([None, frozenset({25}), frozenset({587}), frozenset(PORTS)])),
            block_ns=draw(st.integers(1, 40)) * NS,
            novel_ns=draw(st.sampled_from([None, None, None, 5 * NS, 20 * NS])),
            dry_run=draw(st.booleans()),
            refuse=draw(st.sampled_from(["ports", "ports", "all"])),
        )
        for i in range(many)
    )


@st.composite
def configurations(draw: st.DrawFn) -> Settings:
    return Settings(
        dry_run=draw(st.booleans()),
        rules=draw(rules()),
        escalation=Escalation(
            still_trying="end",
            factor=draw(st.sampled_from([1.0, 1.5, 3.0])),
            max_ns=60 * NS,
            forget_ns=draw(st.sampled_from([1, 50])) * NS,
        ),
        breaker=BreakerLimits(blocks=draw(st.integers(0, 4)), per_ns=draw(st.integers(1, 30)) * NS),
    )


def steps(*, late_s: int) -> st.SearchStrategy[list[tuple[Any, ...]]]:
    """What happens: attempts with their step in time (late ones go back), ticks, unblocks."""
    attempt = st.tuples(
        st.just("connect"),
        st.one_of(st.integers(0, 3 * NS), st.sampled_from([0, NS, 5 * NS, 30 * NS])),
        st.one_of(st.just(0), st.integers(0, late_s * NS)) if late_s else st.just(0),
        st.sampled_from([1000, 1000, 1000, 1001, 1002]),
        st.sampled_from(PORTS),
        st.sampled_from(ADDRESSES),
        st.sampled_from([None, None, None, None, "credit", "block", "cap", "other"]),
    )
    return st.lists(
        st.one_of(attempt, attempt, attempt, attempt, attempt, attempt, st.tuples(st.just("tick")))
        | st.tuples(st.just("unblock"), st.sampled_from([1000, 1001])),
        max_size=80,
    )


def said(decisions: list[Decision]) -> list[Said]:
    out: list[Said] = []
    for decision in decisions:
        if isinstance(decision, Verdict):
            d = decision
            out.append(("verdict", d.rule, d.count, d.action, d.until_ns, d.mode))
        elif isinstance(decision, Refusal):
            out.append(("refusal", decision.by, decision.mode))
        elif isinstance(decision, BreakerChange):
            out.append(("breaker", decision.tripped))
    return out


def connect_of(time_ns: int, step: tuple[Any, ...]) -> Connect:
    _, _, late_ns, uid, port, address, by = step
    return Connect(
        time_ns=time_ns - late_ns,
        uid=uid,
        port=port,
        address=address,
        sensor="test",
        result=None if by is None else "refused",
        refused_by=None if by == "other" else by,
    )


@pytest.fixture(autouse=True)
def _short_newcomers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rule_windows, "NEWCOMER_NS", NEWCOMER_NS)


def run_both(configuration: Settings, script: list[tuple[Any, ...]], known_s: int | None = None) -> None:
    engine = Engine(settings=configuration, directory=Tenants(), why_exempt=lambda _: None)
    oracle = Oracle(configuration, NEWCOMER_NS)
    now = 1000 * NS
    if known_s is not None:
        oracle.known_ns = now + known_s * NS
        engine.memory.know_since(oracle.known_ns)
    for step in script:
        if step[0] == "tick":
            engine.tick(now)
            oracle.tick(now)
        elif step[0] == "unblock":
            engine.commands.unblock(Subject(id=step[1]), by="admin", now_ns=now)
            oracle.unblock(step[1], now)
        else:
            now += step[1]
            attempt = connect_of(now, step)
            assert said(engine.feed(attempt)) == oracle.feed(attempt)


@given(configurations(), steps(late_s=0), st.sampled_from([None, None, -3, 0, 15]))
@settings(max_examples=300, deadline=None)
def test_equals_the_oracle_in_order(
    configuration: Settings, script: list[tuple[Any, ...]], known_s: int | None
) -> None:
    run_both(configuration, script, known_s)


@given(configurations(), steps(late_s=50))
@settings(max_examples=300, deadline=None)
def test_equals_the_oracle_out_of_order(configuration: Settings, script: list[tuple[Any, ...]]) -> None:
    run_both(configuration, script)


@pytest.mark.parametrize("seed", range(8))
def test_equals_the_oracle_in_long_traffic(seed: int) -> None:
    """Windows that fill, slide, are trimmed and looked at seldom: what short histories do not reach."""
    chance = random.Random(seed)
    configuration = Settings(
        dry_run=False,
        rules=tuple(
            Rule(
                name=f"r{number}",
                count=chance.choice(["connections", "destinations", "networks"]),
                limit=chance.choice([3, 20, 40, 90]),
                window_ns=chance.choice([10, 60, 200]) * NS,
                action=chance.choice(["warn", "warn", "throttle", "block"]),
                ports=chance.choice([None, frozenset({25}), frozenset(PORTS)]),
                block_ns=5 * NS,
            )
            for number in range(6)
        ),
        breaker=BreakerLimits(blocks=50),
        escalation=Escalation(still_trying="end"),
    )
    engine = Engine(settings=configuration, directory=Tenants(), why_exempt=lambda _: None)
    oracle = Oracle(configuration, NEWCOMER_NS)
    now = 1000 * NS
    for number in range(2500):
        now += chance.choice([0, NS // 10, NS // 2, NS, 3 * NS]) if number % 300 else 70 * NS
        net, host = chance.randrange(60) if chance.random() < 0.5 else 1, chance.randrange(3)
        attempt = Connect(
            time_ns=now - chance.choice([0] * 9 + [2 * NS]),
            uid=1000,
            port=chance.choice(PORTS),
            address=bytes([192, 0, net, host]),
            sensor="test",
        )
        assert said(engine.feed(attempt)) == oracle.feed(attempt), number
