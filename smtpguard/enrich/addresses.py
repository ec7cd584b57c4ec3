"""The host's own addresses, and word when they change: rtnetlink(7), linux/rtnetlink.h, linux/if_addr.h.

Connections to own addresses never leave the host and never count (THREATS 6). Of the network namespace the socket was
opened in. Asks the kernel only; needs no privilege and changes nothing.
"""

import contextlib
import socket
import struct
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from smtpguard.errors import SourceError

MAX_ADDRESSES = 20_000
"""Own addresses that are known; a host with more has them in whole networks, which `exempt.destinations` can name."""
_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_IFADDRMSG = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, index
_RTATTR = struct.Struct("=HH")  # length, type
_NLMSG_ERROR, _NLMSG_DONE, _RTM_NEWADDR, _RTM_DELADDR, _RTM_GETADDR = 2, 3, 20, 21, 22
_NLM_F_REQUEST, _NLM_F_DUMP, _NLM_F_DUMP_INTR = 0x1, 0x300, 0x10
_RTMGRP_IPV4_IFADDR, _RTMGRP_IPV6_IFADDR = 0x10, 0x100
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_BUFFER_BYTES = 1 << 16
_TIMEOUT_S = 2.0
_TRIES = 5


class OwnAddresses:
    """Own addresses as networks of one address each, loopback included.

    Attributes:
        networks: As last read, ascending; IPv4 first.
        dropped: Addresses beyond the bound.
    """

    def __init__(self) -> None:
        self.networks: tuple[IPv4Network | IPv6Network, ...] = ()
        self.dropped = 0
        self._socket: socket.socket | None = None

    def open(self) -> None:
        """Read the addresses, and listen for changes from then on.

        Raises:
            SourceError: The kernel does not answer.
        """
        self.close()
        try:
            self._socket = _open_netlink(_RTMGRP_IPV4_IFADDR | _RTMGRP_IPV6_IFADDR)
            self._read_all()
        except OSError as error:
            self.close()
            raise SourceError(f"own addresses can't be read: {error.strerror}", where="rtnetlink") from error

    def fileno(self) -> int:
        """Readable when addresses have changed; call `read` then. -1 while it is not open."""
        return -1 if self._socket is None else self._socket.fileno()

    def read(self) -> bool:
        """Take what is to be read; whether the addresses are others than before.

        Raises:
            SourceError: The kernel does not answer.
        """
        if self._socket is None:
            return False
        # What exactly has changed does not matter, nor does an overrun (ENOBUFS): all are read anew.
        with contextlib.suppress(OSError):
            while self._socket.recv(_BUFFER_BYTES, socket.MSG_DONTWAIT):
                pass
        before = self.networks
        try:
            self._read_all()
        except OSError as error:
            raise SourceError(f"own addresses can't be read: {error.strerror}", where="rtnetlink") from error
        return self.networks != before

    def close(self) -> None:
        """Stop listening; may be called twice."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _read_all(self) -> None:
        for _ in range(_TRIES):
            found = _read_dump()
            if found is not None:
                break
        else:
            return  # they change faster than they can be read; the next notice comes
        kept = sorted(found, key=lambda address: (address.version, int(address)))
        self.dropped = max(0, len(kept) - MAX_ADDRESSES)
        self.networks = tuple(
            IPv4Network(int(address)) if isinstance(address, IPv4Address) else IPv6Network(int(address))
            for address in kept[:MAX_ADDRESSES]
        )


def _open_netlink(groups: int) -> socket.socket:
    opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    try:
        opened.settimeout(_TIMEOUT_S)
        opened.bind((0, groups))
    except OSError:
        opened.close()
        raise
    return opened


def _read_dump() -> set[IPv4Address | IPv6Address] | None:
    """All addresses; None if they changed while they were read."""
    found: set[IPv4Address | IPv6Address] = set()
    with _open_netlink(0) as asking:
        body = _IFADDRMSG.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
        flags = _NLM_F_REQUEST | _NLM_F_DUMP
        asking.send(_HEADER.pack(_HEADER.size + len(body), _RTM_GETADDR, flags, 1, 0) + body)
        torn = False
        while True:
            for kind, flags, payload in parse_messages(asking.recv(_BUFFER_BYTES)):
                torn = torn or bool(flags & _NLM_F_DUMP_INTR)
                if kind == _NLMSG_DONE:
                    return None if torn else found
                if kind == _NLMSG_ERROR:
                    code = struct.unpack_from("=i", payload)[0]
                    raise OSError(-code, "the kernel refused")
                address = parse_address(payload) if kind == _RTM_NEWADDR else None
                if address is not None:
                    found.add(address)


def parse_messages(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Netlink messages of a datagram as (type, flags, payload); what is cut off at the end is passed over.

    Args:
        data: The datagram.
    """
    offset = 0
    while offset + _HEADER.size <= len(data):
        length, kind, flags, _, _ = _HEADER.unpack_from(data, offset)
        if length < _HEADER.size or offset + length > len(data):
            return
        yield kind, flags, data[offset + _HEADER.size : offset + length]
        offset += (length + 3) & ~3


def parse_address(payload: bytes) -> IPv4Address | IPv6Address | None:
    """The local address of an ifaddrmsg; IFA_LOCAL where there is one (IFA_ADDRESS is then the other end).

    Args:
        payload: What follows the netlink header.
    """
    if len(payload) < _IFADDRMSG.size:
        return None
    size = 4 if payload[0] == socket.AF_INET else 16 if payload[0] == socket.AF_INET6 else None
    attributes: dict[int, bytes] = {}
    offset = _IFADDRMSG.size
    while offset + _RTATTR.size <= len(payload):
        length, kind = _RTATTR.unpack_from(payload, offset)
        if length < _RTATTR.size or offset + length > len(payload):
            break
        attributes[kind] = payload[offset + _RTATTR.size : offset + length]
        offset += (length + 3) & ~3
    packed = attributes.get(_IFA_LOCAL, attributes.get(_IFA_ADDRESS))
    if packed is None or len(packed) != size:
        return None
    return IPv4Address(packed) if size == 4 else IPv6Address(packed)
