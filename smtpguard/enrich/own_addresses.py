"""The host's own addresses, and word when they change: rtnetlink(7), linux/rtnetlink.h, linux/if_addr.h.

Connections to own addresses never leave the host and never count (THREATS 6). Of the network namespace the socket was
opened in. Asks the kernel only; needs no privilege and changes nothing.
"""

import contextlib
import os
import socket
import struct
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from smtpguard.decode.netlink.messages import HEADER, NLMSG_DONE, NLMSG_ERROR, split_attributes, split_messages
from smtpguard.errors import DecodeError, SourceError

MAX_ADDRESSES = 20_000
"""Own addresses that are known; a host with more has them in whole networks, which `exempt.destinations` can name."""
_IFADDRMSG = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, index
_RTM_NEWADDR, _RTM_GETADDR = 20, 22
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
            # Python waits out a socket's time limit before recv(2) whatever its flags say: MSG_DONTWAIT is not enough.
            self._socket.settimeout(0)
            self._read_all()
        except (OSError, DecodeError) as error:
            self.close()
            raise SourceError(f"own addresses can't be read: {error}", where="rtnetlink") from error

    def fileno(self) -> int:
        """Readable when addresses have changed; call `read` then. -1 while it is not open."""
        return -1 if self._socket is None else self._socket.fileno()

    def read(self) -> bool:
        """Take what is to be read; whether the addresses have changed.

        Raises:
            SourceError: The kernel does not answer.
        """
        if self._socket is None:
            return False
        # What exactly has changed does not matter, nor does an overrun (ENOBUFS): all are read anew.
        with contextlib.suppress(OSError):
            while self._socket.recv(_BUFFER_BYTES):
                pass
        before = self.networks
        try:
            self._read_all()
        except (OSError, DecodeError) as error:
            raise SourceError(f"own addresses can't be read: {error}", where="rtnetlink") from error
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
        asking.send(HEADER.pack(HEADER.size + len(body), _RTM_GETADDR, flags, 1, 0) + body)
        torn = False
        while True:
            for message in split_messages(asking.recv(_BUFFER_BYTES)):
                torn = torn or bool(message.flags & _NLM_F_DUMP_INTR)
                if message.type == NLMSG_DONE:
                    return None if torn else found
                if message.type == NLMSG_ERROR:
                    code = -struct.unpack_from("=i", message.body)[0]
                    raise OSError(code, os.strerror(code))
                address = parse_address(message.body) if message.type == _RTM_NEWADDR else None
                if address is not None:
                    found.add(address)


def parse_address(body: bytes | memoryview) -> IPv4Address | IPv6Address | None:
    """The local address of an ifaddrmsg: IFA_LOCAL where there is one, since IFA_ADDRESS is then the other end.

    Args:
        body: What follows the netlink header.

    Raises:
        DecodeError: It is shorter than it says.
    """
    if len(body) < _IFADDRMSG.size:
        raise DecodeError(f"an ifaddrmsg of {len(body)} bytes")
    size = 4 if body[0] == socket.AF_INET else 16 if body[0] == socket.AF_INET6 else None
    attributes = split_attributes(memoryview(body)[_IFADDRMSG.size :])
    packed = attributes.get(_IFA_LOCAL, attributes.get(_IFA_ADDRESS))
    if packed is None or len(packed) != size:
        return None
    return IPv4Address(bytes(packed)) if size == 4 else IPv6Address(bytes(packed))
