"""sock_diag (sock_diag(7)): asks for TCP sockets and ends them, in the network namespace it is opened in.

Reading needs no capability, ending a socket CAP_NET_ADMIN. It looks at sockets, never at processes.
"""

import errno
import os
import socket
import struct
from collections.abc import Collection, Iterable, Iterator
from types import TracebackType
from typing import Protocol, Self

from smtpguard.decode.netlink.messages import NLMSG_DONE, NLMSG_ERROR, NetlinkMessage, split_messages
from smtpguard.decode.netlink.sock_diag import (
    AF_INET,
    AF_INET6,
    LISTEN,
    SPEAKING,
    Session,
    parse_session,
    read_cookie,
    read_storage,
    read_uid,
    render_destroy,
    render_dump,
    render_find,
)
from smtpguard.errors import DecodeError, PrivilegeError, SourceError

_NETLINK_SOCK_DIAG = 4
_ANSWER_TIMEOUT_S = 5.0
_RECEIVE_BYTES = 1 << 20
_MAX_DATAGRAM_BYTES = 65_536
_MAX_INTERFACES = 64
_NO_STORAGE = frozenset({errno.EPERM, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOENT, errno.EBADF})
MAX_SESSIONS = 100_000
"""Most sockets taken of one dump, per family; what is beyond is counted as not seen."""


class IsWanted(Protocol):
    """A question about sockets, before more of them is looked at."""

    def __call__(self, uid: int, cookie: int, storage: bytes | None) -> bool:
        """The answer for one.

        Args:
            uid: Of who made it; 0 and 0xFFFFFFFF where the kernel does not say.
            cookie: Its cookie.
            storage: What a BPF program keeps with it, where that was asked for.
        """
        ...


class SockDiag:
    """An open sock_diag socket. Raises SourceError where the kernel has none.

    Attributes:
        unseen: Sockets beyond MAX_SESSIONS, in all dumps.
    """

    def __init__(self) -> None:
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG)
        except OSError as error:
            raise SourceError(f"no sock_diag: {error.strerror}", fix="modprobe inet_diag tcp_diag") from error
        # The kernel answers while it is asked; the timeout guards against what should never be.
        self._socket.settimeout(_ANSWER_TIMEOUT_S)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BYTES)
        self._sequence = 0
        self._filters = True
        self.unseen = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close it. May be called twice."""
        self._socket.close()

    def read_sessions(
        self, ports: Collection[int], states: Iterable[int] = SPEAKING, *, totals: bool = False, loopback: bool = True
    ) -> list[Session]:
        """As `sessions`, all of them. Tenants choose how many that are: never in the loop."""
        return list(self.sessions(ports, states, totals=totals, loopback=loopback))

    def sessions(
        self,
        ports: Collection[int],
        states: Iterable[int] = SPEAKING,
        *,
        totals: bool = False,
        loopback: bool = True,
        most: int = MAX_SESSIONS,
        is_wanted: IsWanted | None = None,
        storage_fd: int | None = None,
    ) -> Iterator[Session]:
        """All TCP sockets whose peer's port is one of these, as the kernel tells of them.

        Who does not take them all must close this, and open another: the kernel has the rest to say.

        Args:
            ports: Destination ports.
            states: See `decode.sockdiag`.
            totals: With what went through each so far.
            loopback: With those whose peer is 127.0.0.0/8 or ::1; the kernel leaves them out.
            most: So many of each family; what is beyond is counted as not seen.
            is_wanted: Only these; the others cost 2 us each instead of 10.
            storage_fd: A BPF_MAP_TYPE_SK_STORAGE: `is_wanted` is told what it keeps of each socket.

        Raises:
            SourceError: The kernel does not answer.
        """
        wanted = frozenset(ports)
        for family in (AF_INET, AF_INET6):
            count = 0
            for message in self._dump(
                family, frozenset(states), wanted, totals=totals, loopback=loopback, storage_fd=storage_fd
            ):
                if is_wanted is not None:
                    storage = read_storage(message) if storage_fd is not None else None
                    if not is_wanted(read_uid(message), read_cookie(message), storage):
                        continue
                session = parse_session(message)
                if session.port not in wanted or (not loopback and _is_loopback(session.address)):
                    continue
                count += 1
                if count > most:
                    self.unseen += 1
                    continue
                yield session

    def find(self, source: tuple[bytes, int], destination: tuple[bytes, int], interface: int = 0) -> Session | None:
        """The socket between two ends; None if it is gone. Costs some 10 us.

        Args:
            source: Address (4 or 16 bytes) and port of our end.
            destination: Of the peer.
            interface: Index of the interface its packets leave by.
        """
        answer = self._ask(render_find(source, destination, interface, self._next()))
        session = None if isinstance(answer, int) else parse_session(answer)
        # Without a connected socket the kernel offers one that listens on our port.
        return session if session is not None and (session.address, session.port) == destination else None

    def look_again(self, session: Session) -> Session | None:
        """A socket that was seen before, by its cookie, with its totals; None if it is gone. Some 20 us.

        Its owner may have bound it to another interface meanwhile, and then it is found by that one alone.
        """
        found = self._find_again(session, session.interface)
        if found is None:
            for interface, _ in socket.if_nameindex()[:_MAX_INTERFACES]:
                found = found or self._find_again(session, interface)
        return found if found is not None and found.state in SPEAKING else None

    def _find_again(self, session: Session, interface: int) -> Session | None:
        source, destination = (session.source, session.source_port), (session.address, session.port)
        request = render_find(source, destination, interface, self._next(), cookie=session.cookie, totals=True)
        answer = self._ask(request)
        return None if isinstance(answer, int) else parse_session(answer)

    def is_listened(self, session: Session) -> bool:
        """Whether somebody listens on our end of a session: then it is the peer who called."""
        nowhere = (bytes(len(session.source)), 0)
        request = render_find((session.source, session.source_port), nowhere, session.interface, self._next())
        answer = self._ask(request)
        return not isinstance(answer, int) and parse_session(answer).state == LISTEN

    def destroy(self, session: Session) -> bool:
        """End a socket; False if it has ended by itself.

        Raises:
            PrivilegeError: CAP_NET_ADMIN is lacking.
            SourceError: The kernel can't (CONFIG_INET_DIAG_DESTROY is off), or won't.
        """
        code = self._ask(render_destroy(session, self._next()))
        if code == 0:
            return True
        if code == errno.ENOENT:
            return False
        if code in (errno.EPERM, errno.EACCES):
            raise PrivilegeError("open sessions can't be ended", fix="run as root, or with CAP_NET_ADMIN")
        reason = os.strerror(code) if isinstance(code, int) else "an answer of another kind"
        raise SourceError(
            f"open sessions can't be ended: {reason}", where="SOCK_DESTROY", fix="CONFIG_INET_DIAG_DESTROY may be off"
        )

    def _next(self) -> int:
        self._sequence = (self._sequence + 1) & 0x7FFF_FFFF
        return self._sequence

    def _send(self, request: bytes) -> None:
        try:
            self._socket.sendto(request, (0, 0))
        except OSError as error:
            raise SourceError(f"sock_diag can't be asked: {error.strerror}") from error

    def _receive(self) -> Iterator[NetlinkMessage]:
        """Messages that answer the last request."""
        while True:
            try:
                datagram = self._socket.recv(_MAX_DATAGRAM_BYTES)
            except OSError as error:
                raise SourceError(f"sock_diag gives no answer: {error.strerror or 'timeout'}") from error
            for message in split_messages(datagram):
                if message.sequence == self._sequence:
                    yield message

    def _ask(self, request: bytes) -> NetlinkMessage | int:
        """The one answer, or the errno of an error; 0 for an acknowledgement."""
        self._send(request)
        message = next(self._receive())
        return _read_errno(message) if message.type == NLMSG_ERROR else message

    def _dump(
        self,
        family: int,
        states: frozenset[int],
        ports: frozenset[int],
        *,
        totals: bool,
        loopback: bool,
        storage_fd: int | None = None,
    ) -> Iterator[NetlinkMessage]:
        filtered = ports if self._filters else ()
        sequence = self._next()
        self._send(
            render_dump(family, states, filtered, sequence, totals=totals, loopback=loopback, storage_fd=storage_fd)
        )
        for message in self._receive():
            if message.type == NLMSG_DONE:
                return
            if message.type != NLMSG_ERROR:
                yield message
                continue
            code = _read_errno(message)
            if storage_fd is not None and code in _NO_STORAGE:
                storage_fd = None  # before Linux 5.7, or the program has just gone
            elif code == errno.EINVAL and self._filters:
                self._filters = False  # a kernel that does not take our bytecode: filtered here instead
            else:
                raise SourceError(f"sock_diag refuses: {os.strerror(code)}", fix="modprobe tcp_diag")
            yield from self._dump(family, states, ports, totals=totals, loopback=loopback, storage_fd=storage_fd)
            return


def _is_loopback(address: bytes) -> bool:
    return address[:1] == b"\x7f" if len(address) == 4 else address == bytes(15) + b"\1"


def _read_errno(message: NetlinkMessage) -> int:
    if len(message.body) < 4:
        raise DecodeError("a netlink error without its number")
    return int(-struct.unpack_from("=i", message.body)[0])
