"""Answers that wait until what was ordered is in the state file: a kill just after the answer must not undo it.

The loop goes on meanwhile. A disk that takes too long is named in the answer, which then no longer waits for it.
"""

from dataclasses import dataclass

from smtpguard.control.answer import Later
from smtpguard.daemon.loop import TimedPart
from smtpguard.hooks import ClockNs
from smtpguard.model import NS
from smtpguard.state.writer import StateWriter
from smtpguard.text import join_sentences

PATIENCE_NS = NS
"""How long the disk is waited for; commands wait 5 s for the daemon."""
FAILING_NS = NS // 10
"""The same while it is known to fail: it is tried once more, and six orders of one person take no seconds each."""
Said = dict[str, object]


@dataclass(frozen=True, slots=True, eq=False)
class _WaitingAnswer:
    """An answer that waits for the disk."""

    ticket: int
    later: Later
    said: Said
    until_ns: int


class Commits(TimedPart):
    """The answers that wait, as a part of the loop.

    Args:
        state: What writes.
        now: CLOCK_BOOTTIME in nanoseconds.
    """

    def __init__(self, state: StateWriter, now: ClockNs) -> None:
        self._state = state
        self._now = now
        self._waiting: list[_WaitingAnswer] = []

    def answer(self, said: Said) -> Said | Later:
        """The answer, once all that was handed to the state until now is in the file; at once where there is none."""
        stats = self._state.stats()
        if stats.path is None:
            return said
        later = Later()

        def written() -> None:
            later.resolve(said)

        ticket = self._state.when_written(written)
        if ticket is None:
            return said
        patience_ns = PATIENCE_NS if stats.error is None else FAILING_NS
        self._waiting.append(_WaitingAnswer(ticket, later, said, self._now() + patience_ns))
        return later

    def next_deadline(self) -> int | None:
        """When the first answer has waited long enough."""
        return min((waiting.until_ns for waiting in self._waiting), default=None)

    def on_time(self, now_ns: int) -> None:
        """Forget what was answered; answer what has waited long enough."""
        due = [waiting for waiting in self._waiting if waiting.until_ns <= now_ns]
        self._waiting = [
            waiting for waiting in self._waiting if waiting.until_ns > now_ns and waiting.later.answer is None
        ]
        for waiting in due:
            if self._state.forget_waiter(waiting.ticket):
                note = "Not on the disk yet: a restart now may forget it."
                waiting.later.resolve({**waiting.said, "text": join_sentences(str(waiting.said["text"]), note)})
