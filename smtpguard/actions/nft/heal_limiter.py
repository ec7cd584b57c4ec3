"""When a table that somebody keeps deleting is put back: at once, but not in a race without end. Pure.

Ten heals a minute are at once. Beyond that somebody fights with us on purpose or by a loop of their own: it is told
once, and healing slows to one a second until a minute has been calm again.
"""

from collections import deque

from smtpguard.model import NS

MINUTE_NS = 60 * NS


class HealLimiter:
    """Times of the heals of the last minute.

    Args:
        per_minute: How many are at once.
        slow_ns: How far apart they are beyond that.
    """

    def __init__(self, *, per_minute: int = 10, slow_ns: int = NS) -> None:
        self._per_minute = per_minute
        self._slow_ns = slow_ns
        self._times: deque[int] = deque(maxlen=per_minute)
        self.slowed = False

    def next_heal_ns(self, now_ns: int) -> int:
        """When the next heal may be: `now_ns`, or later.

        Args:
            now_ns: CLOCK_BOOTTIME.
        """
        self._forget(now_ns)
        if len(self._times) < self._per_minute:
            return now_ns
        return max(now_ns, self._times[-1] + self._slow_ns)

    def record(self, now_ns: int) -> bool:
        """A heal was done; whether people should be told now that they are too many (once until it is calm)."""
        self._forget(now_ns)
        too_many = len(self._times) >= self._per_minute
        self._times.append(now_ns)
        told, self.slowed = self.slowed, too_many
        return too_many and not told

    def _forget(self, now_ns: int) -> None:
        while self._times and self._times[0] <= now_ns - MINUTE_NS:
            self._times.popleft()
        if not self._times:
            self.slowed = False
