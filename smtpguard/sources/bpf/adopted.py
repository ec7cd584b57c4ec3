"""Sessions that were open before the program was attached: the hooks never see them, so they are asked about by hand.

Once a second sock_diag tells their bytes; one that is gone has closed. Only the guard's own network namespace is seen,
and a session's uid is that of its socket's maker.
"""

from collections.abc import Iterable
from typing import Protocol

from smtpguard.decode.sockdiag import Session, Totals
from smtpguard.kernel.sockdiag import SockDiag
from smtpguard.model import NS, SocketNews, SocketReport

MAX_ADOPTED = 16_384
"""Most sessions that are followed; a host with more open SMTP sessions has the newest left out, counted."""

_WALK_NS = NS


class IsCookie(Protocol):
    """A question about sockets."""

    def __call__(self, cookie: int, /) -> bool:
        """The answer for one."""
        ...


class Adopted:
    """The adopted sessions of some ports. Methods raise SourceError.

    Args:
        ports: The guarded ports.
        now_ns: CLOCK_BOOTTIME.

    Attributes:
        left_out: Sessions beyond MAX_ADOPTED.
    """

    def __init__(self, ports: Iterable[int], now_ns: int) -> None:
        self._diag = SockDiag()
        self._ports = sorted(ports)
        self._sessions: dict[int, Session] = {}
        self._next_ns = now_ns
        self.left_out = 0

    def adopt(self, now_ns: int, is_known: IsCookie) -> list[SocketReport]:
        """Find what is open now; one report each, with all that went before: a baseline.

        Args:
            now_ns: CLOCK_BOOTTIME.
            is_known: Whether the program has seen the session of a cookie itself.
        """
        self._next_ns = now_ns + _WALK_NS
        sockets = [sock for cookie, sock in self._walk().items() if not is_known(cookie)]
        self.left_out = max(0, len(sockets) - MAX_ADOPTED)
        self._sessions = {sock.cookie: sock for sock in sockets[:MAX_ADOPTED]}
        return [_report(sock, "open", now_ns) for sock in self._sessions.values()]

    def poll(self, now_ns: int) -> list[SocketReport]:
        """What has changed since the last second: traffic, and ends with the totals last seen. Call it at any time."""
        if not self._sessions or now_ns < self._next_ns:
            return []
        self._next_ns = now_ns + _WALK_NS
        current = self._walk()
        reports = []
        for cookie, before in list(self._sessions.items()):
            sock = current.get(cookie)
            if sock is None:
                del self._sessions[cookie]
                reports.append(_report(before, "closed", now_ns))
            elif sock.totals != before.totals:
                self._sessions[cookie] = sock
                reports.append(_report(sock, "open", now_ns))
        return reports

    def close(self) -> None:
        """Release the socket; may be called twice."""
        self._diag.close()
        self._sessions.clear()

    def _walk(self) -> dict[int, Session]:
        return {sock.cookie: sock for sock in self._diag.read_sessions(self._ports, totals=True)}


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
