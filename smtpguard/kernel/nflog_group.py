"""Becomes the reader of a group of nfnetlink_log: what rules say `log group N` to. Reads nothing.

A group has one reader. With the kernel's default threshold packets would wait for a hundred others or a second; here
each comes at once.
"""

import contextlib
import errno
import os
import socket
import struct

from smtpguard.decode.netlink.messages import NLMSG_ERROR, split_messages
from smtpguard.decode.netlink.nflog import render_bind
from smtpguard.errors import SourceError

_NETLINK_NETFILTER = 12
_SO_RCVBUFFORCE = 33
_ANSWER_TIMEOUT_S = 2.0
_MAX_DATAGRAM_BYTES = 65_536


def open_log_group(group: int, *, copy_bytes: int, receive_bytes: int) -> socket.socket:
    """A non-blocking socket that gets the packets of a group, in this network namespace.

    Args:
        group: The group.
        copy_bytes: Most bytes of a packet.
        receive_bytes: Size of the buffer; a full one loses packets.

    Raises:
        SourceError: The group has a reader, the kernel has no nfnetlink_log, or CAP_NET_ADMIN is lacking.
    """
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
    try:
        sock.bind((0, 0))
        with contextlib.suppress(PermissionError):
            sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, receive_bytes)
        sock.settimeout(_ANSWER_TIMEOUT_S)
        sock.send(render_bind(group, copy_bytes=copy_bytes, sequence=1))
        code = _read_answer(sock)
        sock.settimeout(0)
    except OSError as error:
        sock.close()
        raise SourceError(
            f"nfnetlink_log can't be asked: {error.strerror or 'no answer'}", fix="modprobe nfnetlink_log"
        ) from error
    if code:
        sock.close()
        taken = code in (errno.EBUSY, errno.EPERM)
        raise SourceError(
            "somebody else reads this group, or CAP_NET_ADMIN is lacking" if taken else os.strerror(code),
            where=f"nflog group {group}",
            fix="choose another nft.nflog_group" if taken else "modprobe nfnetlink_log",
        )
    return sock


def _read_answer(sock: socket.socket) -> int:
    """The errno of the answer to our request. Packets of a rule left over by a dead guard may come before it."""
    while True:
        for message in split_messages(sock.recv(_MAX_DATAGRAM_BYTES)):
            if message.type == NLMSG_ERROR and len(message.body) >= 4:
                return int(-struct.unpack_from("=i", message.body)[0])
