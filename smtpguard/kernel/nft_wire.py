"""New elements of a uid set by nfnetlink itself, for the way from a verdict to its refusal. Nothing else.

libnftables reads the ruleset and every element of the set before each change: 0.2 ms in an empty set, 2 ms and more in
one of 1,000, while a spammer opens five connections a millisecond. The kernel needs none of that. Whatever is not a
plain success here is left to libnftables, which knows how to ask and how to say what is wrong.

Layouts: <linux/netfilter/nfnetlink.h>, <linux/netfilter/nf_tables.h>; comments as libnftnl keeps them. An interval set
has an element for each interval's first key, and one, flagged as an end, for the key after its last; uids are
big-endian in it.
"""

import socket
import struct
from collections.abc import Sequence

from smtpguard.decode.netlink import ATTRIBUTE, HEADER, NLMSG_ERROR, split_messages
from smtpguard.errors import DecodeError

_NETLINK_NETFILTER = 12
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
_NEWSETELEM = 10 << 8 | 12
_REQUEST, _ACK, _EXCLUSIVE, _CREATE = 1, 4, 0x200, 0x400
_NESTED = 0x8000
_SUBSYSTEM = b"\0\0" + (10).to_bytes(2, "big")
_INET = b"\1\0\0\0"
_LAST_KEY = 0xFFFF_FFFF
_MAX_ELEMENTS = 64
"""Beyond these the message and its answers outgrow one datagram, and nobody waits for so many anyway."""
_ANSWER_TIMEOUT_S = 1.0
_MAX_DATAGRAM_BYTES = 65_536

NewElement = tuple[int, int, int | None, str]
"""First and last uid, milliseconds until it ends (None for never), comment."""


class ElementWriter:
    """A socket to nfnetlink, in the network namespace it is opened in. For one thread.

    Raises:
        OSError: The kernel gives no such socket.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
        self._socket.settimeout(_ANSWER_TIMEOUT_S)
        self._sequence = 0

    def create(self, table: str, name: str, elements: Sequence[NewElement]) -> bool:
        """Put elements into a set in one transaction; whether they are there now, and were not before.

        Args:
            table: Of family inet.
            name: An interval set of uids with timeouts.
            elements: Disjoint intervals.
        """
        if not 0 < len(elements) <= _MAX_ELEMENTS:
            return False
        self._sequence = (self._sequence + 1) & 0x7FFF_FFFF
        try:
            self._socket.sendto(render_create(table, name, elements, self._sequence), (0, 0))
            while True:
                for message in split_messages(self._socket.recv(_MAX_DATAGRAM_BYTES)):
                    if message.type == NLMSG_ERROR and message.sequence == self._sequence:
                        return bytes(message.body[:4]) == bytes(4)
        except (OSError, DecodeError):
            return False

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


def render_create(table: str, name: str, elements: Sequence[NewElement], sequence: int) -> bytes:
    """The transaction as one datagram; fails as a whole where an element is there already. Pure."""
    listing = b""
    for first, last, timeout_ms, comment in elements:
        start = _nest(1, _attribute(1, first.to_bytes(4, "big")))
        if timeout_ms is not None:
            start += _attribute(4, timeout_ms.to_bytes(8, "big"))
        if comment:
            text = comment.encode("ascii") + b"\0"
            start += _attribute(6, bytes([0, len(text)]) + text)
        listing += _nest(1, start)
        if last < _LAST_KEY:
            end = _nest(1, _attribute(1, (last + 1).to_bytes(4, "big"))) + _attribute(3, (1).to_bytes(4, "big"))
            listing += _nest(1, end)
    body = _INET + _attribute(1, table.encode() + b"\0") + _attribute(2, name.encode() + b"\0") + _nest(3, listing)
    return (
        _message(_BATCH_BEGIN, _REQUEST, sequence, _SUBSYSTEM)
        + _message(_NEWSETELEM, _REQUEST | _ACK | _EXCLUSIVE | _CREATE, sequence, body)
        + _message(_BATCH_END, _REQUEST, sequence, _SUBSYSTEM)
    )


def _attribute(kind: int, value: bytes) -> bytes:
    return ATTRIBUTE.pack(ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)


def _nest(kind: int, value: bytes) -> bytes:
    return _attribute(kind | _NESTED, value)


def _message(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    raw: bytes = struct.pack("=IHHII", HEADER.size + len(body), kind, flags, sequence, 0) + body
    return raw
