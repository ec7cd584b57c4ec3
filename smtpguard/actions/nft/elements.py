"""Elements of a uid set as intervals: who claims which uids until when, and what to change so that the set says so.

Pure. nft's interval sets refuse overlapping elements, while accounts may share subordinate uids (/etc/subuid does not
forbid it) and an administrator may add ranges by hand. So a change that overlaps is carved: what is in the way is cut
out, what lies beside it stays with its own end. Intervals are inclusive, times CLOCK_BOOTTIME nanoseconds.
"""

import re
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from heapq import heappop, heappush
from itertools import pairwise

from smtpguard.actions.base import Deny, Kind, Reach
from smtpguard.fast_dataclass import quick_maker
from smtpguard.model import Subject

MAX_UID = 0xFFFF_FFFE
"""4294967295 is "no uid" in every kernel interface."""
PERMANENT_NS = (1 << 63) - 1
"""End of an element without a timeout: somebody added it by hand."""
MAX_COMMENT_BYTES = 120
"""Longest comment; nft's own limit is 128 with its NUL."""
_UNSAFE = re.compile(r"[^A-Za-z0-9 _.:;@%+=,/()-]")
_OWNER = re.compile(r"uid (\d{1,10})(?:; (.*))?")

Interval = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Element:
    """One element of a uid set.

    Attributes:
        first, last: The uids, inclusive.
        until_ns: CLOCK_BOOTTIME at which the kernel drops it; PERMANENT_NS for never.
        comment: As in the set, safe ASCII.
    """

    first: int
    last: int
    until_ns: int
    comment: str = ""


_make_deny = quick_maker(Deny, "subject", "kind", "until_ns", "ranges", "comment", "port")
make_element = quick_maker(Element, "first", "last", "until_ns", "comment")


def render_comment(deny: Deny) -> str:
    """The comment of a deny's elements: its account, so that ranges find their owner again, and the deny's own."""
    text = f"uid {deny.subject.id}" + (f"; {deny.comment}" if deny.comment else "")
    return _UNSAFE.sub("_", text)[:MAX_COMMENT_BYTES]


def list_claims(deny: Deny) -> list[Element]:
    """The elements that a deny wants, never one with uid 0: root is not refused, whoever claims it.

    Ranges are clipped to real uids; the result is in order and disjoint.
    """
    comment = render_comment(deny)
    claims = [make_element(a, b, deny.until_ns, comment) for a, b in list_bounds(deny)]
    return flatten(claims) if len(claims) > 1 else claims


def list_bounds(deny: Deny) -> list[Interval]:
    """The uids that a deny wants, in no order; they may overlap."""
    uid = deny.subject.id
    if not deny.ranges:
        return [(uid, uid)] if 1 <= uid <= MAX_UID else []
    wanted = [(uid, uid), *((first, first + count - 1) for first, count in deny.ranges if count > 0)]
    clipped = [(max(first, 1), min(last, MAX_UID)) for first, last in wanted]
    return [(first, last) for first, last in clipped if first <= last]


def flatten(elements: Iterable[Element]) -> list[Element]:
    """Disjoint elements, in order, that cover the same uids; of several claims on a uid the one that ends last wins."""
    ordered = sorted(elements, key=lambda e: (e.first, e.last))
    if all(left.last < right.first for left, right in pairwise(ordered)):
        return ordered
    bounds = sorted({e.first for e in ordered} | {e.last + 1 for e in ordered})
    result: list[Element] = []
    open_claims: list[tuple[int, int]] = []  # a heap of (-until, index): the longest claim on top
    index = 0
    for start, end in pairwise(bounds):
        while index < len(ordered) and ordered[index].first == start:
            heappush(open_claims, (-ordered[index].until_ns, index))
            index += 1
        while open_claims and ordered[open_claims[0][1]].last < start:
            heappop(open_claims)
        if not open_claims:
            continue
        winner = ordered[open_claims[0][1]]
        before = result[-1] if result else None
        if (
            before
            and before.last == start - 1
            and (before.until_ns, before.comment) == (winner.until_ns, winner.comment)
        ):
            result[-1] = replace(before, last=end - 1)
        else:
            result.append(replace(winner, first=start, last=end - 1))
    return result


def merge_intervals(intervals: Iterable[Interval]) -> list[Interval]:
    """The same uids as sorted intervals that neither overlap nor touch."""
    merged: list[Interval] = []
    for first, last in sorted(intervals):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], last))
        else:
            merged.append((first, last))
    return merged


def clip(elements: Iterable[Element], region: Sequence[Interval]) -> list[Element]:
    """The parts of the elements that lie inside the region (as `merge_intervals` makes it)."""
    lasts = [last for _, last in region]
    return [
        _cut(element, max(element.first, a), min(element.last, b))
        for element in elements
        for a, b in _find_holes(element, region, lasts)
    ]


def carve(existing: Iterable[Element], region: Sequence[Interval]) -> tuple[list[Element], list[Element]]:
    """What to delete so that the region is empty, and what of it to add again because it lies outside.

    Args:
        existing: The set's elements.
        region: As `merge_intervals` makes it.

    Returns:
        The elements that touch the region, as they are; and their parts outside of it.
    """
    lasts = [last for _, last in region]
    touched: list[Element] = []
    outside: list[Element] = []
    for element in existing:
        holes = _find_holes(element, region, lasts)
        if not holes:
            continue
        touched.append(element)
        start = element.first
        for first, last in holes:
            if start < first:
                outside.append(replace(element, first=start, last=first - 1))
            start = last + 1
        if start <= element.last:
            outside.append(replace(element, first=start))
    return touched, outside


def build_denies(kind: str, elements: Iterable[Element], port: int | None = None) -> list[Deny]:
    """Denies from a set's elements: ranges join the account that their comment names.

    An element of somebody else's making is a deny of its own; a range of that kind has its first uid as subject.
    """
    own: dict[int, tuple[str, list[Element]]] = {}
    denies: list[Deny] = []
    reach = Reach(_kind(kind), port)
    for element in elements:
        match = _OWNER.fullmatch(element.comment)
        if match:
            uid = int(match[1])
            if uid not in own:
                own[uid] = (match[2] or "", [])
            own[uid][1].append(element)
        else:
            denies.append(_build_deny(reach, element.first, [element], element.comment))
    denies += [_build_deny(reach, uid, group, comment) for uid, (comment, group) in own.items()]
    return sorted(denies, key=lambda deny: deny.subject)


def _kind(text: str) -> Kind:
    return "block" if text == "block" else "throttle"


def _build_deny(reach: Reach, uid: int, elements: Sequence[Element], comment: str) -> Deny:
    until_ns = max([element.until_ns for element in elements])
    ranges = [(e.first, e.last - e.first + 1) for e in elements if (e.first, e.last) != (uid, uid)]
    return _make_deny(Subject(uid), reach.kind, until_ns, tuple(ranges), comment, reach.port)


def _cut(element: Element, first: int, last: int) -> Element:
    if (first, last) == (element.first, element.last):
        return element
    return replace(element, first=first, last=last)


def _find_holes(element: Element, region: Sequence[Interval], lasts: Sequence[int]) -> Sequence[Interval]:
    """The intervals of a region that an element touches; `lasts` are their last uids."""
    begin = end = bisect_left(lasts, element.first)
    while end < len(region) and region[end][0] <= element.last:
        end += 1
    return region[begin:end]
