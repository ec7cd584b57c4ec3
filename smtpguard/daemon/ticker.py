"""Chores of the loop: something to do every so often, one part for each."""

from typing import Protocol

from smtpguard.clock import next_beat
from smtpguard.daemon.loop import TimedPart


class Chore(Protocol):
    """What is done again and again."""

    def __call__(self, now_ns: int) -> None:
        """Do it."""


class Ticker(TimedPart):
    """Calls a function every so often, together with others of the same pause, as a part of the loop.

    Args:
        pause_ns: Time between two calls.
        chore: Gets the time (CLOCK_BOOTTIME).
        now_ns: When the first pause begins.
        at_once: The first call is due now, not after a pause.
    """

    def __init__(self, pause_ns: int, chore: Chore, now_ns: int, *, at_once: bool = False) -> None:
        self._pause_ns = pause_ns
        self._chore = chore
        self._due_ns = now_ns if at_once else next_beat(now_ns, pause_ns)

    def next_deadline(self) -> int:
        """When the next call is due."""
        return self._due_ns

    def on_time(self, now_ns: int) -> None:
        """Call the chore if it is due; a late call is not made up for."""
        if now_ns >= self._due_ns:
            self._due_ns = next_beat(now_ns, self._pause_ns)
            self._chore(now_ns)
