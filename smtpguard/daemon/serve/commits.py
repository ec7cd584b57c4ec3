"""Answers that wait until what was ordered is in the state file: a kill just after the answer must not undo it.

And until the kernel's limits hold, where they begin anew (docs/bpf.md). The loop goes on meanwhile.
A disk that takes too long is named in the answer, which then no longer waits for it.
"""

import threading
from dataclasses import dataclass, field

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


@dataclass(slots=True, eq=False, kw_only=True)
class _WaitingAnswer:
    """An answer that waits for the disk (`ticket`) and for the kernel's limits; what comes last gives it."""

    later: Later
    said: Said
    until_ns: int
    is_settled: bool
    is_written: bool = False
    ticket: int | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note_written(self) -> None:
        """It is in the file; the writer's thread says so."""
        with self.lock:
            self.is_written = True
            is_all = self.is_settled
        if is_all:
            self.later.resolve(self.said)

    def note_settled(self) -> None:
        """The limits hold; the loop says so."""
        with self.lock:
            is_last = self.is_written and not self.is_settled
            self.is_settled = True
        if is_last:
            self.later.resolve(self.said)


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
        stats = self._state.stats()
        patience_ns = PATIENCE_NS if stats.error is None else FAILING_NS
        later, is_settled = Later(), self._is_settled()
        waiting = _WaitingAnswer(later=later, said=said, until_ns=self._now() + patience_ns, is_settled=is_settled)
        if stats.path is not None:
            waiting.ticket = self._state.when_written(waiting.note_written)
        if waiting.ticket is None:
            if is_settled:
                return said
            waiting.is_written = True
        self._waiting.append(waiting)
        return later

    def next_deadline(self) -> int | None:
        """When the first answer has waited long enough."""
        return min((waiting.until_ns for waiting in self._waiting), default=None)

    def on_time(self, now_ns: int) -> None:
        """Answer what holds now, and what has waited long enough."""
        is_settled = bool(self._waiting) and self._is_settled()
        for waiting in self._waiting:
            is_due = waiting.until_ns <= now_ns
            if is_settled or is_due:
                waiting.note_settled()
            if is_due and waiting.ticket is not None and self._state.forget_waiter(waiting.ticket):
                note = "Not on the disk yet: a restart now may forget it."
                waiting.later.resolve({**waiting.said, "text": join_sentences(str(waiting.said["text"]), note)})
        self._waiting = [waiting for waiting in self._waiting if waiting.later.answer is None]
