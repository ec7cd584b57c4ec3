"""Laws that hold for any traffic: dry run tells the truth, a restart changes nothing, N pass and no more."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpguard.model import NS, Action, Block, Connect, Count, Decision, Refusal, Subject, Verdict
from smtpguard.policy import rule_windows
from smtpguard.policy.engine import Engine
from smtpguard.settings import BreakerLimits, Rule, Settings
from tests.property.test_engine import ADDRESSES, NEWCOMER_NS, PORTS, Tenants, configurations, connect_of, said, steps
from tests.unit.test_engine_snapshot import Store


def engine_for(configuration: Settings) -> Engine:
    return Engine(settings=configuration, directory=Tenants(), why_exempt=lambda _: None)


@pytest.fixture(autouse=True)
def _short_newcomers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rule_windows, "NEWCOMER_NS", NEWCOMER_NS)


def without_mode(decisions: list[Decision]) -> list[Any]:
    out: list[Any] = []
    for decision in decisions:
        if isinstance(decision, Verdict):
            out.append((decision.rule, decision.count, decision.action, decision.until_ns, decision.time_ns))
        elif isinstance(decision, Block):
            out.append((decision.kind, decision.since_ns, decision.until_ns, decision.level, decision.renewed))
        elif isinstance(decision, Refusal):
            out.append((decision.by, decision.time_ns))
        else:
            out.append(type(decision))
    return out


@given(configurations(), steps(late_s=20))
@settings(max_examples=150, deadline=None)
def test_dry_run_says_what_enforcement_says(configuration: Settings, script: list[tuple[Any, ...]]) -> None:
    rules = tuple(replace(rule, dry_run=False) for rule in configuration.rules)
    hot = engine_for(replace(configuration, dry_run=False, rules=rules))
    dry = engine_for(replace(configuration, dry_run=True, rules=rules))
    now = 1000 * NS
    for step in script:
        if step[0] == "tick":
            assert without_mode(hot.tick(now)) == without_mode(dry.tick(now))
        elif step[0] == "connect":
            now += step[1]
            attempt = connect_of(now, (*step[:-1], None))
            told = hot.feed(attempt)
            assert without_mode(told) == without_mode(dry.feed(attempt))


@given(configurations(), steps(late_s=0), st.sets(st.integers(0, 80), max_size=4))
@settings(max_examples=150, deadline=None)
def test_restart_changes_nothing(configuration: Settings, script: list[tuple[Any, ...]], restarts: set[int]) -> None:
    configuration = replace(configuration, breaker=BreakerLimits(blocks=10**6))  # the breaker forgets at a restart
    steady, store = engine_for(configuration), Store()
    engine = engine_for(configuration)
    now = 1000 * NS
    for number, step in enumerate(script):
        if number in restarts:
            store.keep(engine.memory.export())
            blocks = engine.blocks()
            engine = engine_for(configuration)
            assert engine.memory.restore_windows(store.stored(), now) == 0
            for block in blocks:
                engine.commands.add_block(block)
        if step[0] == "tick":
            store.keep(engine.memory.export())
        elif step[0] == "unblock":
            for each in (steady, engine):
                each.commands.unblock(Subject(id=step[1]), by="admin", now_ns=now)
        else:
            now += step[1]
            attempt = connect_of(now, step)
            assert said(engine.feed(attempt)) == said(steady.feed(attempt))


@given(
    st.integers(1, 6),
    st.sampled_from(["throttle", "block"]),
    st.sampled_from(["connections", "destinations", "networks"]),
    st.lists(st.tuples(st.integers(0, 3 * NS), st.sampled_from(PORTS), st.sampled_from(ADDRESSES)), max_size=150),
)
@settings(max_examples=150, deadline=None)
def test_no_window_ever_holds_more_than_the_limit(
    limit: int,
    action: Action,
    count: Count,
    script: list[tuple[int, int, bytes]],
) -> None:
    rule = Rule(name="r", count=count, limit=limit, window_ns=10 * NS, action=action, block_ns=4 * NS)
    engine = engine_for(Settings(dry_run=False, rules=(rule,), breaker=BreakerLimits(blocks=10**6)))
    now = 1000 * NS
    passed: list[tuple[int, bytes]] = []
    emptied = 0
    for step, port, address in script:
        now += step
        decisions = engine.feed(Connect(time_ns=now, uid=1000, port=port, address=address, sensor="test"))
        if not decisions:
            passed.append((now, address))
        elif action == "block" and any(isinstance(decision, Verdict) for decision in decisions):
            emptied = now
        window = [address for time, address in passed if max(now - 10 * NS, emptied) < time]
        keys: dict[Count, int] = {"connections": len(window), "destinations": len(set(window))}
        keys["networks"] = len({address[: 3 if len(address) == 4 else 6] for address in window})
        assert keys[count] <= limit
