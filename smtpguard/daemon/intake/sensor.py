"""One source and how it fares: whether it is open, why it is not, when it is tried again."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from smtpguard.errors import GuardError
from smtpguard.model import NS, SocketReport
from smtpguard.sources.base import Reviving, Source

log = logging.getLogger(__name__)

FIRST_PAUSE_NS = NS
_LONGEST_PAUSE_NS = 60 * NS
_COUNTED, _OUTCOMES = "beyond a user's budget", "reports dropped"
"""Notes of a source that are losses."""


@dataclass(slots=True)
class Sensor:
    """One source and how it fares.

    Attributes:
        name: Its name.
        source: The open source; None while it is down or not needed.
        why: Why it is down, or "".
        retry_ns: When it is tried again; None if it needs no try.
        pause_ns: How long the next pause will be.
        restarts: How often it has died.
        died: Whether it is opened again because it has died.
        stands_in: Whether it is opened because another one has died and could not be opened again.
        lost: Events that it had lost when it was read last.
        lost_ns: When more of them were found to be lost (CLOCK_BOOTTIME); None if never.
        past: What those had lost that were open before this one; see `totals`.
    """

    name: str
    source: Source | None = None
    why: str = ""
    retry_ns: int | None = None
    pause_ns: int = FIRST_PAUSE_NS
    restarts: int = 0
    died: bool = False
    stands_in: bool = False
    lost: int = 0
    lost_ns: int | None = None
    past: Counter[str] = field(default_factory=Counter)

    def put_in_place(self, source: Source) -> None:
        """It is open, and has proved itself."""
        self.lost = 0
        self.source, self.why, self.retry_ns, self.pause_ns = source, "", None, FIRST_PAUSE_NS

    def take_out(self) -> Source | None:
        """It is open no more; what it had lost is remembered."""
        source, self.past, self.source = self.source, self.totals(), None
        return source

    def totals(self) -> Counter[str]:
        """What was lost since the start of the guard, by kind, however often it was opened anew.

        `events` were seen by nobody, `only counted` are beyond their user's share, `garbled` could not be read; of
        `outcomes` it is not known what became of a connection.
        """
        totals = Counter(self.past)
        if self.source is not None:
            stats = self.source.stats
            counted = stats.notes.get(_COUNTED, 0)
            totals["events"] += stats.lost - counted
            totals["only counted"] += counted
            totals["garbled"] += stats.garbled
            totals["outcomes"] += stats.notes.get(_OUTCOMES, 0)
        return totals

    def revive(self) -> bool:
        """Take up what was taken from it, where it can: opening one anew takes 0.06 s of CPU."""
        if not isinstance(self.source, Reviving):
            return False
        try:
            self.source.revive()
        except (GuardError, OSError) as error:
            log.info("source %s is opened anew: %s", self.name, error)
            return False
        return True

    def plan_retry(self, why: str, now_ns: int) -> None:
        """It can't be opened: it is tried again, after longer and longer pauses."""
        if self.why != why:
            log.warning("source %s can't be used: %s", self.name, why)
        self.why = why
        self.retry_ns = now_ns + self.pause_ns
        self.pause_ns = min(self.pause_ns * 2, _LONGEST_PAUSE_NS)


class SourceHook(Protocol):
    """Has to know when a source comes or goes."""

    def __call__(self, source: Source) -> None:
        """Take it."""


class TakeReports(Protocol):
    """Judges what became of connections."""

    def __call__(self, reports: Sequence[SocketReport]) -> None:
        """Take what was reported together."""
