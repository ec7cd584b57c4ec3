"""What `nft list` prints, as data. Pure.

The plain listing and not JSON: JSON rounds what is left of an element's time to whole seconds and drops `dynamic`
(nft 1.0.6). Only our own sets of uids and our named counters are read; every other line is passed over.
"""

import re

from smtpguard.actions.nft.elements import MAX_UID, PERMANENT_NS, Element
from smtpguard.errors import DecodeError

_ELEMENTS = re.compile(r"\belements = \{")
_ELEMENT = re.compile(
    r"\s*(?P<first>\d{1,10})(?:-(?P<last>\d{1,10}))?"
    r"(?: limit rate [a-z0-9 /]+?)?"
    r"(?: counter packets (?P<packets>\d+) bytes \d+)?"
    r"(?: timeout [0-9a-z]+)?(?: expires (?P<expires>[0-9a-z]+))?"
    r'(?: comment "(?P<comment>[^"]*)")?\s*(?P<end>[,}])'
)
_TIME = re.compile(r"(\d+)(ms|[wdhms])")
_TIME_NS = {
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
    "d": 86_400_000_000_000,
    "w": 604_800_000_000_000,
}
_COUNTER = re.compile(r"counter (\w+) \{\s*(?:comment \"[^\"]*\"\s*)?packets (\d+) bytes (\d+)")


def parse_set(text: str, now_ns: int) -> list[Element]:
    """Elements of a uid set from `nft list set`.

    Args:
        text: The listing.
        now_ns: CLOCK_BOOTTIME at which it was made.

    Raises:
        DecodeError: An element that is none of ours in shape.
    """
    return [
        Element(
            first=first,
            last=last,
            until_ns=PERMANENT_NS if expires is None else now_ns + parse_time(expires),
            comment=comment,
        )
        for first, last, expires, comment, _ in _split_elements(text)
    ]


def parse_counts(text: str) -> dict[int, int]:
    """Packets counted per uid, from `nft list set` of a set whose elements have counters."""
    return {first: packets for first, _, _, _, packets in _split_elements(text) if packets is not None}


def parse_counters(text: str) -> dict[str, int]:
    """Packets of each named counter, from `nft list counters`."""
    return {name: int(packets) for name, packets, _ in _COUNTER.findall(text)}


def parse_time(text: str) -> int:
    """Nanoseconds of nft's notation for a time: `1d2h3m4s5ms`.

    Raises:
        DecodeError: It is none.
    """
    total = 0
    position = 0
    while position < len(text):
        match = _TIME.match(text, position)
        if match is None:
            raise DecodeError(f"not a time of nft: {text!r:.40}")
        total += int(match[1]) * _TIME_NS[match[2]]
        position = match.end()
    return total


def _split_elements(text: str) -> list[tuple[int, int, str | None, str, int | None]]:
    """(first, last, expires, comment, packets) of each element."""
    start = _ELEMENTS.search(text)
    if start is None:
        return []
    found = []
    position = start.end()
    while True:
        match = _ELEMENT.match(text, position)
        if match is None:
            raise DecodeError(f"not an element of a uid set: {text[position : position + 60]!r}")
        first = int(match["first"])
        last = int(match["last"] or first)
        if not first <= last <= MAX_UID + 1:
            raise DecodeError(f"not a range of uids: {first}-{last}")
        packets = match["packets"]
        found.append((first, last, match["expires"], match["comment"] or "", None if packets is None else int(packets)))
        position = match.end()
        if match["end"] == "}":
            return found
