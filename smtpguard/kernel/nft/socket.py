"""Transactions and dumps of nftables by nfnetlink itself: no name is looked up, no table read but the one asked for.

A transaction is one datagram: NFNL_MSG_BATCH_BEGIN, changes, NFNL_MSG_BATCH_END; the kernel does all or nothing of it,
and has answered before send(2) returns. It is held up only while somebody else's transaction is being carried out.
See <linux/netfilter/nfnetlink.h>, net/netfilter/nfnetlink.c (nfnetlink_rcv_batch), netlink(7).
"""

import contextlib
import errno
import os
import socket
from collections.abc import Sequence

from smtpguard.decode.netlink.messages import NLMSG_DONE, NLMSG_ERROR, render_message, split_messages
from smtpguard.decode.netlink.nft_numbers import (
    NLM_F_ACK,
    NLM_F_DUMP,
    NLM_F_DUMP_INTR,
    NLM_F_REQUEST,
    SUBSYSTEM,
    Kind,
    NftChange,
)
from smtpguard.errors import DecodeError, EnforceError, PrivilegeError
from smtpguard.kernel.capabilities import read_held

_NETLINK_NETFILTER = 12
_SOL_NETLINK, _NETLINK_CAP_ACK = 270, 10
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
_BATCH_BODY = b"\0\0" + SUBSYSTEM.to_bytes(2, "big")
_SEND_BYTES = 64 << 20
"""A transaction is one datagram, and one that fills both sets (65,536 elements each, with comments) has 20 MB."""
_RECEIVE_BYTES = 4 << 20
_ANSWER_TIMEOUT_S = 20.0
_MAX_DATAGRAM_BYTES = 65_536
_MAX_ERRORS = 1000
_DUMP_TRIES = 20
"""Others may change nftables twenty times a second, and a dump of ten thousand elements takes 10 ms."""
_WORDS = {
    errno.ENOENT: "No such file or directory",
    errno.EEXIST: "File exists",
    errno.ENFILE: "Too many open files in system",
}


class NftError(EnforceError):
    """The kernel, or libnftables, refused a transaction; nothing of it was done.

    Attributes:
        code: errno; 0 where libnftables refused the text itself.
        index: Which change was refused, the first of them; None where that is not known.
        missing: A table, set, chain or element is not there.
        present: It is there already, or in another shape; for intervals, also one that overlaps with it.
        full: The set has no room.
        unsupported: The kernel can't turn what is there into what was asked for.
    """

    def __init__(self, what: str, *, code: int = 0, index: int | None = None, fix: str | None = None) -> None:
        super().__init__(what, fix=fix)
        self.code = code
        self.index = index
        self.missing = code == errno.ENOENT
        self.present = code == errno.EEXIST
        self.full = code == errno.ENFILE
        self.unsupported = code in (errno.EOPNOTSUPP, errno.EBUSY)


class NftSocket:
    """A socket to nfnetlink, in the network namespace it is opened in. For one thread.

    Attributes:
        port: Its netlink port id, by which notifications name whose change they tell.

    Raises:
        EnforceError: The kernel gives no such socket.
    """

    def __init__(self) -> None:
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
            self._socket.bind((0, 0))
        except OSError as error:
            raise EnforceError(f"no way to nftables: {error.strerror}", where="NETLINK_NETFILTER") from error
        self._socket.settimeout(_ANSWER_TIMEOUT_S)
        for option, value in ((_SO_SNDBUFFORCE, _SEND_BYTES), (_SO_RCVBUFFORCE, _RECEIVE_BYTES)):
            with contextlib.suppress(PermissionError):  # then whatever it is for is refused as well
                self._socket.setsockopt(socket.SOL_SOCKET, option, value)
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
        self.port: int = self._socket.getsockname()[0]
        self._sequence = 0

    def transact(self, changes: Sequence[NftChange]) -> None:
        """Carry out all of it, or nothing.

        Raises:
            NftError: It was refused.
            PrivilegeError: CAP_NET_ADMIN is missing.
            EnforceError: The kernel gives no answer.
        """
        if not changes:
            return
        begin = self._next_sequence(len(changes) + 2)
        last = len(changes) - 1
        parts = [render_message(_BATCH_BEGIN, NLM_F_REQUEST, begin, _BATCH_BODY)]
        parts += [
            render_message(
                SUBSYSTEM << 8 | change.kind,
                NLM_F_REQUEST | change.flags | (NLM_F_ACK if index == last else 0),
                begin + 1 + index,
                change.body,
            )
            for index, change in enumerate(changes)
        ]
        parts.append(render_message(_BATCH_END, NLM_F_REQUEST, begin + 1 + len(changes), _BATCH_BODY))
        self._send(b"".join(parts))
        answers = self._read_answers(begin, len(changes))
        refused = [(index, code) for index, code in sorted(answers.items()) if code]
        if refused:
            index, code = refused[0]
            raise _refuse(code, index if index >= 0 else None)

    def get(self, kind: Kind, body: bytes, *, dump: bool) -> list[memoryview]:
        """What there is: bodies of messages without struct nfgenmsg.

        Args:
            kind: GETTABLE and the like.
            body: What is asked for.
            dump: All that match, else the one that is named.

        Raises:
            NftError: There is no such thing.
            PrivilegeError: CAP_NET_ADMIN is missing.
            EnforceError: The kernel gives no answer, or never one that nobody's change interrupts.
        """
        for _ in range(_DUMP_TRIES):
            found = self._get(kind, body, dump=dump)
            if found is not None:
                return found
        raise EnforceError("others change nftables faster than it can be read", where=kind.name)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    # -- inside ------------------------------------------------------------------------------------------------------

    def _get(self, kind: Kind, body: bytes, *, dump: bool) -> list[memoryview] | None:
        sequence = self._next_sequence(1)
        flags = NLM_F_REQUEST | (NLM_F_DUMP if dump else 0)
        self._send(render_message(SUBSYSTEM << 8 | kind, flags, sequence, body))
        found: list[memoryview] = []
        interrupted = False
        while True:
            for message in split_messages(self._receive()):
                if message.sequence != sequence:
                    continue
                interrupted |= bool(message.flags & NLM_F_DUMP_INTR)
                if message.type in (NLMSG_ERROR, NLMSG_DONE):
                    code = -int.from_bytes(message.body[:4], "little" if _LITTLE else "big", signed=True)
                    if code == errno.EINTR:
                        return None
                    if code:
                        raise _refuse(code, None)
                    return None if interrupted else found
                found.append(message.body[4:])
                if not dump:
                    return found

    def _next_sequence(self, count: int) -> int:
        if self._sequence + count > 0x7FFF_FFFF:
            self._sequence = 0
        first = self._sequence + 1
        self._sequence += count
        return first

    def _send(self, data: bytes) -> None:
        try:
            self._socket.sendto(data, (0, 0))
        except OSError as error:
            raise EnforceError(
                f"nftables takes no transaction: {error.strerror}", where=f"{len(data)} bytes"
            ) from error

    def _receive(self) -> bytes:
        try:
            return self._socket.recv(_MAX_DATAGRAM_BYTES)
        except OSError as error:
            raise EnforceError(f"nftables gives no answer: {error.strerror or 'timed out'}") from error

    def _read_answers(self, begin: int, count: int) -> dict[int, int]:
        """Errno by index of the change; -1 for the transaction as a whole."""
        answers: dict[int, int] = {}
        try:
            while not (count - 1 in answers or -1 in answers) and len(answers) < _MAX_ERRORS:
                for message in split_messages(self._receive()):
                    if message.type == NLMSG_ERROR and begin <= message.sequence <= begin + count:
                        code = int.from_bytes(message.body[:4], "little" if _LITTLE else "big", signed=True)
                        answers.setdefault(message.sequence - begin - 1, -code)
        except DecodeError as error:
            raise EnforceError(f"nftables answers what nobody understands: {error}") from error
        return answers


_LITTLE = memoryview(b"\1\0").cast("H")[0] == 1


def _refuse(code: int, index: int | None) -> NftError | PrivilegeError:
    if code in (errno.EPERM, errno.EACCES):
        if "NET_ADMIN" in read_held().effective:  # nothing lacks: nft(8), flags owner
            return NftError("another program owns the table, and nobody else may change it", code=code, index=index)
        return PrivilegeError("nftables may not be changed or read", fix="run as root, or with CAP_NET_ADMIN")
    return NftError(_WORDS.get(code) or os.strerror(code), code=code, index=index)
