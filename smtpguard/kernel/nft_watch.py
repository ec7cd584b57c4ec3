"""Watches what others do to our table: a notification socket, drained into events. Decides and heals nothing.

AF_NETLINK, NETLINK_NETFILTER, multicast group NFNLGRP_NFTABLES of the network namespace it is opened in; needs
CAP_NET_ADMIN. What this process did itself is left out. Nothing is lost silently: ENOBUFS gives an `unknown` event.
"""

import errno
import os
import select
import socket
from collections.abc import Callable
from pathlib import Path

from smtpguard.decode.nft_notify import NftEvent, NotifyDecoder
from smtpguard.decode.nft_numbers import render_delete_table
from smtpguard.errors import DecodeError, EnforceError, PrivilegeError
from smtpguard.kernel.nft import Nft

_NETLINK_NETFILTER = 12
_NFNLGRP_NFTABLES = 7
_SOL_NETLINK = 270
_NETLINK_ADD_MEMBERSHIP = 1
_RECEIVE_BYTES = 8 << 20
"""One transaction that fills a set with 65,536 ranges is some 15 MB of notifications; more gives `unknown`."""
_MAX_DATAGRAM_BYTES = 65_536
_MAX_DATAGRAMS = 512
"""Read at one go, so that somebody's endless reloads don't hold up the daemon's loop."""


class NftWatch:
    """Events about our table.

    Args:
        table: Its name.
        nft: The way to nftables that our own changes take.
        is_own: Whether a pid, as the kernel names it, is this process; None to find out.

    Attributes:
        lost: How often notifications were lost.
        garbled: Datagrams that could not be read.
    """

    def __init__(self, table: str, nft: Nft, *, is_own: Callable[[int], bool] | None = None) -> None:
        self._table = table
        self._nft = nft
        self._is_own = is_own or self._is_this_process
        self._decoder = NotifyDecoder(table)
        self._socket: socket.socket | None = None
        self._pid_in_kernel: int | None = None
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
            self._learn_own_pid()
        except BaseException:
            self.close()
            raise

    def fileno(self) -> int:
        """The socket, readable when there are notifications; -1 when closed."""
        return self._socket.fileno() if self._socket else -1

    def read(self) -> list[NftEvent]:
        """What others did since the last call, without waiting."""
        return [event for event in self._drain() if event.pid is None or not self._is_own(event.pid)]

    def close(self) -> None:
        """Leave the group. May be called twice."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _drain(self) -> list[NftEvent]:
        events: list[NftEvent] = []
        if self._socket is None:
            return events
        for _ in range(_MAX_DATAGRAMS):
            try:
                datagram, sender = self._socket.recvfrom(_MAX_DATAGRAM_BYTES)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise EnforceError(f"nftables can be watched no longer: {error.strerror}") from error
                self.lost += 1
                events.append(self._decoder.lose())
                continue
            if sender[0] != 0:  # not the kernel
                continue
            try:
                # A cut datagram fails in its last message.
                events += self._decoder.feed(datagram)
            except DecodeError:
                self.garbled += 1
                events.append(self._decoder.lose())
        return events

    def _learn_own_pid(self) -> None:
        """How the kernel names this process, which in a pid namespace is not os.getpid()."""
        probe = f"{self._table}_probe"
        decoder, self._decoder = self._decoder, NotifyDecoder(probe)
        try:
            self._nft.transact(render_delete_table(probe))
            # The kernel has told it before nft is answered; the wait is for a busy machine.
            while select.select([self], [], [], 2)[0]:
                heard = [event for event in self._drain() if event.kind == "lost"]
                if heard:
                    self._pid_in_kernel = heard[-1].pid
                    return
        finally:
            self._decoder = decoder
        raise EnforceError(
            "nftables says nothing about its changes",
            where="NFNLGRP_NFTABLES",
            fix="a lost table is put back at the next change only",
        )

    def _is_this_process(self, pid: int) -> bool:
        if pid == self._pid_in_kernel:
            return True
        # The kernel names threads. Their numbers mean something only where ours are the kernel's.
        return self._pid_in_kernel == os.getpid() and Path(f"/proc/self/task/{pid}").exists()
