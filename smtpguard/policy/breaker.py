"""The breaker: many new blocks at once are a clock, a reload or a bug; from there users are throttled (THREATS 8)."""

from bisect import bisect_right, insort

from smtpguard.settings import BreakerLimits as Limits


class Breaker:
    """Counts new blocks of one mode.

    It trips at the first block beyond the limit within the time, and clears when for as long no block was called for.

    Args:
        limits: How many blocks within how long.
    """

    __slots__ = ("_begun", "_last_ns", "limits", "tripped")

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.tripped = False
        self._begun: list[int] = []  # in order, though an old one may be reported behind a new one
        self._last_ns = 0

    def admit(self, at_ns: int) -> bool:
        """Whether a block that is called for may be one; it is a throttle else.

        Args:
            at_ns: Event time of the verdict. Call `calm` first.
        """
        self._last_ns = max(self._last_ns, at_ns) if self._begun or self.tripped else at_ns
        if self.tripped:
            return False
        del self._begun[: bisect_right(self._begun, at_ns - self.limits.per_ns)]
        insort(self._begun, at_ns)
        self.tripped = len(self._begun) > self.limits.blocks
        return not self.tripped

    def calm(self, now_ns: int) -> bool:
        """Clear the breaker if it is calm again; True if that is news."""
        if not self.tripped or now_ns < self._last_ns + self.limits.per_ns:
            return False
        self.tripped = False
        self._begun.clear()
        return True

    def next_deadline(self) -> int | None:
        """When it will be calm if nothing comes; None if it is not tripped."""
        return self._last_ns + self.limits.per_ns if self.tripped else None

    @property
    def recent(self) -> int:
        """How many blocks it counts now."""
        return len(self._begun)
