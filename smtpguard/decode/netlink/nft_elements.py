"""Elements of a set as the kernel dumps them, read into intervals. Pure.

An interval set holds an element for each interval's first key and one, flagged as an end, for the key after its last;
the kernel gives them in the order of the keys or against it. Numbers: <linux/netfilter/nf_tables.h>, comments as
libnftnl keeps them (NFTNL_UDATA_SET_ELEM_COMMENT).
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from smtpguard.decode.netlink.messages import ATTRIBUTE, list_attributes, read_u32, split_attributes
from smtpguard.decode.netlink.nft_numbers import INTERVAL_END
from smtpguard.errors import DecodeError

_LITTLE = memoryview(b"\1\0").cast("H")[0] == 1
_SET_INTERVAL = 4
_UID_BYTES = 4
_COMMENT = 0
"""Type of the user data that is a comment; type, length, text with its NUL."""
_NESTED_TYPE = 0x3FFF


class Interval(NamedTuple):
    """One element.

    Attributes:
        first, last: Its keys as numbers in network byte order, inclusive.
        left_ms: Until the kernel drops it; None for never.
        comment: Printable ASCII, else "".
    """

    first: int
    last: int
    left_ms: int | None
    comment: str


def read_intervals(listings: Iterable[bytes | memoryview], width: int) -> list[Interval]:
    """All intervals of a dump, in order.

    Args:
        listings: NFTA_SET_ELEM_LIST_ELEMENTS of each message.
        width: Bytes of a key.

    Raises:
        DecodeError: An element that has no such key.
    """
    starts: list[tuple[int, int | None, str]] = []
    ends: list[int] = []
    for listing in listings:
        for key, flags, left_ms, comment in _read_elements(memoryview(listing), width):
            if flags & INTERVAL_END:
                ends.append(key)
            else:
                starts.append((key, left_ms, comment))
    starts.sort(key=lambda start: start[0])
    ends.sort()
    past = 1 << 8 * width
    found = []
    index = 0
    for position, (key, left_ms, comment) in enumerate(starts):
        while index < len(ends) and ends[index] <= key:
            index += 1
        following = starts[position + 1][0] if position + 1 < len(starts) else past
        end = min(ends[index] if index < len(ends) else past, following)
        found.append(Interval(key, end - 1, left_ms, comment))
    return found


def read_singles(listings: Iterable[bytes | memoryview]) -> list[Interval]:
    """All uids of a dump of a set without intervals, where they are in host byte order; in order."""
    found = []
    for listing in listings:
        for key, _, left_ms, comment in _read_elements(memoryview(listing), 4):
            uid = int.from_bytes(key.to_bytes(4, "big"), "little") if _LITTLE else key
            found.append(Interval(uid, uid, left_ms, comment))
    return sorted(found, key=lambda interval: interval.first)


def has_intervals(set_body: bytes | memoryview) -> bool:
    """Whether a set (a body of NEWSET) is one of intervals."""
    return bool((read_u32(split_attributes(set_body).get(3)) or 0) & _SET_INTERVAL)


def read_counts(listings: Iterable[bytes | memoryview]) -> dict[int, int]:
    """Packets that a set's elements counted, by uid in host byte order (a set without intervals)."""
    return {_read_uid(key): packets for key, packets in _read_counted(listings) if len(key) == _UID_BYTES}


def read_port_counts(listings: Iterable[bytes | memoryview]) -> dict[tuple[int, int], int]:
    """The same of a set whose keys are a uid and a port: `meta skuid . tcp dport`."""
    return {
        (_read_uid(key), int.from_bytes(key[_UID_BYTES : _UID_BYTES + 2], "big")): packets
        for key, packets in _read_counted(listings)
        if len(key) == 2 * _UID_BYTES
    }


def _read_uid(key: memoryview) -> int:
    return int.from_bytes(key[:_UID_BYTES], "little" if _LITTLE else "big")


def _read_counted(listings: Iterable[bytes | memoryview]) -> Iterator[tuple[memoryview, int]]:
    for listing in listings:
        for _, item in list_attributes(listing):
            attributes = split_attributes(item)
            key = split_attributes(attributes.get(1, b"")).get(1)
            packets = _read_packets(attributes)
            if key is not None and packets is not None:
                yield key, packets


def _read_packets(attributes: dict[int, memoryview]) -> int | None:
    """Of the counter among an element's expressions."""
    single = [attributes[7]] if 7 in attributes else []
    for expression in [*single, *(item for _, item in list_attributes(attributes.get(11, b"")))]:
        parts = split_attributes(expression)
        if bytes(parts.get(1, b"")) == b"counter\0":
            packets = split_attributes(parts.get(2, b"")).get(2)
            return None if packets is None else int.from_bytes(packets, "big")
    return None


def _read_elements(listing: memoryview, width: int) -> Iterable[tuple[int, int, int | None, str]]:
    """Key, flags, time left and comment of each; written out, since ten thousand of them are read in the loop."""
    unpack, from_bytes = ATTRIBUTE.unpack_from, int.from_bytes
    size = len(listing)
    offset = 0
    while size - offset >= 4:
        length, _ = unpack(listing, offset)
        end = offset + length
        if not 4 <= length <= size - offset:
            raise DecodeError(f"a netlink attribute of {length} bytes in {size - offset}")
        key = None
        flags = 0
        left_ms = None
        comment = ""
        inner = offset + 4
        while end - inner >= 4:
            length, kind = unpack(listing, inner)
            if not 4 <= length <= end - inner:
                raise DecodeError(f"a netlink attribute of {length} bytes in {end - inner}")
            kind &= _NESTED_TYPE
            if kind == 1:
                bytes_of_key = unpack(listing, inner + 4)[0] - 4 if length >= 8 else 0
                if bytes_of_key != width or length < 8 + width:
                    raise DecodeError(f"a key of {bytes_of_key} bytes where {width} were due")
                key = from_bytes(listing[inner + 8 : inner + 8 + width], "big")
            elif kind == 3:
                flags = read_u32(listing[inner + 4 : inner + length]) or 0
            elif kind == 5:
                left_ms = from_bytes(listing[inner + 4 : inner + length], "big")
            elif kind == 6:
                comment = _read_comment(bytes(listing[inner + 4 : inner + length]))
            inner += (length + 3) & ~3
        if key is None:
            raise DecodeError("an element without a key")
        yield key, flags, left_ms, comment
        offset += (end - offset + 3) & ~3


def _read_comment(data: bytes) -> str:
    offset = 0
    while len(data) - offset >= 2:
        kind, length = data[offset], data[offset + 1]
        if kind == _COMMENT:
            text = data[offset + 2 : offset + 2 + length].split(b"\0", 1)[0].decode("ascii", "replace")
            return text if text.isprintable() and "\ufffd" not in text else ""
        offset += 2 + length
    return ""
