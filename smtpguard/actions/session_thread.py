"""Ends sessions in the guard's own network namespace, beside the loop: one thread, one walk for whoever waits by then.

The loop waits for it, but 20 ms at most: most hosts have so few sessions that all is done by then, and a failure is
raised at once. What takes longer says so at its end, and a failure then is tried again until the block is over.
"""

import logging
import threading
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

from smtpguard.actions.session_walk import EndRequest, SparesSession, WantedSessions, end_sessions, held
from smtpguard.clock import boottime_ns
from smtpguard.errors import GuardError, SourceError
from smtpguard.kernel.lasting_thread import start_lasting
from smtpguard.kernel.sock_diag import SockDiag
from smtpguard.model import NS

if TYPE_CHECKING:
    from smtpguard.kernel.openers import Openers

_log = logging.getLogger(__name__)

PATIENCE_S = 0.02
"""How long the loop waits, for one block or for all of one turn."""
_REGAIN = 0.1
"""Of the time that passes: waiting takes no more of it than a tenth."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 30.0
_JOIN_S = 2.0
_MAX_TOLD = 3
_NEVER_NS = 1 << 63


class _Round:
    """What is done in one go."""

    def __init__(self) -> None:
        self.wishes: list[EndRequest] = []
        self.again: list[EndRequest] = []
        """Of them those that failed before, and that nobody else tries again."""
        self.done = threading.Event()
        self.error: GuardError | None = None
        self.is_late = False
        """Nobody waits for it any more: it tells what came of it."""


class TakeEnded(Protocol):
    """Counts what was ended."""

    def __call__(self, sessions: int) -> None:
        """So many more, from whatever thread."""
        ...


class SessionThread:
    """The thread; it is started with the first wish.

    Args:
        exemptions: What is left alone.
        on_ended: Told of what was ended.

    Attributes:
        exemptions: As above; may be replaced at any time.
        openers: Who opened sessions; None while no BPF program sees it.
        diag: What it asks, made with the first wish, in the namespace of whoever made that.
    """

    def __init__(self, exemptions: SparesSession, on_ended: TakeEnded) -> None:
        self.exemptions = exemptions
        self.openers: Openers | None = None
        self.diag: SockDiag | None = None
        self._on_ended = on_ended
        self._change = threading.Condition()
        self._next = _Round()
        self._running: _Round | None = None
        self._failed: list[EndRequest] = []
        self._error: GuardError | None = None
        self._pause_s = _FIRST_PAUSE_S
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._version = 0
        self._spent_s = 0.0
        self._spent_at = time.monotonic()

    # -- in the loop -------------------------------------------------------------------------------------------------

    def end(self, wishes: Iterable[EndRequest], *, wait: bool = True) -> None:
        """End some sessions.

        Args:
            wishes: Which.
            wait: Whether to wait PATIENCE_S for it.

        Raises:
            GuardError: It failed within that time.
        """
        self.diag = self.diag or SockDiag()
        with self._change:
            if self._thread is None:
                self._thread = start_lasting("session-ender", self._serve)
            ours = self._next
            ours.wishes += wishes
            ours.is_late = ours.is_late or not wait
            self._change.notify_all()
            is_free = self._running is None or self._running.done.is_set()
        if not wait:
            return
        begun = time.monotonic()
        patience_s = self._patience_s(begun) if is_free else 0
        is_done = ours.done.wait(patience_s)
        self._spent_s += time.monotonic() - begun
        if not is_done:
            with self._change:
                ours.is_late = not ours.done.is_set()
        if ours.done.is_set() and ours.error is not None:
            raise ours.error

    def _patience_s(self, now: float) -> float:
        self._spent_s = max(0.0, self._spent_s - _REGAIN * (now - self._spent_at))
        self._spent_at = now
        return max(0.0, PATIENCE_S - self._spent_s)

    def cancel(self, wishes: Iterable[EndRequest]) -> None:
        """These blocks are over: what they wished for is not ended any more."""
        with self._change:
            for wish in wishes:
                wish.is_over = True
                self._version += 1

    def trouble(self) -> str | None:
        """What has not been ended yet, and why; None if all has."""
        with self._change:
            error, running = self._error, self._running
        if error is not None:
            return str(error)
        if running is not None and running.is_late and not running.done.is_set():
            return f"there are many sockets; {_name(running.wishes)}: those open at the block are being ended"
        return None

    def wait(self) -> None:
        """Until nobody waits any more; what failed and is tried again later is not waited for."""
        with self._change:
            self._change.wait_for(lambda: self._running is None and not self._next.wishes)

    def close(self) -> None:
        """Stop; what is under way is not waited for longer than 2 s. May be called twice."""
        with self._change:
            self._stopping = True
            self._change.notify_all()
        if self._thread is not None:
            self._thread.join(_JOIN_S)
            self._thread = None
        if self.diag is not None:
            self.diag.close()
            self.diag = None

    # -- in the thread -----------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        while True:
            with self._change:
                if not self._change.wait_for(self._is_due, self._pause_s if self._failed else None):
                    self._next.is_late = True  # nobody waits for what is tried again
                if self._stopping:
                    return
                ours, self._next = self._next, _Round()
                ours.again, self._failed = self._failed, []
                ours.wishes += ours.again
                self._running = ours
            try:
                ended = self._run(ours)
            except GuardError as error:
                self._fail(ours, error)
            except BaseException as error:
                self._fail(ours, SourceError(f"a mistake of smtpguard's own: {type(error).__name__}: {error}"))
                raise
            else:
                self._finish(ours, ended)

    def _is_due(self) -> bool:
        return self._stopping or bool(self._next.wishes)

    def _run(self, ours: _Round) -> int:
        diag = self.diag = self.diag or SockDiag()
        version, current = self._version, held(ours.wishes)
        ends_ns = _first_end_ns(current)

        def narrow() -> WantedSessions | None:
            nonlocal version, ends_ns
            if version == self._version and boottime_ns() < ends_ns:
                return None
            version, current = self._version, held(ours.wishes)
            ends_ns = _first_end_ns(current)
            return WantedSessions(() if self._stopping else current)

        ended = end_sessions(diag, WantedSessions(current), self.exemptions, narrow, self.openers)
        if ended:
            self._on_ended(ended)
        return ended

    def _finish(self, ours: _Round, ended: int) -> None:
        with self._change:
            self._error, self._pause_s = None, _FIRST_PAUSE_S
            ours.done.set()
        for wish in ours.wishes:
            wish.is_over = True
        if ours.is_late and ended:
            late_s = (boottime_ns() - min(wish.asked_ns for wish in ours.wishes)) / NS
            _log.warning(
                "%s: blocked; %d open sessions ended up to %.2f s later: there are many sockets",
                _name(ours.wishes),
                ended,
                late_s,
            )
        self._rest()

    def _fail(self, ours: _Round, error: GuardError) -> None:
        with self._change:
            ours.error = self._error = error
            broken, self.diag = self.diag, None  # what the kernel has still to say would be taken for the next answer
            ours.done.set()
            # What the loop has waited for it has heard of, and asks for again.
            self._failed = held(ours.wishes if ours.is_late else ours.again)
            self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
        if broken is not None:
            broken.close()
        if self._failed and not self._stopping:
            _log.warning("%s: blocked; open sessions have not ended yet: %s", _name(self._failed), error)
        self._rest()

    def _rest(self) -> None:
        with self._change:
            self._running = None
            self._change.notify_all()


def _first_end_ns(wishes: list[EndRequest]) -> int:
    return min((wish.until_ns for wish in wishes if wish.until_ns is not None), default=_NEVER_NS)


def _name(wishes: list[EndRequest]) -> str:
    who = list(dict.fromkeys(wish.who for wish in wishes))
    named = ", ".join(str(uid) for uid in who[:_MAX_TOLD])
    more = f" and {len(who) - _MAX_TOLD} more" if len(who) > _MAX_TOLD else ""
    return f"uid {named}{more}"
