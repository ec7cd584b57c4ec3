"""Sends what waits in the spool on one channel, in a thread of its own: whoever hangs holds up nobody else.

Messages of one thread (an incident) keep their order; others pass one that can't be sent.
"""

import logging
import threading
import time
from collections import Counter
from dataclasses import dataclass
from typing import Protocol

from smtpguard.errors import GuardError
from smtpguard.hooks import ClockS, Task
from smtpguard.kernel.capabilities import apply_capabilities
from smtpguard.kernel.lasting_thread import start_lasting
from smtpguard.notify.retry import LAST_S, next_pause
from smtpguard.notify.spool import Letter, Spool
from smtpguard.text import render_words

log = logging.getLogger(__name__)


class DeliveryError(GuardError):
    """Somebody could not be told, for now."""


class Channel(Protocol):
    """A way to somebody."""

    @property
    def key(self) -> str:
        """What it is called in the spool: the same for as long as it is the same."""
        ...

    @property
    def name(self) -> str:
        """What people call it; no password is in it."""
        ...

    @property
    def type(self) -> str:
        """What it is called in metrics."""
        ...

    def wants(self, kind: str) -> bool:
        """Whether it is for messages of a kind."""
        ...

    def send(self, message: Letter) -> str:
        """Send one, and say what came back. Waits, within bounds. Raises DeliveryError."""
        ...


@dataclass(slots=True)
class _Turn:
    """When a message is tried next."""

    due_s: float
    pause_s: float | None = None


class Delivery:
    """A channel's thread.

    Args:
        channel: The channel.
        spool: What waits.
        totals: Counts (kind, channel's type, result).
        changed: Called when something was sent or not.
        clock: Monotonic seconds.
        wall: Seconds since the epoch.
    """

    def __init__(
        self,
        channel: Channel,
        spool: Spool,
        *,
        totals: Counter[tuple[str, str, str]],
        changed: Task,
        clock: ClockS = time.monotonic,
        wall: ClockS = time.time,
    ) -> None:
        self.channel = channel
        self._spool = spool
        self._totals = totals
        self._changed = changed
        self._clock = clock
        self._wall = wall
        self._condition = threading.Condition()
        self._turns: dict[int, _Turn] = {}
        self._done: set[int] = set()
        self._is_woken = True
        self._is_closed = False
        self._error: str | None = None
        self._counts: Counter[str] = Counter()

    def start(self) -> None:
        """Begin."""
        start_lasting(f"notify-{self.channel.type}", self._run)

    def wake(self) -> None:
        """Something is waiting."""
        with self._condition:
            self._is_woken = True
            self._condition.notify()

    def close(self) -> None:
        """Send no more; what is under way is not waited for."""
        with self._condition:
            self._is_closed = True
            self._condition.notify()

    def report(self) -> str:
        """One line for people."""
        waiting = len(self._spool.list_waiting(self.channel.key))
        text = (
            f"{self.channel.name} {self._counts['sent']} sent, {waiting} waiting, {self._counts['given-up']} given up"
        )
        return text if self._error is None else f"{text}, last {self._error}"

    def trouble(self) -> str | None:
        """What is wrong; None if nothing waits that failed."""
        return None if self._error is None else f"{self.channel.name}: {self._error}; tried again"

    def step(self) -> float | None:
        """Send the first message that is due, if there is one; monotonic time of the next turn, None for never."""
        now_s = self._clock()
        for seq in list(self._done):
            self._forget(seq)
        waiting = self._spool.list_waiting(self.channel.key)
        self._turns = {message.seq: self._turns.get(message.seq) or _Turn(now_s) for message in waiting}
        if not waiting:
            self._error = None
        heads = {message.thread: message for message in reversed(waiting)}
        due = sorted(heads.values(), key=lambda message: (self._turns[message.seq].due_s, message.seq))
        if not due:
            return None
        if self._turns[due[0].seq].due_s <= now_s:
            self._try(due[0])
            return now_s
        return self._turns[due[0].seq].due_s

    def _try(self, message: Letter) -> None:
        age_s = max(0.0, self._wall() - message.made_s)
        body = self._spool.read_body(message.seq)
        if body is None:
            return
        try:
            answer = self.channel.send(
                Letter(
                    id=message.id,
                    channel=message.channel,
                    thread=message.thread,
                    kind=message.kind,
                    body=body,
                    made_s=message.made_s,
                    seq=message.seq,
                )
            )
        except DeliveryError as error:
            self._failed(message, str(error), age_s)
        except Exception as error:  # one that can't be made is given up in its time, and holds up no other
            log.exception("notification: %s", self.channel.name)
            self._failed(message, render_words(f"{type(error).__name__}: {error}", max_bytes=200), age_s)
        else:
            self._done.add(message.seq)
            if self._error is not None:
                log.warning("notification: %s works again: %s", self.channel.name, answer)
            self._error = None
            self._count(message, "sent")
        self._forget(message.seq)
        self._changed()

    def _failed(self, message: Letter, why: str, age_s: float) -> None:
        if self._error is None:
            log.warning("notification: %s: %s; it is tried again for a day", self.channel.name, why)
        self._error = why
        self._count(message, "failed")
        if age_s >= LAST_S:
            self._done.add(message.seq)
            self._count(message, "given-up")
            log.warning("notification: %s: a message (%s) is given up", self.channel.name, message.kind)
        else:
            turn = self._turns[message.seq]
            turn.pause_s = next_pause(turn.pause_s, age_s)
            turn.due_s = self._clock() + turn.pause_s

    def _forget(self, seq: int) -> None:
        """Take what was sent out of the file; where that fails, nothing is sent twice for it."""
        if seq in self._done:
            self._spool.remove(seq)
            self._done.discard(seq)

    def _count(self, message: Letter, result: str) -> None:
        self._counts[result] += 1
        self._totals[message.kind, self.channel.type, result] += 1

    def _run(self) -> None:
        apply_capabilities(())  # a thread has its own: whoever it starts has none
        while True:
            with self._condition:
                if self._is_closed:
                    return
                self._is_woken = False
            due_s = self.step()
            with self._condition:
                if self._is_closed:
                    return
                if not self._is_woken:
                    self._condition.wait(None if due_s is None else max(0.0, due_s - self._clock()))
