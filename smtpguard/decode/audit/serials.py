"""Finds holes in a stream of serial numbers that come nearly in order. Pure, bounded.

audit numbers its events; records of events that run at once on several CPUs interleave, so that a number may come some
events late. One that has not come when many later ones have is missing.
"""

LATENESS = 1024
"""How many events later a serial may still come: more than there are CPUs that log at once."""
_MAX_JUMP = 10_000_000
"""A jump beyond this is another counter (a restored virtual machine), not a hole."""


class SerialGaps:
    """Counts serials that never came.

    Attributes:
        missing: How many are missing by now, counted from the first serial that was noted.
    """

    def __init__(self) -> None:
        self.missing = 0
        self._highest: int | None = None
        self._late: dict[int, None] = {}  # may still come, ascending
        self._swept = 0

    def note(self, serial: int) -> None:
        """Take the serial of a record; the records of one event share theirs."""
        highest = self._highest
        if serial == highest:
            return
        if highest is None or abs(serial - highest) > _MAX_JUMP:
            self._highest = serial
            self._swept = 0
            self._late.clear()
        elif serial < highest:
            self._late.pop(serial, None)
        else:
            gone = serial - LATENESS
            first = max(highest + 1, gone)
            self.missing += first - highest - 1
            for late in range(first, serial):
                self._late[late] = None
            while self._late and (oldest := next(iter(self._late))) < gone:
                del self._late[oldest]
                self.missing += 1
            self._highest = serial

    def sweep(self) -> None:
        """Time has passed: what was late at the last sweep already is missing. Call it about once a second."""
        while self._late and (oldest := next(iter(self._late))) < self._swept:
            del self._late[oldest]
            self.missing += 1
        self._swept = self._highest or 0
