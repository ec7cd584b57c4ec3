"""Netlink messages and attributes as bytes: the framing that nfnetlink, sock_diag and audit have in common. Pure.

Layouts: <linux/netlink.h> struct nlmsghdr and struct nlattr, both in host byte order and padded to 4 bytes.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from smtpguard.errors import DecodeError

HEADER = struct.Struct("=IHHII")
ATTRIBUTE = struct.Struct("=HH")
NLMSG_ERROR, NLMSG_DONE = 2, 3
NLA_F_NESTED = 0x8000
_TYPE_MASK = 0x3FFF
"""Without NLA_F_NESTED and NLA_F_NET_BYTEORDER."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetlinkMessage:
    """One netlink message.

    Attributes:
        type: nlmsg_type.
        flags: nlmsg_flags.
        sequence: nlmsg_seq.
        port: nlmsg_pid, the port id of whom it answers or whose deed it tells.
        body: What follows the header.
    """

    type: int
    flags: int
    sequence: int
    port: int
    body: memoryview


def split_messages(datagram: bytes | memoryview) -> Iterator[NetlinkMessage]:
    """The messages of one datagram.

    Raises:
        DecodeError: A length that does not fit.
    """
    view = memoryview(datagram)
    offset = 0
    while len(view) - offset >= HEADER.size:
        length, kind, flags, sequence, port = HEADER.unpack_from(view, offset)
        if not HEADER.size <= length <= len(view) - offset:
            raise DecodeError(f"a netlink message of {length} bytes in {len(view) - offset}")
        yield NetlinkMessage(
            type=kind, flags=flags, sequence=sequence, port=port, body=view[offset + HEADER.size : offset + length]
        )
        offset += (length + 3) & ~3


def split_attributes(data: bytes | memoryview) -> dict[int, memoryview]:
    """Attributes by type; of several of one type the last.

    Raises:
        DecodeError: A length that does not fit.
    """
    return dict(list_attributes(data))


def list_attributes(data: bytes | memoryview) -> Iterator[tuple[int, memoryview]]:
    """Attributes in order, for lists whose items share one type.

    Raises:
        DecodeError: A length that does not fit.
    """
    view = memoryview(data)
    offset = 0
    while len(view) - offset >= ATTRIBUTE.size:
        length, kind = ATTRIBUTE.unpack_from(view, offset)
        if not ATTRIBUTE.size <= length <= len(view) - offset:
            raise DecodeError(f"a netlink attribute of {length} bytes in {len(view) - offset}")
        yield kind & _TYPE_MASK, view[offset + ATTRIBUTE.size : offset + length]
        offset += (length + 3) & ~3


def read_u32(value: bytes | memoryview | None) -> int | None:
    """An attribute of 32 bits in network byte order (nfnetlink's); None if absent.

    Raises:
        DecodeError: It has another length.
    """
    if value is None:
        return None
    if len(value) != 4:
        raise DecodeError(f"{len(value)} bytes where 4 were due")
    return int.from_bytes(value, "big")


def read_string(value: bytes | memoryview | None) -> bytes | None:
    """A NUL-terminated attribute without its NUL; None if absent."""
    return None if value is None else bytes(value).split(b"\0", 1)[0]


def render_attribute(kind: int, value: bytes | memoryview) -> bytes:
    """One attribute with its padding."""
    return b"".join((ATTRIBUTE.pack(ATTRIBUTE.size + len(value), kind), value, bytes(-len(value) % 4)))


def render_nest(kind: int, value: bytes) -> bytes:
    """One attribute whose value is attributes."""
    return render_attribute(kind | NLA_F_NESTED, value)


def render_message(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    """One message to the kernel; the body is padded by its attributes already."""
    return HEADER.pack(HEADER.size + len(body), kind, flags, sequence, 0) + body
