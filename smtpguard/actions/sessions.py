"""Ends open SMTP sessions of blocked users, by sock_diag. Refuses nothing new: that is nft's and BPF's business.

nft resets a session with its next packet, but not what has no file any more: data that a process left in its send
buffer when it ended goes on without it. And nft here sees no container with a network of its own. So a block also
destroys the user's sockets, half-closed and orphaned ones too; in other network namespaces those of his subordinate
uids, or of the namespace that the block is about, by a thread that goes there. A uid of the same number in somebody
else's container is somebody else.

Tenants choose how many sockets there are: those to loopback are left out by the kernel, and what is not done within
ten milliseconds is done by the thread.

What passes in spite of a block is left alone: root, exempt uids, exempt and own destinations, loopback.
"""

import contextlib
import logging
import os
import queue
import threading
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Protocol

from smtpguard.actions.base import Deny, Kind, Passes, Reach
from smtpguard.decode.sockdiag import Session
from smtpguard.errors import EnforceError, GuardError, PrivilegeError, SourceError
from smtpguard.kernel.beside import Pace
from smtpguard.kernel.netns import IsUid, Namespaces, enter_namespace, open_namespaces, read_cookie
from smtpguard.kernel.sockdiag import SockDiag
from smtpguard.model import Subject
from smtpguard.settings import Network

_log = logging.getLogger(__name__)

MAX_WAITING = 64
"""Blocks whose containers are still to be looked at; a guard that blocks so many at once has its breaker."""
_JOIN_S = 2.0
_IN_LOOP = 256
"""Sessions that the loop itself looks at, in 10 ms if it ends all of them; most hosts have fewer."""

Interval = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Errand:
    """Sessions to end in other namespaces: of these uids to these ports, in all or in the one with the cookie.

    One that is `here` is about our own namespace, and about whoever waits then.
    """

    uids: tuple[Interval, ...]
    ports: frozenset[int]
    cookie: int | None
    who: int
    here: bool = False


class FindNamespaces(Protocol):
    """Opens network namespaces."""

    def __call__(self, is_wanted: IsUid) -> Namespaces:
        """Those in which processes of wanted uids are."""
        ...


class PassesSession(Protocol):
    """Knows which sessions live on.

    Attributes:
        loopback: Whether all do whose peer is on the loopback interface.
    """

    loopback: bool

    def __call__(self, session: Session, /) -> bool:
        """Whether one passes in spite of a block."""
        ...


class SessionEnder:
    """An enforcer for sessions that are open when a block begins.

    Args:
        ports: Whose sessions.
        find_namespaces: Opens the other network namespaces of some uids; the ender closes them.

    Attributes:
        ended: Sessions ended here and in containers.
        trouble: Why some could not be ended, of the last time; None when all were.
    """

    name = "sessions"

    def __init__(
        self,
        ports: frozenset[int],
        *,
        find_namespaces: FindNamespaces = open_namespaces,
    ) -> None:
        self.ports = ports
        self.ended = 0
        self.trouble: str | None = None
        self._find_namespaces = find_namespaces
        self._passes = Passes()
        self._matcher = _Matcher(self._passes)
        self._diag: SockDiag | None = None
        self._lock = threading.Lock()
        self._waiting: dict[frozenset[int], set[Interval]] = {}
        self._errands: queue.Queue[_Errand | None] = queue.Queue(MAX_WAITING)
        self._thread: threading.Thread | None = None

    def apply_deny(self, deny: Deny) -> None:
        """End what a blocked user has open. A throttle leaves sessions alone.

        Raises:
            EnforceError: Some could not be ended.
        """
        if deny.kind != "block" or deny.subject.id == 0:
            return
        ranges = tuple((first, first + count - 1) for first, count in deny.ranges if count > 0)
        ports = self._ports_of(deny.port)
        if deny.subject.scope is None:
            self._end_here(((deny.subject.id, deny.subject.id), *ranges), ports)
        if ranges or deny.subject.scope is not None:
            uids = ranges if deny.subject.scope is None else ((deny.subject.id, deny.subject.id), *ranges)
            self._send(_Errand(uids=uids, ports=ports, cookie=deny.subject.scope, who=deny.subject.id))

    def _ports_of(self, port: int | None) -> frozenset[int]:
        return self.ports if port is None else self.ports & {port}

    def apply_many(self, denies: Sequence[Deny], releases: Sequence[tuple[Subject, Reach]]) -> None:
        """End what many users have open, by one look at all sessions for each port that is refused by itself.

        Raises:
            EnforceError: Some could not be ended.
        """
        del releases
        ours = [deny for deny in denies if deny.kind == "block" and deny.subject.id != 0]
        for deny in ours:
            if deny.subject.scope is not None:
                self.apply_deny(deny)
        for port in {deny.port: None for deny in ours}:
            here = [deny for deny in ours if deny.subject.scope is None and deny.port == port]
            ports = self._ports_of(port)
            ranges = [(first, first + count - 1) for deny in here for first, count in deny.ranges if count > 0]
            if ranges:
                self._send(_Errand(uids=tuple(sorted(ranges)), ports=ports, cookie=None, who=here[0].subject.id))
            if here:
                self._end_here((*((deny.subject.id, deny.subject.id) for deny in here), *ranges), ports)

    def apply_release(self, subject: Subject, kind: Kind, port: int | None = None) -> None:
        """Nothing to do: what is ended is ended."""

    def apply_passes(self, passes: Passes) -> None:
        """Take what is left alone."""
        self._passes = passes
        self._matcher = _Matcher(passes)

    def read_denies(self) -> list[Deny]:
        """Nothing: it keeps nobody out."""
        return []

    def wait(self) -> None:
        """Until every errand so far is done; for tests and for the end of a command."""
        self._errands.join()

    def close(self) -> None:
        """Stop; errands under way are not waited for longer than 2 s. May be called twice."""
        if self._thread is not None:
            with contextlib.suppress(queue.Full):  # then it ends with the process
                self._errands.put_nowait(None)
            self._thread.join(_JOIN_S)
            self._thread = None
        if self._diag is not None:
            self._diag.close()
            self._diag = None

    # -- inside ------------------------------------------------------------------------------------------------------

    def _end_here(self, uids: Sequence[Interval], ports: frozenset[int]) -> None:
        if not ports:
            return
        try:
            finished = self._end_some(uids, ports)
        except (SourceError, PrivilegeError) as error:
            self.trouble = str(error)
            raise EnforceError(error.what, where=error.where, fix=error.fix) from error
        self.trouble = None
        if not finished:
            self._send_here(uids, ports)

    def _end_some(self, uids: Sequence[Interval], ports: frozenset[int]) -> bool:
        """End what can be ended at once; False if there is more to look at."""
        diag = self._diag = self._diag or SockDiag()
        for number, ended in enumerate(_end_each(diag, uids, ports, self._matcher)):
            self.ended += ended
            if number > _IN_LOOP:
                diag.close()  # with what the kernel still has to say
                self._diag = None
                return False
        return True

    def _send_here(self, uids: Sequence[Interval], ports: frozenset[int]) -> None:
        """Let the thread look at all sessions, once for whoever waits by then."""
        with self._lock:
            is_asked = bool(self._waiting) and self._thread is not None and self._thread.is_alive()
            self._waiting.setdefault(ports, set()).update(uids)
        if not is_asked:
            try:
                self._send(_Errand(uids=(), ports=ports, cookie=None, who=uids[0][0], here=True))
            except EnforceError:
                with self._lock:
                    self._waiting.clear()
                raise

    def _send(self, errand: _Errand) -> None:
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._serve, name="session-ender", daemon=True)
            self._thread.start()
        try:
            self._errands.put_nowait(errand)
        except queue.Full:
            self.trouble = "open sessions in containers: too many blocks at once"
            raise EnforceError(self.trouble, fix="restart the container") from None

    def _serve(self) -> None:
        while True:
            errand = self._errands.get()
            try:
                if errand is None:
                    return
                self._run(errand)
            finally:
                self._errands.task_done()

    def _run_here(self) -> None:
        with self._lock:
            waiting = [(ports, sorted(uids)) for ports, uids in self._waiting.items()]
            self._waiting.clear()
        pace = Pace()
        with SockDiag() as diag:
            for ports, uids in waiting:
                for ended in _end_each(diag, uids, ports, self._matcher):
                    self.ended += ended
                    pace.breathe()

    def _run(self, errand: _Errand) -> None:
        """One errand, in this thread, which may never have left its namespace: it goes nowhere itself."""
        if errand.here:
            try:
                self._run_here()
            except GuardError as error:
                self.trouble = f"open sessions: {error}"
                _log.warning("uid %d is blocked; %s", errand.who, self.trouble)
            return
        ended = 0
        spaces = self._find_namespaces(lambda uid: any(first <= uid <= last for first, last in errand.uids))
        if spaces.missed:
            self._complain(errand, f"{spaces.missed} processes whose network can't be entered")
        for fd in spaces.fds:
            outcome: list[int | GuardError] = []
            # A thread that has gone into a container is not fit for anything else: each visit has its own.
            visitor = threading.Thread(target=self._visit, args=(fd, errand, outcome), daemon=True)
            visitor.start()
            visitor.join()
            os.close(fd)
            for result in outcome:
                if isinstance(result, int):
                    ended += result
                else:
                    self._complain(errand, str(result))
        self.ended += ended
        if ended:
            _log.info("uid %d is blocked: %d open sessions ended in containers", errand.who, ended)

    def _complain(self, errand: _Errand, what: str) -> None:
        self.trouble = f"open sessions in containers: {what}"
        _log.warning("uid %d is blocked; %s", errand.who, self.trouble)

    def _visit(self, fd: int, errand: _Errand, outcome: list[int | GuardError]) -> None:
        try:
            enter_namespace(fd)
            if errand.cookie is not None and read_cookie() != errand.cookie:
                return
            with SockDiag() as diag:
                outcome.append(end_sessions(diag, errand.uids, errand.ports, self._matcher))
        except GuardError as error:
            outcome.append(error)


def end_sessions(diag: SockDiag, uids: Sequence[Interval], ports: frozenset[int], passes: PassesSession) -> int:
    """End the sessions of some uids to some ports in the namespace that `diag` was opened in.

    Args:
        diag: Open sock_diag.
        uids: Inclusive ranges; 0 is never meant.
        ports: Destination ports.
        passes: Whether a session is left alone.

    Returns:
        How many were ended.

    Raises:
        SourceError: The kernel can't.
        PrivilegeError: CAP_NET_ADMIN is lacking.
    """
    return sum(_end_each(diag, uids, ports, passes))


def _end_each(diag: SockDiag, uids: Sequence[Interval], ports: frozenset[int], passes: PassesSession) -> Iterator[bool]:
    """Ends them, and says of each step of it whether one was ended."""
    firsts, lasts = zip(*sorted(uids), strict=True) if uids else ((), ())
    furthest = list(accumulate(lasts, max))
    found: list[Session] = []
    for session in diag.sessions(ports, loopback=not passes.loopback):
        uid = session.uid
        index = bisect_right(firsts, uid) if uid else 0
        if index and furthest[index - 1] >= (uid or 0) and not passes(session):
            found.append(session)  # ended when the kernel has told of all: it is one conversation
        yield False
    for session in found:
        yield diag.destroy(session)


class _Matcher:
    """What passes, made ready for many sessions: a set look-up per prefix length in use."""

    def __init__(self, passes: Passes) -> None:
        self._uids = passes.uids
        self.loopback = passes.loopback
        self._prefixes: dict[tuple[int, int], set[int]] = {}
        for network in passes.networks:
            self._add(network)

    def __call__(self, session: Session, /) -> bool:
        """Whether it is left alone."""
        address, uid = session.address, session.uid
        if uid is None or any(first <= uid <= last for first, last in self._uids):
            return True
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
