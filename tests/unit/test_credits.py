"""The userspace half of exact limits against an oracle: never more than N in any window, none lost for ever."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpguard.policy.credit_rules import NO_LIMIT, CreditRule, choose_credit_rules
from smtpguard.policy.credits import CreditLedger
from smtpguard.settings import Rule

UID = 1001
WINDOW = 100
RULES = (
    CreditRule(ports=frozenset({25}), limit=3, window_ns=WINDOW),
    CreditRule(ports=frozenset({25, 587}), limit=5, window_ns=3 * WINDOW),
)


@dataclass
class Kernel:
    """What the program does with one user, without its locks: takes a credit of every matching rule, or none."""

    rules: tuple[CreditRule, ...]
    used: list[int] = field(default_factory=lambda: [0, 0])
    allowed: list[int] = field(default_factory=list)
    as_of_ns: int = 0

    def __post_init__(self) -> None:
        self.allowed = [rule.limit for rule in self.rules]

    def connect(self, port: int) -> int | None:
        """Bits of credits taken; None if refused."""
        wanted = [index for index, rule in enumerate(self.rules) if port in rule.ports]
        if any(self.used[index] >= self.allowed[index] for index in wanted):
            return None
        for index in wanted:
            self.used[index] += 1
        return sum(1 << index for index in wanted)

    def take(self, ledger: CreditLedger, now_ns: int) -> None:
        for grant in ledger.tick(now_ns):
            self.allowed, self.as_of_ns = list(grant.allowed), grant.as_of_ns


def count(times: list[int], now_ns: int, window_ns: int) -> int:
    return sum(now_ns - window_ns < time_ns <= now_ns for time_ns in times)


@given(st.lists(st.tuples(st.integers(0, 40), st.sampled_from([25, 587]), st.integers(0, 3)), max_size=200))
def test_passing_attempts_are_exactly_those_of_the_sliding_windows(steps: list[tuple[int, int, int]]) -> None:
    kernel, ledger = Kernel(RULES), CreditLedger(RULES)
    passed: list[list[int]] = [[], []]
    now_ns = 1000
    for pause_ns, port, _ in steps:
        now_ns += pause_ns
        kernel.take(ledger, now_ns)
        matching = [index for index, rule in enumerate(RULES) if port in rule.ports]
        room = all(count(passed[i], now_ns, RULES[i].window_ns) < RULES[i].limit for i in matching)
        credits_taken = kernel.connect(port)
        assert (credits_taken is not None) == room
        if credits_taken is not None:
            for index in matching:
                passed[index].append(now_ns)
            ledger.note(UID, port, now_ns, credits_taken, entered=True)


@given(st.lists(st.tuples(st.integers(0, 40), st.sampled_from([25, 587]), st.integers(0, 3)), max_size=200))
def test_late_reports_and_late_ticks_never_let_one_too_many_through(steps: list[tuple[int, int, int]]) -> None:
    kernel, ledger = Kernel(RULES), CreditLedger(RULES)
    passed: list[list[int]] = [[], []]
    ring: list[tuple[int, int, int]] = []
    now_ns = 1000
    for pause_ns, port, what in steps:
        now_ns += pause_ns
        if what == 0:
            for report in ring:
                ledger.note(UID, *report, entered=True)
            ring.clear()
        elif what == 1:
            kernel.take(ledger, now_ns)
        credits_taken = kernel.connect(port)
        if credits_taken is None:
            continue
        ring.append((port, now_ns, credits_taken))
        for index, rule in enumerate(RULES):
            if port in rule.ports:
                passed[index].append(now_ns)
                assert count(passed[index], now_ns, rule.window_ns) <= rule.limit
    for report in ring:
        ledger.note(UID, *report, entered=True)
    kernel.take(ledger, now_ns + 10 * WINDOW)
    assert [a - u for a, u in zip(kernel.allowed, kernel.used, strict=True)] == [3, 5]  # every credit came back


def run(kernel: Kernel, ledger: CreditLedger, now_ns: int, many: int, *, entered: bool = True) -> int:
    """How many of so many attempts on port 25 pass."""
    passed = 0
    for _ in range(many):
        taken = kernel.connect(25)
        if taken is not None:
            passed += 1
            ledger.note(UID, 25, now_ns, taken, entered=entered)
    return passed


def test_attempts_that_entered_no_window_give_their_credit_back() -> None:
    kernel, ledger = Kernel(RULES), CreditLedger(RULES)
    assert run(kernel, ledger, 10, 9, entered=False) == 3
    kernel.take(ledger, 11)
    assert run(kernel, ledger, 11, 9) == 3


def test_attempts_without_a_credit_count_too() -> None:
    kernel, ledger = Kernel(RULES), CreditLedger(RULES)
    ledger.note(UID, 25, 10, 0, entered=True)
    ledger.note(UID, 25, 10, 0, entered=True)
    kernel.take(ledger, 11)
    assert run(kernel, ledger, 11, 9) == 1


def test_an_empty_window_is_a_fresh_one() -> None:
    kernel, ledger = Kernel(RULES), CreditLedger(RULES)
    assert run(kernel, ledger, 10, 9) == 3
    ledger.reset(UID, 0)
    kernel.take(ledger, 11)
    assert run(kernel, ledger, 11, 9) == 2  # the other rule holds 3 of 5
    ledger.reset(UID)
    kernel.take(ledger, 12)
    assert run(kernel, ledger, 12, 9) == 3
    kernel.take(ledger, 11 + WINDOW)
    assert run(kernel, ledger, 11 + WINDOW, 9) == 0
    kernel.take(ledger, 12 + WINDOW)
    assert run(kernel, ledger, 12 + WINDOW, 9) == 2


def test_resets_leave_nothing_behind() -> None:
    kernel, ledger = Kernel(RULES), CreditLedger(RULES)
    for now_ns in range(10, 5000):
        run(kernel, ledger, now_ns, 1)
        ledger.reset(UID)
        kernel.take(ledger, now_ns)
    assert len(ledger._departures) < 1000


def test_restored_windows_and_adopted_accounts_go_on_where_they_were() -> None:
    kernel, ledger = Kernel(RULES, used=[70, 80]), CreditLedger(RULES)
    ledger.adopt(UID, kernel.used)
    ledger.restore(UID, 0, [5, 8])
    kernel.take(ledger, 10)
    assert run(kernel, ledger, 10, 9) == 1
    kernel.take(ledger, 5 + WINDOW)
    assert run(kernel, ledger, 5 + WINDOW, 9) == 1


def test_lost_reports_count_from_when_they_were_missed_and_then_leave() -> None:
    kernel, ledger = Kernel(RULES), CreditLedger(RULES)
    for _ in range(3):
        kernel.connect(25)  # nothing of it arrives
    assert ledger.reconcile(UID, kernel.used, 50) == 6
    assert ledger.reconcile(UID, kernel.used, 60) == 0
    kernel.take(ledger, 50 + WINDOW - 1)
    assert run(kernel, ledger, 149, 9) == 0
    kernel.take(ledger, 50 + WINDOW)
    assert run(kernel, ledger, 150, 9) == 2  # the longer rule still holds 3 of 5
    kernel.take(ledger, 1000)
    assert run(kernel, ledger, 1000, 9) == 3


def test_an_account_that_began_anew_gives_nothing_away() -> None:
    ledger = CreditLedger(RULES)
    ledger.note(UID, 25, 10, 0b11, entered=True)
    ledger.reconcile(UID, (0, 0), 20)
    (grant,) = ledger.tick(20)
    assert grant.allowed == (2, 4)


def test_a_users_own_limits() -> None:
    kernel, ledger = Kernel(RULES), CreditLedger(RULES)
    ledger.set_limits(UID, {0: 4})
    kernel.take(ledger, 1)
    assert run(kernel, ledger, 10, 9) == 4
    ledger.set_limits(UID, {0: NO_LIMIT, 1: NO_LIMIT})
    kernel.take(ledger, 11)
    assert run(kernel, ledger, 11, 50) == 50
    assert len(ledger._lanes[UID][0].times) == 4
    ledger.set_limits(UID, {})
    kernel.take(ledger, 12)
    assert run(kernel, ledger, 12, 9) == 0


def test_a_flood_without_credits_is_kept_within_bounds() -> None:
    kernel, ledger = Kernel(RULES), CreditLedger(RULES)
    for now_ns in range(1000):
        ledger.note(UID, 25, now_ns, 0, entered=True)
    assert len(ledger._lanes[UID][0].times) <= 4
    kernel.take(ledger, 999 + WINDOW - 3)
    assert run(kernel, ledger, 999 + WINDOW - 3, 9) == 0


def test_an_attempt_on_its_way_when_its_account_is_adopted_gives_no_credit() -> None:
    """A change of rules, accounts or allowances begins anew: what has not been read then counts once all the same."""
    kernel, ledger = Kernel(RULES[:1]), CreditLedger(RULES[:1])
    taken = [kernel.connect(25) for _ in range(2)]
    ledger.adopt(UID, kernel.used)
    ledger.adopted_ns = 1010
    ledger.restore(UID, 0, [1000])
    kernel.take(ledger, 1010)
    ledger.note(UID, 25, 1005, taken[1] or 0, entered=True)
    kernel.take(ledger, 1011)
    assert [kernel.connect(25) for _ in range(2)] == [1, None], "three in all"


def test_idle_users_are_those_with_empty_windows() -> None:
    ledger = CreditLedger(RULES)
    ledger.note(UID, 25, 10, 0b11, entered=True)
    ledger.set_limits(1002, {0: 9})
    ledger.tick(20)
    assert ledger.idle() == []
    ledger.tick(10 + 3 * WINDOW)
    assert ledger.idle() == [UID]
    ledger.forget(UID)
    assert ledger.idle() == []
    assert ledger.next_deadline() is None


def rule(name: str, **changes: object) -> Rule:
    fields: dict[str, object] = {"name": name, "count": "connections", "limit": 3, "window_ns": 9, "action": "block"}
    return Rule(**(fields | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "chosen"),
    [
        ({}, True),
        ({"action": "throttle"}, True),
        ({"ports": frozenset({25, 99})}, True),
        ({"path": "any"}, True),
        ({"action": "warn"}, False),
        ({"count": "networks"}, False),
        ({"dry_run": True}, False),
        ({"novel_ns": 5}, False),
        ({"path": "local"}, False),
        ({"ports": frozenset({99})}, False),
    ],
)
def test_which_rules_the_kernel_can_enforce(changes: dict[str, object], chosen: bool) -> None:
    assert choose_credit_rules([rule("a", **changes)], frozenset({25})) == [rule("a", **changes)] * chosen


def test_at_most_sixteen_rules() -> None:
    assert len(choose_credit_rules([rule(str(n)) for n in range(20)], frozenset({25}))) == 16
    with pytest.raises(ValueError, match="16"):
        CreditLedger(RULES * 9)
