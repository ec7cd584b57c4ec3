"""Subordinate uids: whose they are, and that nobody else is ever stopped for them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpguard.policy.subuids import MAX_PIECES, MAX_PROBLEMS, Claim, Range, resolve_ranges


def claim(owner: int, first: int, count: int) -> Claim:
    return Claim(owner=owner, first=first, count=count, line=1)


def part(first: int, count: int, owner: int) -> Range:
    return Range(first=first, count=count, owner=owner)


def test_the_usual() -> None:
    ranges, problems = resolve_ranges([claim(1001, 165536, 65536), claim(1000, 100000, 65536)], [0, 1000, 1001], 1000)
    assert problems == []
    assert [ranges.owner(uid) for uid in (0, 99999, 100000, 165535, 165536, 231071, 231072)] == [
        0,
        99999,
        1000,
        1000,
        1001,
        1001,
        231072,
    ]
    assert ranges.of(1000) == ((100000, 65536),)
    assert ranges.of(7) == ()


def test_none() -> None:
    ranges, problems = resolve_ranges([], [], 1000)
    assert (ranges.owner(5), problems) == (5, [])


def test_one_owner_twice_is_one_range() -> None:
    claims = [claim(1000, 100000, 10), claim(1000, 100005, 10), claim(1000, 100015, 5), claim(1000, 100000, 10)]
    ranges, problems = resolve_ranges(claims, [], 1000)
    assert ranges.ranges == (part(100000, 20, 1000),)
    assert problems == []


def test_what_two_may_become_belongs_to_neither() -> None:
    ranges, problems = resolve_ranges([claim(1000, 100000, 100), claim(1001, 100050, 100)], [], 1000)
    assert ranges.ranges == (part(100000, 50, 1000), part(100100, 50, 1001))
    assert problems == ["subuid: 100050-100099 belongs to uids 1000, 1001: not counted for any of them"]
    assert ranges.owner(100050) == 100050


def test_root_is_an_owner_like_others() -> None:
    ranges, problems = resolve_ranges([claim(0, 100000, 10), claim(1000, 100000, 10), claim(0, 200000, 5)], [], 1000)
    assert ranges.ranges == (part(200000, 5, 0),)
    assert len(problems) == 1


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        (claim(1000, 0, 65536), "0-65535 holds uids below UID_MIN"),
        (claim(1000, 999, 5), "999-1003 holds uids below UID_MIN"),
        (claim(1000, 4294967290, 6), "ends beyond the last uid"),
        (claim(1000, 9_999_999_999, 1), "ends beyond the last uid"),
    ],
)
def test_silly_ranges_are_left_out_and_told(wrong: Claim, what: str) -> None:
    ranges, problems = resolve_ranges([wrong, claim(1000, 100000, 5)], [], 1000)
    assert ranges.ranges == (part(100000, 5, 1000),)
    assert len(problems) == 1
    assert what in problems[0]


def test_the_last_uid() -> None:
    ranges, problems = resolve_ranges([claim(1000, 4294967290, 5)], [], 1000)
    assert (ranges.owner(4294967294), ranges.owner(4294967295), problems) == (1000, 4294967295, [])


def test_an_empty_range_is_nothing() -> None:
    ranges, problems = resolve_ranges([claim(1000, 100000, 0)], [], 1000)
    assert (ranges.ranges, problems) == ((), [])


def test_real_accounts_are_cut_out() -> None:
    ranges, problems = resolve_ranges([claim(1000, 100000, 10)], [0, 1000, 100000, 100004, 100009, 100010], 1000)
    assert ranges.ranges == (part(100001, 3, 1000), part(100005, 4, 1000))
    assert len(problems) == 1
    assert "100000-100009 of uid 1000 holds real accounts (100000, 100004, 100009)" in problems[0]
    assert ranges.owner(100004) == 100004


def test_pieces_of_one_owner_are_bounded() -> None:
    ranges, problems = resolve_ranges([claim(1000, 100000, 1000)], list(range(100000, 101000, 5)), 1000)
    assert len(ranges.of(1000)) == MAX_PIECES
    assert "owns 200 separate ranges" in problems[-1]


def test_problems_are_bounded() -> None:
    _, problems = resolve_ranges([claim(1000 + i, 5, 5) for i in range(500)], [], 1000)
    assert len(problems) == MAX_PROBLEMS + 1
    assert problems[-1] == "and 450 more"


@given(
    claims=st.lists(
        st.builds(Claim, owner=st.integers(0, 3), first=st.integers(5, 60), count=st.integers(0, 20)), max_size=8
    ),
    uids=st.sets(st.integers(0, 90), max_size=5),
)
def test_owner_is_who_alone_claims_it_and_never_of_a_real_account(claims: list[Claim], uids: set[int]) -> None:
    ranges, _ = resolve_ranges(claims, sorted(uids), 10)
    sound = [c for c in claims if c.first >= 10]
    for uid in range(100):
        owners = {c.owner for c in sound if c.first <= uid < c.first + c.count}
        expected = next(iter(owners)) if len(owners) == 1 and uid not in uids else uid
        assert ranges.owner(uid) == expected
    for a, b in zip(ranges.ranges, ranges.ranges[1:], strict=False):
        assert a.last < b.first
    for owner in range(4):
        assert ranges.of(owner) == tuple((r.first, r.count) for r in ranges.ranges if r.owner == owner)
