"""The `proc` source: looks at the kernel's TCP sockets every so often, by sock_diag. The coarsest sensor.

It needs no capability, no rule and no program in the kernel, and costs nobody's connect() anything. But a session that
is opened and over between two looks was never there for it, and so is most of a fast burst: it says so, and never
pretends. The uid is that of the socket's creator; sockets of other network namespaces are not seen. The event's time is
that of the look. Only what was opened after `open` is told, and only what its owner opened: who is called is no caller,
whether somebody still listens there or not.
"""

import contextlib
import errno
import logging
import socket
import time
from collections.abc import Sequence
from typing import Protocol

from smtpguard.clock import boottime_ns
from smtpguard.decode.netlink.sock_diag import SYN_SENT, Session
from smtpguard.errors import SourceError, ThreadError
from smtpguard.hooks import ClockNs
from smtpguard.kernel.beside import Beside, Pace
from smtpguard.kernel.sock_diag import SockDiag
from smtpguard.model import NS, Connect
from smtpguard.settings import Settings
from smtpguard.sources.base import SourceStats

_log = logging.getLogger(__name__)

BUSY_NS = NS // 10
"""Between two looks while somebody has a session: 1,000 of them cost 1.2 ms a look."""
IDLE_NS = NS
"""Between two looks while nobody has."""
_PROBE_ADDRESS = "192.0.2.1"
"""TEST-NET-1 (RFC 5737), asked for by way of the loopback interface: nobody answers, nothing leaves."""
_PROBE_PAUSE_S = 0.01
_SMALL = 1_000
"""Sessions that are looked at in a few milliseconds: the loop waits for them. Tenants choose how many there are."""
_WAIT_S, _POLL_NS = 0.04, NS // 50
_CLOSE_S = 2.0
_MAX_LOOKS = 20
"""A session of which nobody can tell for so many looks who opened it (the peer acknowledges nothing) is let go."""

Key = tuple[int, bytes, int, int]
"""Cookie, address, port and our port: a socket may be used for one connection after the other."""


def make_source(settings: Settings) -> "ProcSource":
    """The source, unopened."""
    return ProcSource(settings)


class MakeDiag(Protocol):
    """Opens sock_diag."""

    def __call__(self) -> SockDiag:
        """A socket of its own. Raises SourceError."""
        ...


class ProcSource:
    """The sensor.

    Args:
        settings: `ports` is used.
        make_diag: Opens sock_diag.
        now_ns: CLOCK_BOOTTIME.
    """

    name = "proc"

    def __init__(
        self,
        settings: Settings,
        *,
        make_diag: MakeDiag = SockDiag,
        now_ns: ClockNs = boottime_ns,
    ) -> None:
        self.stats = SourceStats()
        self._ports = settings.ports
        self._make_diag = make_diag
        self._now_ns = now_ns
        self._diag: SockDiag | None = None
        self._known: frozenset[Key] = frozenset()
        self._doubtful: dict[Key, int] = {}
        self._beside: Beside[list[Session]] = Beside("proc-source")
        self._loopback = settings.loopback == "count"
        self._next_ns = 0

    def open(self) -> None:
        """Take a first look. Raises SourceError where the kernel has no sock_diag."""
        self._diag = self._make_diag()
        try:
            self._look()
        except SourceError:
            self.close()
            raise
        _log.warning(
            "proc: looks every %d ms; shorter sessions, and most of a fast burst, go unseen", BUSY_NS // 1_000_000
        )

    def probe(self, timeout_s: float) -> None:
        """Prove that an own attempt shows up; it leaves no namespace. Raises SourceError."""
        diag = self._require()
        address = socket.inet_aton(_PROBE_ADDRESS)
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as sock:
            try:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo\0")
                code = sock.connect_ex((_PROBE_ADDRESS, min(self._ports)))
            except OSError as error:
                raise SourceError(f"self-test: no own attempt could be made: {error.strerror}", where="proc") from error
            own_port = sock.getsockname()[1]
            deadline = time.monotonic() + timeout_s
            while True:
                seen = diag.read_sessions(self._ports, (SYN_SENT,))
                if any((s.address, s.source_port) == (address, own_port) for s in seen):
                    return
                if time.monotonic() > deadline:
                    break
                time.sleep(_PROBE_PAUSE_S)
        reason = errno.errorcode.get(code, str(code))
        raise SourceError(
            f"self-test: an own attempt did not show up (connect: {reason})",
            where="sock_diag",
            fix="is the loopback interface up?",
        )

    def filenos(self) -> Sequence[int]:
        """None: it is polled."""
        return ()

    def read(self) -> list[Connect]:
        """What is new since the last look. Raises SourceError if the kernel does not answer."""
        self._require()
        now_ns = self._now_ns()
        if not self._beside.is_busy:
            with contextlib.suppress(ThreadError):  # with the next poll, then
                self._beside.begin(self._look)
        new = self._beside.take(_WAIT_S if len(self._known) < _SMALL else 0)
        if new is None:
            self._next_ns = now_ns + _POLL_NS
            return []
        connects = [
            Connect(
                time_ns=now_ns,
                uid=session.uid,
                port=session.port,
                address=session.address,
                sensor=self.name,
                cookie=session.cookie,
                inode=session.inode,
            )
            for session in new
        ]
        self.stats.events += len(connects)
        return connects

    def next_poll_ns(self) -> int:
        """When the next look is due."""
        return self._next_ns

    def set_ports(self, ports: frozenset[int]) -> None:
        """Look at these ports from now on; what is open on them already is known. Raises SourceError."""
        if self._diag is not None and (added := ports - self._ports):
            self._beside.wait(_CLOSE_S)
            self._known |= {_key_of(session) for session in self._diag.sessions(added, loopback=self._loopback)}
        self._ports = ports

    def set_loopback(self, *, counts: bool) -> None:
        """Look at loopback from now on, or not; what is open there already is known. Raises SourceError."""
        if self._diag is not None and counts and not self._loopback:
            self._beside.wait(_CLOSE_S)
            self._known |= {_key_of(session) for session in self._diag.sessions(self._ports)}
        self._loopback = counts

    def close(self) -> None:
        """Stop looking. May be called twice."""
        if self._diag is not None:
            self._beside.wait(_CLOSE_S)
            with contextlib.suppress(OSError):
                self._diag.close()
            self._diag = None

    def _require(self) -> SockDiag:
        if self._diag is None:
            raise SourceError("not open", where="proc")
        return self._diag

    def _look(self) -> list[Session]:
        """The sessions that were not there the last time."""
        diag = self._require()
        pace = Pace()
        keys: dict[Key, Session] = {}
        for session in diag.sessions(self._ports, totals=True, loopback=self._loopback):
            pace.breathe()
            keys[_key_of(session)] = session
        fresh = [(key, session) for key, session in keys.items() if key not in self._known]
        new: list[Session] = []
        doubtful: dict[Key, int] = {}
        for key, session in fresh:
            if not (called := _is_called(diag, session)):
                if called is None and (looks := self._doubtful.get(key, 0) + 1) < _MAX_LOOKS:
                    doubtful[key] = looks
                elif called is False:
                    new.append(session)
        for key in doubtful:
            del keys[key]  # it is looked at again
        self._doubtful = doubtful
        # What is gone is forgotten: as many are remembered as the kernel has, MAX_SESSIONS a family at most.
        self._known = frozenset(keys)
        self._next_ns = self._now_ns() + (BUSY_NS if keys or doubtful else IDLE_NS)
        self.stats.lost = diag.unseen
        known_uid = [session for session in new if session.uid is not None]
        self.stats.notes["nobodys"] = self.stats.notes.get("nobodys", 0) + len(new) - len(known_uid)
        return known_uid


def _is_called(diag: SockDiag, session: Session) -> bool | None:
    """Whether the peer opened a session; None if it can't be told yet."""
    if session.state == SYN_SENT:
        return False
    totals = session.totals
    if totals is not None and totals.tells_direction:
        return totals.is_called
    return diag.is_listened(session)  # an old kernel: where the listener has been closed nobody can tell


def _key_of(session: Session) -> Key:
    return session.cookie, session.address, session.port, session.source_port
