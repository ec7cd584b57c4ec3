"""Intervals of a uid set: against a brute-force picture of which uid is refused until when."""

from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpguard.actions.base import Deny
from smtpguard.actions.nft.elements import (
    MAX_UID,
    Element,
    Interval,
    build_denies,
    carve,
    clip,
    flatten,
    list_claims,
    merge_intervals,
    render_comment,
)
from smtpguard.model import Subject

elements = st.builds(
    lambda first, length, until_ns: Element(first=first, last=first + length, until_ns=until_ns),
    st.integers(0, 30),
    st.integers(0, 12),
    st.integers(1, 5),
)
regions = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 6)).map(lambda t: (t[0], t[0] + t[1])), max_size=4)


def picture(found: Iterable[Element]) -> dict[int, int]:
    until: dict[int, int] = {}
    for element in found:
        for uid in range(element.first, element.last + 1):
            until[uid] = max(until.get(uid, 0), element.until_ns)
    return until


def inside(region: Sequence[Interval], uid: int) -> bool:
    return any(first <= uid <= last for first, last in region)


def are_disjoint(found: Sequence[Element]) -> bool:
    return sum(e.last - e.first + 1 for e in found) == len(picture(found))


@given(st.lists(elements, max_size=8))
def test_flatten_keeps_the_picture_and_is_disjoint_and_sorted(claims: list[Element]) -> None:
    flat = flatten(claims)
    assert picture(flat) == picture(claims)
    assert are_disjoint(flat)
    assert flat == sorted(flat, key=lambda e: e.first)


@given(st.lists(elements, max_size=8), regions)
def test_carve_empties_the_region_and_keeps_the_rest(claims: list[Element], intervals: list[Interval]) -> None:
    existing, region = flatten(claims), merge_intervals(intervals)
    touched, outside = carve(existing, region)
    left = [e for e in existing if e not in touched] + outside
    assert picture(left) == {uid: t for uid, t in picture(existing).items() if not inside(region, uid)}
    assert are_disjoint(left)
    assert all(any(inside(region, uid) for uid in range(e.first, e.last + 1)) for e in touched)


@given(st.lists(elements, max_size=8), regions)
def test_clip_keeps_the_region(claims: list[Element], intervals: list[Interval]) -> None:
    region = merge_intervals(intervals)
    assert picture(clip(claims, region)) == {uid: t for uid, t in picture(claims).items() if inside(region, uid)}


def deny(uid: int, *ranges: tuple[int, int], comment: str = "") -> Deny:
    return Deny(subject=Subject(id=uid), kind="block", until_ns=9, ranges=ranges, comment=comment)


@pytest.mark.parametrize(
    ("asked", "claimed"),
    [
        (deny(1001), [(1001, 1001)]),
        (deny(1001, (100000, 65536)), [(1001, 1001), (100000, 165535)]),
        (deny(1001, (0, 500)), [(1, 499), (1001, 1001)]),
        (deny(1001, (4_294_967_000, 65536)), [(1001, 1001), (4_294_967_000, MAX_UID)]),
        (deny(1001, (5, 0)), [(1001, 1001)]),
        (deny(1001, (1000, 10)), [(1000, 1009)]),
        (deny(0), []),
        (deny(0, (0, 1)), []),
    ],
)
def test_claims_never_hold_root(asked: Deny, claimed: list[Interval]) -> None:
    assert [(e.first, e.last) for e in list_claims(asked)] == claimed


@pytest.mark.parametrize("hostile", ['x"; } flush ruleset', "new\nline", "back\\slash", "é" * 10, "a" * 500, "\x00"])
def test_comment_is_safe_and_bounded(hostile: str) -> None:
    comment = render_comment(deny(7, comment=hostile))
    assert comment.startswith("uid 7; ")
    assert len(comment) <= 120
    assert not set(comment) & set('"\\\n{}\x00é')


def test_denies_come_back_from_their_elements() -> None:
    asked = [deny(5, (100, 10), (300, 5), comment="guard mx"), deny(6), deny(9, comment="a; b")]
    claims = [claim for d in asked for claim in list_claims(d)]
    assert build_denies("block", claims) == asked


def test_elements_of_others_are_denies_of_their_own() -> None:
    found = build_denies(
        "throttle", [Element(first=3, last=3, until_ns=4, comment="mine"), Element(first=50, last=59, until_ns=8)]
    )
    assert [(d.subject.id, d.ranges, d.until_ns, d.comment, d.kind) for d in found] == [
        (3, (), 4, "mine", "throttle"),
        (50, ((50, 10),), 8, "", "throttle"),
    ]
