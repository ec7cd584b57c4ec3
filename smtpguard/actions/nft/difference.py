"""What a uid set holds beside what it ought to hold. Pure.

Ends may differ by TOLERANCE_NS: the kernel counts in ticks, and a look takes a while. What ends within it anyway is no
difference.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from smtpguard.actions.nft.elements import PERMANENT_NS, Element, Interval, merge_intervals
from smtpguard.actions.nft.render import MAX_TIMEOUT_MS
from smtpguard.decode.netlink.nft_elements import Interval as KernelInterval

MAX_STRANGERS = 1000
"""A hand puts in some; a list of tens of thousands is not made blocks one by one, but told."""
TOLERANCE_NS = 2_000_000_000
_LONGEST_NS = MAX_TIMEOUT_MS * 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """What is not as it ought to be.

    Attributes:
        strangers: What is in the set and should not be: parts of its elements.
        longer: What is in it for longer than it should be.
        missing: Uids that should be in it, or for longer.
        uncounted: How many elements too many there are, where nobody has looked which: more than MAX_STRANGERS.
    """

    strangers: tuple[Element, ...] = ()
    longer: tuple[Element, ...] = ()
    missing: tuple[Interval, ...] = ()
    uncounted: int = 0

    def __bool__(self) -> bool:
        return bool(self.strangers or self.longer or self.missing or self.uncounted)


def is_as_wanted(wanted: Sequence[Element], held: Sequence[KernelInterval], now_ns: int) -> bool:
    """Whether a set holds just these elements, in this order, for as long."""
    return len(wanted) == len(held) and all(
        element.first == first
        and element.last == last
        and left_ms is not None
        and abs(element.until_ns - now_ns - left_ms * 1_000_000) <= TOLERANCE_NS
        for element, (first, last, left_ms, _) in zip(wanted, held, strict=True)
    )


def find_difference(wanted: Sequence[Element], held: Sequence[Element], now_ns: int) -> Difference:
    """Compare a set with what it ought to hold.

    Args:
        wanted: Sorted and disjoint, as `flatten` makes them.
        held: The set's elements, sorted and disjoint.
        now_ns: CLOCK_BOOTTIME.
    """
    soon_ns = now_ns + TOLERANCE_NS
    if len(wanted) == len(held) and all(
        a.first == b.first and a.last == b.last and _is_same_end(a.until_ns, b.until_ns, now_ns)
        for a, b in zip(wanted, held, strict=True)
    ):
        return Difference()
    strangers: list[Element] = []
    longer: list[Element] = []
    missing: list[Interval] = []
    bounds = sorted({edge for e in (*wanted, *held) for edge in (e.first, e.last + 1)})
    left = right = 0
    for first, after in pairwise(bounds):
        while left < len(wanted) and wanted[left].last < first:
            left += 1
        while right < len(held) and held[right].last < first:
            right += 1
        ours = wanted[left] if left < len(wanted) and wanted[left].first <= first else None
        theirs = held[right] if right < len(held) and held[right].first <= first else None
        if ours is not None and theirs is not None and _is_same_end(ours.until_ns, theirs.until_ns, now_ns):
            continue
        if theirs is not None and theirs.until_ns > soon_ns and (ours is None or theirs.until_ns > ours.until_ns):
            _extend(strangers if ours is None else longer, replace(theirs, first=first, last=after - 1))
        elif ours is not None and ours.until_ns > soon_ns:
            missing.append((first, after - 1))
    return Difference(strangers=tuple(strangers), longer=tuple(longer), missing=tuple(merge_intervals(missing)))


def _is_same_end(wanted_ns: int, held_ns: int, now_ns: int) -> bool:
    if held_ns >= PERMANENT_NS:
        return wanted_ns >= PERMANENT_NS
    return abs(min(wanted_ns, now_ns + _LONGEST_NS) - held_ns) <= TOLERANCE_NS


def _extend(elements: list[Element], part: Element) -> None:
    before = elements[-1] if elements else None
    if before and (before.last + 1, before.until_ns, before.comment) == (part.first, part.until_ns, part.comment):
        elements[-1] = replace(before, last=part.last)
    else:
        elements.append(part)
