"""Budgets and fair queues: one user's flood is that user's loss."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpguard.enrich.fair_queue import Budget, FairQueue
from smtpguard.model import NS


def test_a_user_has_his_budget_and_no_more() -> None:
    budget = Budget(per_key=50, total=200)
    assert [budget.grant(1, 10) for _ in range(60)].count(True) == 50
    assert budget.grant(2, 10)


def test_all_together_have_theirs() -> None:
    budget = Budget(per_key=50, total=200)
    assert sum(budget.grant(uid, 10) for uid in range(10) for _ in range(50)) == 200
    assert not budget.grant(99, 10)


def test_it_comes_back_after_a_second_and_not_before() -> None:
    budget = Budget(per_key=1, total=5)
    assert budget.grant(1, 0)
    assert not budget.grant(1, NS - 1)
    assert budget.grant(1, NS)


def test_refusals_cost_nothing() -> None:
    budget = Budget(per_key=1, total=5)
    budget.grant(1, 0)
    for now in range(0, NS, NS // 20):
        assert not budget.grant(1, now)
    assert budget.grant(1, NS)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, NS // 4)), max_size=120))
def test_never_more_than_the_budget_in_any_second(steps: list[tuple[int, int]]) -> None:
    budget = Budget(per_key=5, total=12)
    now = 0
    granted: list[tuple[int, int]] = []
    for key, wait in steps:
        now += wait
        recent = [k for at, k in granted if at > now - NS]
        may = len(recent) < 12 and recent.count(key) < 5
        assert budget.grant(key, now) is may
        if may:
            granted.append((now, key))


def test_a_long_line_does_not_delay_a_short_one() -> None:
    queue: FairQueue[str] = FairQueue(per_key=10, total=100)
    for number in range(9):
        queue.push(1, f"a{number}")
    queue.push(2, "b0")
    assert [queue.pop() for _ in range(3)] == [(1, "a0"), (2, "b0"), (1, "a1")]


def test_a_line_is_bounded_and_so_are_all() -> None:
    queue: FairQueue[int] = FairQueue(per_key=2, total=3)
    assert [queue.push(1, n) for n in range(3)] == [True, True, False]
    assert queue.push(2, 0)
    assert not queue.push(3, 0)
    assert len(queue) == 3
    queue.pop()
    assert queue.push(3, 0)


def test_whoever_may_not_keeps_his_place() -> None:
    queue: FairQueue[int] = FairQueue(per_key=5, total=5)
    queue.push(1, 10)
    queue.push(2, 20)
    assert queue.pop(may=lambda key: key != 1) == (2, 20)
    assert queue.pop(may=lambda key: key != 1) is None
    assert queue.pop() == (1, 10)


@pytest.mark.parametrize("item", [10, 11])
def test_discard(item: int) -> None:
    queue: FairQueue[int] = FairQueue(per_key=5, total=5)
    queue.push(1, 10)
    queue.discard(1, item)
    queue.discard(7, item)
    assert len(queue) == (0 if item == 10 else 1)
    assert queue.pop() == (None if item == 10 else (1, 10))


@given(st.lists(st.tuples(st.sampled_from(["push", "pop", "discard"]), st.integers(0, 3), st.integers(0, 4))))
def test_nothing_is_lost_or_doubled(steps: list[tuple[str, int, int]]) -> None:
    queue: FairQueue[int] = FairQueue(per_key=3, total=6)
    inside: Counter[tuple[int, int]] = Counter()
    for what, key, item in steps:
        if what == "push" and queue.push(key, item):
            inside[key, item] += 1
        elif what == "pop" and (turn := queue.pop()):
            inside[turn] -= 1
            assert inside[turn] >= 0
        elif what == "discard":
            queue.discard(key, item)
            inside[key, item] = max(0, inside[key, item] - 1)
        assert len(queue) == inside.total()
