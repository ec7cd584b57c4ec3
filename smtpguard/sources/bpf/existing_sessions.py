"""Sessions that were open before the program was attached: the hooks never see them, so they are asked about by hand.

Found once, by a walk in a thread: tenants choose how many there are. Then each is asked about by its cookie, so many a
second; one that is gone has closed. Only the guard's own network namespace is seen, and a session's uid is that of its
socket's maker. One whose local port is listened on was opened by the peer, who is nobody here.
"""

import contextlib
from collections import deque
from collections.abc import Iterable
from functools import partial
from typing import Protocol

from smtpguard.decode.netlink.sock_diag import Session, Totals
from smtpguard.errors import ThreadError
from smtpguard.kernel.beside import Beside, Pace
from smtpguard.kernel.sock_diag import SockDiag
from smtpguard.model import NS, SocketNews, SocketReport

MAX_ADOPTED = 16_384
"""Most sessions that are followed. Where there are more each user has a share of them; what is beyond is counted."""
MAX_ASKED = 2_000
"""Sessions asked about in one second, 40 us each; of more each has its turn every few seconds."""

FIND_S, ASK_S = 0.02, 0.005
"""How long the loop waits for the walk at the start, and for answers; most hosts have so few sessions."""

_POLL_NS = NS
_CLOSE_S = 2.0


class IsFollowed(Protocol):
    """Knows which sessions the program follows itself."""

    def __call__(self, cookie: int, storage: bytes | None, /) -> bool:
        """The answer for one, by its cookie and what the program keeps with its socket."""
        ...


class ExistingSessions:
    """The adopted sessions of some ports. Methods raise SourceError.

    Args:
        ports: The guarded ports.
        now_ns: CLOCK_BOOTTIME.
        loopback: Whether sessions to 127.0.0.0/8 and ::1 count.

    Attributes:
        left_out: Sessions beyond MAX_ADOPTED.
    """

    def __init__(self, ports: Iterable[int], now_ns: int, *, loopback: bool = True) -> None:
        self._diag = SockDiag()
        self._ports = sorted(ports)
        self._loopback = loopback
        self._sessions: deque[Session] = deque()
        self._cookies: set[int] = set()
        self._beside: Beside[list[SocketReport]] = Beside("adopted-sessions")
        self._next_ns = now_ns
        self._is_followed: IsFollowed | None = None
        """Of what is to be found still."""
        self._storage_fd: int | None = None
        self.left_out = 0

    def adopt(self, now_ns: int, is_followed: IsFollowed, storage_fd: int | None = None) -> list[SocketReport]:
        """Find what is open now; one report each, with all that went before: a baseline. If it is much, `poll` has it.

        Args:
            now_ns: CLOCK_BOOTTIME.
            is_followed: Whether the program follows a session itself: one that begins while they are found, or that
                it has followed before it was detached.
            storage_fd: The map in which it keeps that with the sockets, if there is one.
        """
        self._is_followed, self._storage_fd = is_followed, storage_fd
        return self._begin(now_ns, FIND_S)

    def poll(self, now_ns: int) -> list[SocketReport]:
        """What was found to have changed: traffic, and ends with the totals last seen. Call it at any time."""
        reports = self._beside.take() or []
        is_due = now_ns >= self._next_ns and (self._sessions or self._is_followed is not None)
        if not self._beside.is_busy and is_due:
            reports += self._begin(now_ns, ASK_S)
        return reports

    def _begin(self, now_ns: int, wait_s: float) -> list[SocketReport]:
        """Find them, or ask about those that were found; where there is no thread for it, the next time."""
        self._next_ns, is_followed = now_ns + _POLL_NS, self._is_followed
        work = partial(self._ask, now_ns) if is_followed is None else partial(self._find, now_ns, is_followed)
        with contextlib.suppress(ThreadError):
            self._beside.begin(work)
            self._is_followed = None
        return self._beside.take(wait_s) or []

    def forget(self, cookie: int) -> None:
        """The program tells of this session itself."""
        self._cookies.discard(cookie)

    def close(self) -> None:
        """Release the socket; may be called twice."""
        self._beside.wait(_CLOSE_S)
        self._diag.close()

    # -- in the thread -----------------------------------------------------------------------------------------------

    def _find(self, now_ns: int, is_followed: IsFollowed) -> list[SocketReport]:
        pace = Pace()
        by_user: dict[int, list[Session]] = {}

        def is_wanted(uid: int, cookie: int, storage: bytes | None) -> bool:
            del uid
            pace.breathe()
            return not is_followed(cookie, storage)

        for session in self._diag.sessions(
            self._ports, totals=True, loopback=self._loopback, is_wanted=is_wanted, storage_fd=self._storage_fd
        ):
            if session.uid is not None:
                of_user = by_user.setdefault(session.uid, [])
                if len(of_user) < MAX_ADOPTED:
                    of_user.append(session)
                else:
                    self.left_out += 1
        kept = share_out(list(by_user.values()), MAX_ADOPTED)
        self.left_out += sum(map(len, by_user.values())) - len(kept)
        listened: dict[tuple[bytes, int], bool] = {}
        for session in kept:
            pace.breathe()
            end = (session.source, session.source_port)
            if end not in listened:
                listened[end] = self._diag.is_listened(session)
            direction = session.totals and session.totals.is_called  # None: not told, as by old kernels
            if direction is False or (direction is None and not listened[end]):
                self._cookies.add(session.cookie)
                self._sessions.append(session)
        return [_report(session, "open", now_ns) for session in self._sessions]

    def _ask(self, now_ns: int) -> list[SocketReport]:
        pace = Pace()
        reports = []
        for _ in range(min(len(self._sessions), MAX_ASKED)):
            pace.breathe()
            before = self._sessions.popleft()
            if before.cookie not in self._cookies:
                continue
            session = self._diag.look_again(before)
            if session is None:
                self._cookies.discard(before.cookie)
                reports.append(_report(before, "closed", now_ns))
                continue
            self._sessions.append(session)
            if session.totals != before.totals:
                reports.append(_report(session, "open", now_ns))
        return reports


def share_out(groups: list[list[Session]], most: int) -> list[Session]:
    """So many sessions at most, of each group as many as of any other, unless it has no more."""
    kept: list[Session] = []
    groups = sorted(groups, key=len)
    for number, group in enumerate(groups):
        share = (most - len(kept)) // (len(groups) - number)
        kept += group[:share]
    return kept


def _report(sock: Session, kind: SocketNews, now_ns: int) -> SocketReport:
    totals = sock.totals or Totals(bytes_sent=0, bytes_received=0, retransmissions=0)
    return SocketReport(
        time_ns=now_ns,
        kind=kind,
        uid=sock.uid,
        netns=None,
        cookie=sock.cookie,
        connect_time_ns=None,
        port=sock.port,
        address=sock.address,
        latency_ns=None,
        bytes_sent=max(0, totals.bytes_sent - 1),  # the SYN is acknowledged like a byte
        bytes_received=totals.bytes_received,
        retransmissions=totals.retransmissions,
    )
