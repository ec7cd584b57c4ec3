"""The responder of `block.verdict: tell`: says `421 4.7.0` and why to a sender whom the kernel led here, and hangs up.

Its sender's own log then explains itself. It serves nobody else: a connection that the kernel did not lead here is
reset. It hears nothing: what is sent to it is thrown away, at most so much and so long. It listens on loopback below
port 1024, where no tenant can stand in for it while it is down; without it refused is refused.

RFC 5321 (4.2.1, 4.3.2: 421 closes the channel; 4.5.3.1.5: 512 octets a line), RFC 3463 (X.7.0).
"""

import contextlib
import errno
import logging
import socket
import struct
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from smtpguard.errors import DecodeError, EnforceError, GuardError
from smtpguard.hooks import ClockNs
from smtpguard.kernel.sock_diag import SockDiag
from smtpguard.model import NS

_log = logging.getLogger(__name__)

PORTS = range(1009, 1000, -1)
"""Where it tries to listen; IANA has given these to nobody."""
MAX_OPEN = 256
MAX_OPEN_PER_USER = 16
MAX_HEARD_BYTES = 65_536
STAY_NS = 10 * NS
"""How long a sender may take to hang up."""

_MAX_LINE = 512
_BACKLOG = 128
_ACCEPTS = 32
"""Connections taken at one go, so that a flood leaves the loop its timers."""
_READ_BYTES = 16_384
_LOOPBACK = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))
_MAPPED = bytes(10) + b"\xff\xff"


def render_reply(text: str) -> bytes:
    """The one line that a refused sender hears.

    Args:
        text: Why, until when, and a reference. What is not printable ASCII becomes `?`; it is cut to fit.
    """
    head, end = b"421 4.7.0 ", b"\r\n"
    body = "".join(char if " " <= char <= "~" else "?" for char in text).encode("ascii")
    return head + body[: _MAX_LINE - len(head) - len(end)] + end


@dataclass(slots=True)
class _Guest:
    """One sender on the way out."""

    sock: socket.socket
    owner: int
    until_ns: int
    heard: int = 0


class FindOwner(Protocol):
    """Knows whose a socket is that was led here."""

    def __call__(self, cookie: int, /) -> int | None:
        """The uid that it counts for; None if it was not led here."""
        ...


class Explain(Protocol):
    """Knows why somebody is refused."""

    def __call__(self, uid: int, /) -> str:
        """What the sender is told, one line."""
        ...


class TellServer:
    """A part of the daemon's loop.

    Args:
        find_owner: Socket cookie to the uid a led socket counts for; None if it was not led here.
        explain: That uid to the text they are told.
        now: CLOCK_BOOTTIME in nanoseconds.

    Attributes:
        port: Where it listens.
        told: How many were told.
        turned_away: How many were reset: not led here, or too many at once.
    """

    def __init__(
        self,
        find_owner: FindOwner,
        explain: Explain,
        now: ClockNs,
        *,
        ports: Sequence[int] = PORTS,
    ) -> None:
        self._find_owner = find_owner
        self._explain = explain
        self._now = now
        self._guests: dict[int, _Guest] = {}
        self._present: Counter[int] = Counter()
        self.told = 0
        self.turned_away = 0
        self._diag = SockDiag()
        try:
            self.port, self._listeners = _listen(ports)
        except EnforceError:
            self._diag.close()
            raise

    def filenos(self) -> Sequence[int]:
        """Its listeners and its guests."""
        return [*self._listeners, *self._guests]

    def on_ready(self, fileno: int) -> None:
        """Somebody comes, or speaks, or goes."""
        listener = self._listeners.get(fileno)
        if listener is not None:
            for _ in range(_ACCEPTS):
                try:
                    sock, _ = listener.accept()
                except OSError:
                    return  # nobody more, or nobody any more
                self._receive(sock)
        elif fileno in self._guests:
            self._hear(fileno)

    def next_deadline(self) -> int | None:
        """When the first guest has stayed too long."""
        return min((guest.until_ns for guest in self._guests.values()), default=None)

    def on_time(self, now_ns: int) -> None:
        """Show out who has stayed too long."""
        for fileno in [fileno for fileno, guest in self._guests.items() if guest.until_ns <= now_ns]:
            self._dismiss(fileno, reset=True)

    def close(self) -> None:
        """Hang up on all; may be called twice."""
        for fileno in list(self._guests):
            self._dismiss(fileno, reset=True)
        for listener in self._listeners.values():
            listener.close()
        self._listeners.clear()
        self._diag.close()

    def _receive(self, sock: socket.socket) -> None:
        """Tell a sender, or reset the connection."""
        owner = self._identify(sock) if len(self._guests) < MAX_OPEN else None
        if owner is None or self._present[owner] >= MAX_OPEN_PER_USER:
            self.turned_away += 1
            _reset(sock)
            return
        try:
            sock.setblocking(False)  # noqa: FBT003 - its signature
            sock.send(render_reply(self._explain(owner)))
            sock.shutdown(socket.SHUT_WR)
        except OSError:
            _reset(sock)  # gone already
            return
        self.told += 1
        self._present[owner] += 1
        self._guests[sock.fileno()] = _Guest(sock, owner, self._now() + STAY_NS)

    def _identify(self, sock: socket.socket) -> int | None:
        """Whose socket is at the other end, if the kernel led it here."""
        try:
            peer, own = sock.getpeername(), sock.getsockname()
            session = self._diag.find(_pack(peer, sock.family), _pack(own, sock.family))
            return None if session is None else self._find_owner(session.cookie)
        except (OSError, GuardError, DecodeError) as error:
            _log.debug("tell: a sender can't be identified: %s", error)
            return None

    def _hear(self, fileno: int) -> None:
        """Throw away what a guest says; they go when they hang up, or have said too much."""
        guest = self._guests[fileno]
        try:
            data = guest.sock.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        guest.heard += len(data)
        if not data or guest.heard > MAX_HEARD_BYTES:
            self._dismiss(fileno, reset=bool(data))

    def _dismiss(self, fileno: int, *, reset: bool) -> None:
        guest = self._guests.pop(fileno)
        self._present[guest.owner] -= 1
        if not self._present[guest.owner]:
            del self._present[guest.owner]
        if reset:
            _reset(guest.sock)
        else:
            guest.sock.close()


def _listen(ports: Sequence[int]) -> tuple[int, dict[int, socket.socket]]:
    """Listeners on the first port that is free on 127.0.0.1 and, where there is IPv6, on ::1."""
    for port in ports:
        listeners: dict[int, socket.socket] = {}
        try:
            for family, address in _LOOPBACK:
                listener = _listen_on(family, address, port)
                if listener is not None:
                    listeners[listener.fileno()] = listener
        except OSError as error:
            for listener in listeners.values():
                listener.close()
            if error.errno != errno.EADDRINUSE:
                raise EnforceError(
                    f"the responder can't listen: {error.strerror}", where=f"port {port}", fix="needs root"
                ) from error
        else:
            return port, listeners
    raise EnforceError("the responder finds no free port", where=f"ports {min(ports)} to {max(ports)}")


def _listen_on(family: socket.AddressFamily, address: str, port: int) -> socket.socket | None:
    try:
        listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    except OSError:
        return None  # no such family here
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind((address, port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        if family == socket.AF_INET6 and error.errno == errno.EADDRNOTAVAIL:
            return None  # IPv6 is switched off
        raise
    return listener


def _pack(name: tuple[str, int], family: int) -> tuple[bytes, int]:
    """A socket name as sock_diag wants it."""
    address = socket.inet_pton(family, name[0].partition("%")[0])
    return (address[12:] if address.startswith(_MAPPED) else address), name[1]


def _reset(sock: socket.socket) -> None:
    """Close at once: the peer sees a reset."""
    with sock, contextlib.suppress(OSError):  # an error: gone already
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("=ii", 1, 0))
