"""A better source takes over from another one: what happened meanwhile counts once, whichever of the two saw it."""

import contextlib
from collections import Counter, deque
from collections.abc import Iterable

from smtpguard.errors import SourceError
from smtpguard.hooks import ClockNs
from smtpguard.model import Connect
from smtpguard.sources.base import Source

_MAX_LAST_READS = 16
"""Of a source that is about to be replaced: sources bound what one read hands over, and a flood must not hold us."""
_MAX_MEANWHILE = 1 << 16
"""Attempts remembered while a better source is opened: a second of them at 65,000 a second."""


class Handover:
    """Remembers what counted while the better one was being opened.

    Args:
        now: CLOCK_BOOTTIME in nanoseconds.
    """

    def __init__(self, now: ClockNs) -> None:
        self._now = now
        self._meanwhile: deque[tuple[bytes, int]] = deque(maxlen=_MAX_MEANWHILE)

    def begin(self) -> None:
        """A source begins to be opened."""
        self._meanwhile.clear()

    def note(self, connects: Iterable[Connect]) -> None:
        """The one that leads until then has told of these."""
        self._meanwhile.extend((connect.address, connect.port) for connect in connects)

    def take_over(self, old: Source | None, new: Source | None) -> list[Connect]:
        """What only the old one has seen until now, then what the new one has and nobody told of.

        From when the new one was attached both see the same; what the old one has told counts already, what waits in
        it unread counts if the new one has not seen it. They are paired by destination, one to one, from the latest on.
        """
        rest, until_ns = self._read_all(old)
        fresh, _ = self._read_all(new)
        both = Counter((connect.address, connect.port) for connect in fresh if connect.time_ns <= until_ns)
        missed: list[Connect] = []
        for connect in reversed(rest):
            place = (connect.address, connect.port)
            if both[place] > 0:
                both[place] -= 1
            else:
                missed.append(connect)
        counted = Counter(self._meanwhile)
        twice = {place: min(count, both[place]) for place, count in counted.items() if both[place] > 0}
        kept: list[Connect] = []
        for connect in fresh:
            place = (connect.address, connect.port)
            if twice.get(place, 0) > 0 and connect.time_ns <= until_ns:
                twice[place] -= 1
            else:
                kept.append(connect)
        self._meanwhile.clear()
        return [*reversed(missed), *kept]

    def _read_all(self, source: Source | None) -> tuple[list[Connect], int]:
        """All that a source has, and until when that is all; one that has died says so again at its next read."""
        connects: list[Connect] = []
        until_ns = self._now()
        if source is not None:
            with contextlib.suppress(SourceError):
                for _ in range(_MAX_LAST_READS):
                    until_ns = self._now()
                    more = source.read()
                    if not more:
                        break
                    connects += more
        return connects, until_ns
