"""Counting in little memory what a tenant chooses."""

import pytest

from smtpguard.policy.sketches import MOST_DISTINCT, Distinct, TopCounts


def test_top_counts_keep_the_frequent_and_never_count_too_low() -> None:
    top = TopCounts(10)
    for n in range(3000):
        top.add(b"often" if n % 3 == 0 else b"%d" % n)
    [(value, many)] = top.top(1)
    assert (value, many >= 1000) == (b"often", True)
    assert len(top.top(99)) == 10


def test_distinct_is_right_for_few_and_near_for_many() -> None:
    few, many = Distinct(), Distinct()
    for n in range(64):
        for _ in range(5):
            few.add(b"%d" % n)
    assert few.count() == 64
    for n in range(20_000):
        many.add(b"%d" % n)
    assert many.count() == pytest.approx(20_000, rel=0.08)
    for n in range(400_000):
        many.add(b"%d" % n)
    assert many.count() == MOST_DISTINCT
