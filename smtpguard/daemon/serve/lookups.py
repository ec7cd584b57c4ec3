"""Requests that are about a name which is still being looked up: answered when it is known, and nobody else waits.

The daemon's loop asks the C library for nothing, as a directory server may take minutes:
enrich/accounts/name_service.py does, in a thread. A request whose name is not known yet ends in UnansweredError before
it has changed anything; it is asked once more when a look-up has ended, and at last told that nobody answered.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from smtpguard.control.answer import Answer, Later, Pages
from smtpguard.enrich.accounts.name_service import NameService
from smtpguard.errors import GuardError, UnansweredError
from smtpguard.hooks import ClockNs
from smtpguard.model import NS

PATIENCE_NS = 3 * NS
"""How long a name is waited for; commands wait 5 s for the daemon."""


class AskAgain(Protocol):
    """Something a person asked for."""

    def __call__(self) -> Answer:
        """Do it, and say what came of it.

        Raises:
            UnansweredError: A name is being looked up; nothing was done.
            GuardError: It can't be done.
        """
        ...


@dataclass(frozen=True, slots=True, eq=False)
class _WaitingRequest:
    """A request that waits for a name."""

    request: AskAgain
    later: Later
    until_ns: int


class Lookups:
    """The requests that wait, as a part of the loop. The control socket bounds how many there are.

    Args:
        names: Who looks up; None if nobody does.
        now: CLOCK_BOOTTIME in nanoseconds.
    """

    def __init__(self, names: NameService | None, now: ClockNs) -> None:
        self._names = names
        self._now = now
        self._waiting: list[_WaitingRequest] = []

    def wait(self, request: AskAgain) -> Later:
        """Have a request wait that could not be answered yet, and has changed nothing."""
        waiting = _WaitingRequest(request, Later(), self._now() + PATIENCE_NS)
        self._waiting.append(waiting)
        return waiting.later

    def filenos(self) -> Sequence[int]:
        """The descriptor that tells of look-ups that have ended."""
        return () if self._names is None else (self._names.fileno(),)

    def on_ready(self, fileno: int) -> None:
        """A look-up has ended: ask once more for whom it may have been."""
        del fileno
        if self._names is not None:
            self._names.drain()
        for waiting in list(self._waiting):
            self._try(waiting)

    def next_deadline(self) -> int | None:
        """When the first request has waited long enough."""
        return min((waiting.until_ns for waiting in self._waiting), default=None)

    def on_time(self, now_ns: int) -> None:
        """Tell whoever has waited long enough that nobody answered."""
        for waiting in [waiting for waiting in self._waiting if waiting.until_ns <= now_ns]:
            self._try(waiting, is_last=True)

    def _try(self, waiting: _WaitingRequest, *, is_last: bool = False) -> None:
        self._waiting.remove(waiting)  # should it raise what nobody expects, it is not asked again
        answer: Answer | GuardError
        try:
            answer = waiting.request()
        except UnansweredError as error:
            if error.is_pending and not is_last:
                self._waiting.append(waiting)
                return
            answer = error
        except GuardError as error:
            answer = error
        if isinstance(answer, Later):
            _join(answer, waiting.later)
        elif isinstance(answer, dict | Pages | GuardError):
            waiting.later.resolve(answer)
        else:
            waiting.later.resolve(GuardError("a request that has waited for a name can't begin a stream"))


def _join(inner: Later, outer: Later) -> None:
    """What answers the one answers the other."""

    def pass_on() -> None:
        if inner.answer is not None:
            outer.resolve(inner.answer)

    inner.notify(pass_on)
