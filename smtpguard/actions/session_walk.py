"""Which open sessions a block ends, and how they are found: by a walk over all of a namespace's. Never in the loop.

The kernel goes over all its sockets for one walk, 2 us each, also those that it leaves out.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Protocol

from smtpguard.actions.base import Exemptions
from smtpguard.clock import boottime_ns
from smtpguard.decode.netlink.sock_diag import Session
from smtpguard.kernel.beside import Pace
from smtpguard.kernel.openers import FindOpener, Opener, Openers
from smtpguard.kernel.sock_diag import SockDiag
from smtpguard.settings import Network

MAX_FOUND = 16_384
"""Sessions that one walk keeps, 350 bytes each; where there are more another walk follows."""
_EVERY = 1 << 40

Interval = tuple[int, int]


@dataclass(slots=True, kw_only=True)
class EndRequest:
    """Somebody's open sessions are to end.

    Attributes:
        who: Whose block it is about.
        uids: Inclusive ranges of who made them; 0 is never meant.
        ports: Their destination ports.
        until_ns: CLOCK_BOOTTIME from which on none is ended any more; None for no such time.
        asked_ns: CLOCK_BOOTTIME of the block.
        is_over: There is nothing to end any more: all was, or the block is over.
    """

    who: int
    uids: tuple[Interval, ...]
    ports: frozenset[int]
    until_ns: int | None
    asked_ns: int = 0
    is_over: bool = False


class SparesSession(Protocol):
    """Knows which sessions live on.

    Attributes:
        loopback: Whether all do whose peer is on the loopback interface.
    """

    loopback: bool

    def is_exempt(self, uid: int) -> bool:
        """Whether what a uid does passes in spite of a block."""
        ...

    def is_exempt_address(self, address: bytes) -> bool:
        """Whether a destination passes."""
        ...


class Matcher:
    """What passes, made ready for many sessions: a set look-up per prefix length in use.

    Attributes:
        loopback: As in SparesSession.
    """

    def __init__(self, exemptions: Exemptions) -> None:
        self._uids = exemptions.uids
        self.loopback = exemptions.loopback
        self._prefixes: dict[tuple[int, int], set[int]] = {}
        for network in exemptions.networks:
            self._add(network)

    def __call__(self, session: Session, /) -> bool:
        """Whether it is left alone."""
        uid = session.uid
        return uid is None or self.is_exempt(uid) or self.is_exempt_address(session.address)

    def is_exempt(self, uid: int) -> bool:
        """Whether what a uid does passes in spite of a block."""
        return any(first <= uid <= last for first, last in self._uids)

    def is_exempt_address(self, address: bytes) -> bool:
        """Whether a destination passes."""
        if self.loopback and (address[:1] == b"\x7f" if len(address) == 4 else address == bytes(15) + b"\1"):
            return True
        number = int.from_bytes(address, "big")
        return any(
            size == len(address) and number >> shift in networks for (size, shift), networks in self._prefixes.items()
        )

    def _add(self, network: Network) -> None:
        size, shift = network.max_prefixlen // 8, network.max_prefixlen - network.prefixlen
        number = int(network.network_address)
        if size == 16 and shift <= 32 and number >> 32 == 0xFFFF:  # IPv4-mapped: sessions have plain IPv4
            size, number = 4, number & 0xFFFF_FFFF
        self._prefixes.setdefault((size, shift), set()).add(number >> shift)


def held(wishes: Iterable[EndRequest]) -> list[EndRequest]:
    """Those that have something to end still."""
    now_ns = boottime_ns()
    return [wish for wish in wishes if not wish.is_over and (wish.until_ns is None or now_ns < wish.until_ns)]


class WantedSessions:
    """What many wishes come to: one look-up per session, though ten thousand users are blocked at once.

    Attributes:
        uids: Whose, at whatever port.
    """

    def __init__(self, wishes: Iterable[EndRequest]) -> None:
        grouped: dict[frozenset[int], list[Interval]] = {}
        for wish in wishes:
            grouped.setdefault(wish.ports, []).extend(wish.uids)
        self._by_port: dict[int, list[Uids]] = {}
        self.uids = Uids([interval for intervals in grouped.values() for interval in intervals])
        for ports, intervals in grouped.items():
            uids = Uids(intervals)
            for port in ports:
                self._by_port.setdefault(port, []).append(uids)

    @property
    def ports(self) -> frozenset[int]:
        """All ports that are meant."""
        return frozenset(self._by_port)

    def covers(self, session: Session, opener: Opener | None, exemptions: SparesSession) -> bool:
        """Whether a session is to end: one that a blocked user opened, or whose socket they made.

        Args:
            session: The session.
            opener: Who opened it; None if that is not known.
            exemptions: What lives on.
        """
        uids = {session.uid} if opener is None else {session.uid, opener.uid, opener.owner}
        meant = any(
            uid and groups.hold(uid) and not exemptions.is_exempt(uid)
            for uid in uids
            for groups in self._by_port.get(session.port, ())
        )
        return meant and not exemptions.is_exempt_address(session.address)


class Uids:
    """Ranges of uids, which may overlap."""

    def __init__(self, intervals: Sequence[Interval]) -> None:
        ordered = sorted(intervals)
        self._firsts = [first for first, _ in ordered]
        self._furthest = list(accumulate((last for _, last in ordered), max))

    def hold(self, uid: int) -> bool:
        """Whether a uid is in one of them."""
        index = bisect_right(self._firsts, uid)
        return bool(index) and self._furthest[index - 1] >= uid


class Narrow(Protocol):
    """Says what is wanted still: blocks end while somebody walks."""

    def __call__(self) -> WantedSessions | None:
        """What it is now; None if nothing has changed."""
        ...


def _unchanged() -> WantedSessions | None:
    return None


def end_sessions(
    diag: SockDiag,
    wanted: WantedSessions,
    exemptions: SparesSession,
    narrow: Narrow = _unchanged,
    openers: Openers | None = None,
) -> int:
    """End what is wanted in the namespace that `diag` was opened in; as many walks as it takes, paced.

    Args:
        diag: Open sock_diag, for nobody else meanwhile.
        wanted: Which sessions.
        exemptions: What is left alone.
        narrow: Asked before each end.
        openers: Who opened them; without it only those are known whose sockets somebody made.

    Returns:
        How many were ended.

    Raises:
        SourceError: The kernel can't.
        PrivilegeError: CAP_NET_ADMIN is lacking.
    """
    total, pace = 0, Pace()
    while wanted.ports:
        walk = _Walk(wanted, openers.look() if openers is not None else None)
        found: list[tuple[Session, Opener | None]] = []
        more = False
        for session in diag.sessions(
            wanted.ports,
            loopback=not exemptions.loopback,
            most=_EVERY,
            is_wanted=walk.is_wanted,
            storage_fd=openers.storage_fd if openers is not None else None,
        ):
            pace.breathe()
            opener = walk.openers.pop(session.cookie, None)
            if wanted.covers(session, opener, exemptions):
                if len(found) < MAX_FOUND:  # ended when the kernel has told of all: it is one conversation
                    found.append((session, opener))
                else:
                    more = True
        ended = 0
        for session, opener in found:
            pace.breathe()
            wanted = narrow() or wanted
            ended += wanted.covers(session, opener, exemptions) and diag.destroy(session)
        total += ended
        if not (more and ended):
            break
    return total


class _Walk:
    """One walk over all sockets, most of which are nobody's who is wanted."""

    def __init__(self, wanted: WantedSessions, find: FindOpener | None) -> None:
        self._uids = wanted.uids
        self._find = find
        self.openers: dict[int, Opener] = {}
        """Of the socket that is told of next."""

    def is_wanted(self, uid: int, cookie: int, storage: bytes | None) -> bool:
        """Whether a socket may be one that ends."""
        opener = self._find(cookie, storage) if self._find is not None else None
        if opener is not None and (self._uids.hold(opener.uid) or self._uids.hold(opener.owner)):
            self.openers[cookie] = opener
            return True
        return self._uids.hold(uid)
