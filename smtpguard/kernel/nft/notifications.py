"""Watches what others do to our table: a notification socket, drained into events. Decides and heals nothing.

AF_NETLINK, NETLINK_NETFILTER, multicast group NFNLGRP_NFTABLES of the network namespace it is opened in; needs
CAP_NET_ADMIN. What this process did itself is known by the port of its sockets, and left out. Nothing is lost
silently: ENOBUFS gives an `unknown` event.
"""

import errno
import select
import socket
from collections.abc import Iterator

from smtpguard.decode.netlink.messages import HEADER
from smtpguard.decode.netlink.nft_notify import NftEvent, NotifyDecoder
from smtpguard.decode.netlink.nft_numbers import render_delete_table
from smtpguard.errors import DecodeError, EnforceError, PrivilegeError
from smtpguard.kernel.nft.access import Nft

_NETLINK_NETFILTER = 12
_NFNLGRP_NFTABLES = 7
_SOL_NETLINK = 270
_NETLINK_ADD_MEMBERSHIP = 1
_RECEIVE_BYTES = 8 << 20
"""One transaction that fills a set with 65,536 ranges is some 15 MB of notifications; more gives `unknown`."""
_MAX_DATAGRAM_BYTES = 65_536
_MAX_DATAGRAMS = 512
"""Read at one go, so that somebody's endless reloads don't hold up the daemon's loop."""


class NftNotifications:
    """Events about our table.

    Args:
        table: Its name.
        nft: The way to nftables that our own changes take.

    Attributes:
        lost: How often notifications were lost.
        garbled: Datagrams that could not be read.
    """

    def __init__(self, table: str, nft: Nft) -> None:
        self._table = table
        self._nft = nft
        self._decoder = NotifyDecoder(table)
        self._socket: socket.socket | None = None
        self.lost = 0
        self.garbled = 0

    def open(self) -> None:
        """Join the group, and prove that it speaks: an own change that comes to nothing must be heard.

        Raises:
            PrivilegeError: CAP_NET_ADMIN is lacking.
            EnforceError: There are no such notifications.
        """
        try:
            sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
            self._socket = sock
            sock.bind((0, 0))
            sock.setsockopt(_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, _NFNLGRP_NFTABLES)
            sock.setsockopt(socket.SOL_SOCKET, getattr(socket, "SO_RCVBUFFORCE", 33), _RECEIVE_BYTES)
            sock.setblocking(False)  # noqa: FBT003 - socket's signature
        except OSError as error:
            self.close()
            if error.errno in (errno.EPERM, errno.EACCES):
                raise PrivilegeError("nftables can't be watched", fix="run as root, or with CAP_NET_ADMIN") from error
            raise EnforceError(f"nftables can't be watched: {error.strerror}") from error
        try:
            self._prove()
        except BaseException:
            self.close()
            raise

    def fileno(self) -> int:
        """The socket, readable when there are notifications; -1 when closed."""
        return self._socket.fileno() if self._socket else -1

    def read(self) -> list[NftEvent]:
        """What others did since the last call, without waiting."""
        return [
            event for datagram in self._drain() for event in (self._judge(datagram) if datagram else [self._lose()])
        ]

    def close(self) -> None:
        """Leave the group. May be called twice."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _judge(self, datagram: bytes) -> list[NftEvent]:
        # One transaction's notifications share no datagram with another's: the first message tells whose it is.
        if len(datagram) >= HEADER.size and HEADER.unpack_from(datagram)[4] in self._nft.ports:
            return []
        try:
            return self._decoder.feed(datagram)  # a cut one fails in its last message
        except DecodeError:
            self.garbled += 1
            return [self._decoder.lose()]

    def _lose(self) -> NftEvent:
        self.lost += 1
        return self._decoder.lose()

    def _drain(self) -> Iterator[bytes | None]:
        """Datagrams of the kernel; None where some were lost."""
        if self._socket is None:
            return
        for _ in range(_MAX_DATAGRAMS):
            try:
                datagram, sender = self._socket.recvfrom(_MAX_DATAGRAM_BYTES)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise EnforceError(f"nftables can be watched no longer: {error.strerror}") from error
                yield None
                continue
            if sender[0] == 0:  # the kernel
                yield datagram

    def _prove(self) -> None:
        """An own change that comes to nothing must be heard."""
        self._nft.transact(render_delete_table(f"{self._table}_probe"))
        # The kernel has told it before it answers; the wait is for a busy machine.
        while select.select([self], [], [], 2)[0]:
            for datagram in self._drain():
                if datagram and HEADER.unpack_from(datagram)[4] in self._nft.ports:
                    return
        raise EnforceError(
            "nftables says nothing about its changes",
            where="NFNLGRP_NFTABLES",
            fix="a lost table is put back at the next change only",
        )
