"""What a set in the kernel holds and ought to hold, as elements and as bounds."""

from collections.abc import Iterable, Sequence

from smtpguard.actions.base import Deny
from smtpguard.actions.nft.elements import (
    PERMANENT_NS,
    Element,
    Interval,
    list_bounds,
    make_element,
)
from smtpguard.actions.nft.render import timeout_ms
from smtpguard.decode.netlink.nft_elements import Interval as KernelInterval
from smtpguard.errors import EnforceError
from smtpguard.kernel.nft.wire import NewElement

_SAME_END_NS = 250_000_000
"""Ends that were read differ by what reading took."""


class SetFullError(EnforceError):
    """The set has no room for more elements."""


def list_region(deny: Deny, before: Deny | None) -> list[Interval]:
    """The uids that a change concerns: those claimed now and those claimed before it."""
    return list_bounds(deny) + (list_bounds(before) if before else [])


def build_elements(intervals: Iterable[KernelInterval], now_ns: int) -> list[Element]:
    """The elements that the kernel holds, with their ends."""
    return [
        make_element(first, last, PERMANENT_NS if left_ms is None else now_ns + left_ms * 1_000_000, comment)
        for first, last, left_ms, comment in intervals
    ]


def find_fine(wanted: Sequence[Element], held: Sequence[Element]) -> set[Interval]:
    """Bounds of those that are in the set as they ought to be."""
    there = {(element.first, element.last): element for element in held}
    return {
        bounds
        for element, bounds in zip(wanted, bounds_of(wanted), strict=True)
        if (found := there.get(bounds)) is not None
        and found.comment == element.comment
        and abs(found.until_ns - element.until_ns) <= _SAME_END_NS
    }


def bounds_of(elements: Iterable[Element]) -> list[Interval]:
    """Their uids."""
    return [(element.first, element.last) for element in elements]


def make_new(elements: Iterable[Element], now_ns: int) -> list[NewElement]:
    """Elements as they are added, with what is left of their times."""
    return [
        (e.first, e.last, None if e.until_ns >= PERMANENT_NS else timeout_ms(e.until_ns - now_ns), e.comment)
        for e in elements
    ]
