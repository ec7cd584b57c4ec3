"""The clocks, and the mapping between event time and wall time.

Windows and deadlines live on CLOCK_BOOTTIME, which nobody sets; log lines and the stored ends of blocks need wall
time. `WallMap` keeps the offset between the two and notices when somebody sets the clock: clock_gettime(2) disciplines
both clocks with the same frequency, so their difference changes by steps only. Event times before a step keep the
offset of their time.
"""

import time
from collections import deque
from dataclasses import dataclass
from typing import Protocol

from smtpguard.model import NS

STEP_NS = 10_000_000
"""A change of the offset beyond 10 ms is a set clock; less is our own reading being interrupted."""
_READINGS = 3
_MAX_STEPS_KEPT = 8


def boottime_ns() -> int:
    """CLOCK_BOOTTIME, which event times and deadlines are in."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def next_beat(now_ns: int, pause_ns: int = NS) -> int:
    """When something is done that is done every so often: at whole multiples of the pause.

    So all that happens once a second happens in one wake-up, and what happens every ten seconds in one of those.
    """
    return (now_ns // pause_ns + 1) * pause_ns


def render_moment(wall_s: float) -> str:
    """A moment for people, local, with its offset: `2026-02-18 13:39:28+01:00`.

    Args:
        wall_s: Seconds since the epoch.
    """
    local = time.localtime(wall_s)
    offset = time.strftime("%z", local)
    return f"{time.strftime('%Y-%m-%d %H:%M:%S', local)}{offset[:3]}:{offset[3:]}"


def render_until(wall_ns: int, now_wall_ns: int) -> str:
    """An end for people who read a line as it comes: `20:50`, with its day where that is not plain.

    Args:
        wall_ns: When it ends.
        now_wall_ns: When the line is written.
    """
    is_plain = 0 <= wall_ns - now_wall_ns < 20 * 3600 * NS
    return time.strftime("%H:%M" if is_plain else "%Y-%m-%d %H:%M", time.localtime(wall_ns // NS))


class Clock(Protocol):
    """Where time comes from; tests bring their own."""

    def boot_ns(self) -> int:
        """CLOCK_BOOTTIME: event time, counts while the machine sleeps."""
        ...

    def monotonic_ns(self) -> int:
        """CLOCK_MONOTONIC: for waits and timeouts."""
        ...

    def wall_ns(self) -> int:
        """CLOCK_REALTIME: nanoseconds since the epoch, may be set at any moment."""
        ...


class SystemClock:
    """The kernel's clocks."""

    __slots__ = ()

    def boot_ns(self) -> int:
        """CLOCK_BOOTTIME."""
        return boottime_ns()

    def monotonic_ns(self) -> int:
        """CLOCK_MONOTONIC."""
        return time.monotonic_ns()

    def wall_ns(self) -> int:
        """CLOCK_REALTIME."""
        return time.time_ns()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Span:
    """From `since_ns` (event time) on, wall time is event time plus `offset_ns`."""

    since_ns: int
    offset_ns: int


class WallMap:
    """Event time to wall time and back, across steps of the wall clock.

    Args:
        clock: The clocks.
    """

    __slots__ = ("_clock", "_spans")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._spans: deque[_Span] = deque(maxlen=_MAX_STEPS_KEPT)
        self._spans.append(_Span(since_ns=-(2**63), offset_ns=self._measure()))

    @property
    def offset_ns(self) -> int:
        """Wall time minus event time, now."""
        return self._spans[-1].offset_ns

    def refresh(self) -> int:
        """Compare the clocks; call it about once a second.

        Returns:
            By how many nanoseconds the wall clock was set since the last call, 0 if it was not. Whoever stored ends
            as wall time stores them again after a step.
        """
        step_ns = self._measure() - self.offset_ns
        if abs(step_ns) < STEP_NS:
            return 0
        self._spans.append(_Span(since_ns=self._clock.boot_ns(), offset_ns=self.offset_ns + step_ns))
        return step_ns

    def to_wall_ns(self, time_ns: int) -> int:
        """Wall time of an event, with the offset that held then; a future time with today's."""
        for span in reversed(self._spans):
            if time_ns >= span.since_ns:
                return time_ns + span.offset_ns
        return time_ns + self._spans[0].offset_ns

    def to_event_ns(self, wall_ns: int) -> int:
        """Event time of a record's wall stamp (audit), never later than now.

        After a step back a stamp may fit two spans; the newer one is taken.
        """
        now_ns = self._clock.boot_ns()
        end_ns = now_ns + NS
        for span in reversed(self._spans):
            time_ns = wall_ns - span.offset_ns
            if span.since_ns <= time_ns < end_ns:
                return min(time_ns, now_ns)
            end_ns = span.since_ns
        return min(wall_ns - self.offset_ns, now_ns)

    def to_deadline_ns(self, wall_ns: int) -> int:
        """Event time of a stored end, which may lie in the future."""
        return wall_ns - self.offset_ns

    def _measure(self) -> int:
        """The offset, by the reading that was interrupted least."""
        readings: list[tuple[int, int]] = []
        for _ in range(_READINGS):
            before_ns = self._clock.boot_ns()
            wall_ns = self._clock.wall_ns()
            gap_ns = self._clock.boot_ns() - before_ns
            readings.append((gap_ns, wall_ns - before_ns - gap_ns // 2))
        return min(readings)[1]
