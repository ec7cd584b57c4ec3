"""Answers that wait until what was ordered is in the state file: a kill just after the answer must not undo it.

And until the kernel's limits hold, where they begin anew (docs/bpf.md). The loop goes on meanwhile.
A disk that takes too long is named in the answer, which then no longer waits for it.
"""

import threading
from dataclasses import dataclass

from smtpguard.control.answer import Later
from smtpguard.daemon.loop import TimedPart
from smtpguard.daemon.serve.reload import IsSettled
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
    """An answer that waits for the disk (`ticket`), or is `written` and waits for the kernel's limits."""

    ticket: int | None
    written: threading.Event
    later: Later
    said: Said
    until_ns: int


class Commits(TimedPart):
    """The answers that wait, as a part of the loop.

    Args:
        state: What writes.
        now: CLOCK_BOOTTIME in nanoseconds.
        is_settled: Whether the kernel's limits hold; while they begin anew the limits have the loop turn.
    """

    def __init__(self, state: StateWriter, now: ClockNs, is_settled: IsSettled = lambda: True) -> None:
        self._state = state
        self._now = now
        self._is_settled = is_settled
        self._waiting: list[_WaitingAnswer] = []

    def answer(self, said: Said) -> Said | Later:
        """The answer, once all that was handed to the state until now is in the file; at once where there is none."""
        stats, is_settled = self._state.stats(), self._is_settled()
        later, written = Later(), threading.Event()

        def take_written() -> None:
            if is_settled:
                later.resolve(said)
            else:
                written.set()  # the loop answers

        ticket = None if stats.path is None else self._state.when_written(take_written)
        if ticket is None:
            if is_settled:
                return said
            written.set()
        patience_ns = PATIENCE_NS if stats.error is None else FAILING_NS
        self._waiting.append(_WaitingAnswer(ticket, written, later, said, self._now() + patience_ns))
        return later

    def next_deadline(self) -> int | None:
        """When the first answer has waited long enough."""
        return min((waiting.until_ns for waiting in self._waiting), default=None)

    def on_time(self, now_ns: int) -> None:
        """Answer what holds now, and what has waited long enough."""
        self._waiting = [waiting for waiting in self._waiting if waiting.later.answer is None]
        is_settled = not self._waiting or self._is_settled()
        for waiting in self._waiting:
            is_due = waiting.until_ns <= now_ns
            if waiting.written.is_set():
                if is_settled or is_due:
                    waiting.later.resolve(waiting.said)
            elif is_due and waiting.ticket is not None and self._state.forget_waiter(waiting.ticket):
                note = "Not on the disk yet: a restart now may forget it."
                waiting.later.resolve({**waiting.said, "text": join_sentences(str(waiting.said["text"]), note)})
