"""Ends open SMTP sessions of blocked users, by sock_diag. Refuses nothing new: that is nft's and BPF's business.

nft resets a session with its next packet, but not what has no file any more: data that a process left in its send
buffer when it ended goes on without it. And nft here sees no container with a network of its own. So a block also
destroys the user's sockets, half-closed and orphaned ones too; in other network namespaces those of their
subordinate uids, or of the namespace that the block is about, by a thread that goes there. A uid of the same number in
somebody else's container is somebody else.

Tenants choose how many sockets there are: those to loopback are left out by the kernel, and the loop looks at none.

What passes in spite of a block is left alone: root, exempt uids, exempt and own destinations, loopback.
"""

import contextlib
import logging
import os
import queue
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from smtpguard.actions.base import Deny, Exemptions, Kind, Reach
from smtpguard.actions.session_thread import SessionThread
from smtpguard.actions.session_walk import EndRequest, Interval, Matcher, Uids, WantedSessions, end_sessions, held
from smtpguard.clock import boottime_ns
from smtpguard.errors import EnforceError, GuardError, PrivilegeError, SourceError, ThreadError
from smtpguard.kernel.lasting_thread import start_thread
from smtpguard.kernel.netns import IsUid, Namespaces, enter_namespace, open_namespaces, read_cookie
from smtpguard.kernel.openers import Openers
from smtpguard.kernel.sock_diag import SockDiag
from smtpguard.model import Subject

_log = logging.getLogger(__name__)

MAX_WAITING = 64
"""Blocks whose containers are still to be looked at; a guard that blocks so many at once has its breaker."""
_JOIN_S = 2.0
_PRUNE_AT = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class _Errand:
    """Sessions to end in other namespaces: in all of them, or in the one with the cookie."""

    wishes: tuple[EndRequest, ...]
    cookie: int | None

    @property
    def who(self) -> int:
        """Whose block it is about; the first of them."""
        return self.wishes[0].who

    def narrow(self) -> WantedSessions | None:
        """What is wanted still, once a block is over."""
        wishes = held(self.wishes)
        return WantedSessions(wishes) if len(wishes) < len(self.wishes) else None


class FindNamespaces(Protocol):
    """Opens network namespaces."""

    def __call__(self, is_wanted: IsUid) -> Namespaces:
        """Those in which processes of wanted uids are."""
        ...


class SessionEnder:
    """An enforcer for sessions that are open when a block begins.

    Args:
        ports: Whose sessions.
        find_namespaces: Opens the other network namespaces of some uids; the ender closes them.

    Attributes:
        ended: Sessions ended here and in containers.
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
        self._elsewhere: str | None = None
        self._find_namespaces = find_namespaces
        self._here = SessionThread(Matcher(Exemptions()), self._count)
        self._lock = threading.Lock()
        self._prune_at = _PRUNE_AT
        self._wishes: dict[tuple[Subject, int | None], list[EndRequest]] = {}
        self._errands: queue.Queue[_Errand | None] = queue.Queue(MAX_WAITING)
        self._thread: threading.Thread | None = None

    @property
    def trouble(self) -> str | None:
        """Why some have not ended yet, of the last time; None when all have."""
        return self._here.trouble() or self._elsewhere

    @property
    def _diag(self) -> SockDiag | None:
        return self._here.diag

    @_diag.setter
    def _diag(self, diag: SockDiag | None) -> None:
        self._here.diag = diag

    def _count(self, sessions: int) -> None:
        with self._lock:
            self.ended += sessions

    def apply_deny(self, deny: Deny) -> None:
        """End what a blocked user has open. A throttle leaves sessions alone.

        Raises:
            EnforceError: Some could not be ended.
        """
        self._end_all([deny])

    def apply_many(self, denies: Sequence[Deny], releases: Sequence[tuple[Subject, Reach]]) -> None:
        """End what many users have open, by one look at all sessions.

        Raises:
            EnforceError: Some could not be ended.
        """
        for subject, reach in releases:
            self.apply_release(subject, *reach)
        self._end_all(denies)

    def apply_release(self, subject: Subject, kind: Kind, port: int | None = None) -> None:
        """What is ended is ended; what is not yet lives on."""
        if kind == "block":
            self._here.cancel(self._wishes.pop((subject, port), ()))

    def apply_exemptions(self, exemptions: Exemptions) -> None:
        """Take what is left alone."""
        self._here.exemptions = Matcher(exemptions)

    def set_openers(self, openers: Openers | None) -> None:
        """Take who opened sessions, while a BPF program sees it."""
        self._here.openers = openers

    def look_again(self, denies: Sequence[Deny]) -> None:
        """End what blocked users have open once more: one was let through before the block and is there only now."""
        with contextlib.suppress(EnforceError):  # it is in `trouble`, and tried again
            self._end_all(denies, wait=False)

    def read_denies(self) -> list[Deny]:
        """Nothing: it keeps nobody out."""
        return []

    def wait(self) -> None:
        """Until every errand so far is done; for tests and for the end of a command."""
        self._here.wait()
        self._errands.join()

    def close(self) -> None:
        """Stop; errands under way are not waited for longer than 2 s. May be called twice."""
        if self._thread is not None:
            with contextlib.suppress(queue.Full):  # then it ends with the process
                self._errands.put_nowait(None)
            self._thread.join(_JOIN_S)
            self._thread = None
        self._here.close()

    # -- inside ------------------------------------------------------------------------------------------------------

    def _end_all(self, denies: Sequence[Deny], *, wait: bool = True) -> None:
        here: list[EndRequest] = []
        ranged: list[EndRequest] = []
        errands: list[_Errand] = []
        for deny in denies:
            ports = self.ports if deny.port is None else self.ports & {deny.port}
            if deny.kind != "block" or deny.subject.id == 0 or not ports:
                continue
            ranges = tuple((first, first + count - 1) for first, count in deny.ranges if count > 0)
            own = ((deny.subject.id, deny.subject.id), *ranges)
            if deny.subject.scope is not None:
                errands.append(_Errand(wishes=(self._wish(deny, own, ports),), cookie=deny.subject.scope))
                continue
            here.append(self._wish(deny, own, ports))
            if ranges and wait:
                ranged.append(self._wish(deny, ranges, ports))
        if here:
            self._end_here(here, wait=wait)
        if ranged:
            errands.append(_Errand(wishes=tuple(ranged), cookie=None))
        for errand in errands:
            self._send(errand)

    def _wish(self, deny: Deny, uids: tuple[Interval, ...], ports: frozenset[int]) -> EndRequest:
        now_ns = boottime_ns()
        until_ns = deny.until_ns if deny.until_ns > now_ns else None
        wish = EndRequest(who=deny.subject.id, uids=uids, ports=ports, until_ns=until_ns, asked_ns=now_ns)
        self._wishes.setdefault((deny.subject, deny.port), []).append(wish)
        if len(self._wishes) > self._prune_at:
            self._wishes = {key: left for key, wishes in self._wishes.items() if (left := held(wishes))}
            self._prune_at = max(_PRUNE_AT, 2 * len(self._wishes))
        return wish

    def _end_here(self, wishes: list[EndRequest], *, wait: bool) -> None:
        try:
            self._here.end(wishes, wait=wait)
        except (SourceError, PrivilegeError, ThreadError) as error:
            raise EnforceError(error.what, where=error.where, fix=error.fix) from error
        self._elsewhere = None

    def _send(self, errand: _Errand) -> None:
        if self._thread is None or not self._thread.is_alive():
            try:
                self._thread = start_thread("container-sessions", self._serve)
            except ThreadError as error:
                self._elsewhere = f"open sessions in containers: {error.what}"
                raise EnforceError(self._elsewhere, fix=error.fix) from error
        try:
            self._errands.put_nowait(errand)
        except queue.Full:
            self._elsewhere = "open sessions in containers: too many blocks at once"
            raise EnforceError(self._elsewhere, fix="restart the container") from None

    def _serve(self) -> None:
        while True:
            errand = self._errands.get()
            try:
                if errand is None:
                    return
                self._run(errand)
            finally:
                self._errands.task_done()

    def _run(self, errand: _Errand) -> None:
        """One errand, in this thread, which may never have left its namespace: it goes nowhere itself."""
        ended = 0
        uids = Uids([interval for wish in errand.wishes for interval in wish.uids])
        spaces = self._find_namespaces(uids.hold)
        if spaces.missed:
            self._complain(errand, f"{spaces.missed} processes whose network can't be entered")
        for fd in spaces.fds:
            outcome: list[int | GuardError] = []
            # A thread that has gone into a container is not fit for anything else: each visit has its own.
            try:
                start_thread("container-visit", partial(self._visit, fd, errand, outcome)).join()
            except ThreadError as error:
                outcome.append(error)
            os.close(fd)
            for result in outcome:
                if isinstance(result, int):
                    ended += result
                else:
                    self._complain(errand, str(result))
        for wish in errand.wishes:
            wish.is_over = True
        self._count(ended)
        if ended:
            _log.info("uid %d is blocked: %d open sessions ended in containers", errand.who, ended)

    def _complain(self, errand: _Errand, what: str) -> None:
        self._elsewhere = f"open sessions in containers: {what}"
        _log.warning("uid %d is blocked; %s", errand.who, self._elsewhere)

    def _visit(self, fd: int, errand: _Errand, outcome: list[int | GuardError]) -> None:
        try:
            enter_namespace(fd)
            if errand.cookie is not None and read_cookie() != errand.cookie:
                return
            with SockDiag() as diag:
                outcome.append(self._end_there(diag, errand))
        except GuardError as error:
            outcome.append(error)

    def _end_there(self, diag: SockDiag, errand: _Errand) -> int:
        wanted = WantedSessions(held(errand.wishes))
        return end_sessions(diag, wanted, self._here.exemptions, errand.narrow, self._here.openers)
