"""One user's attempts under one rule that the kernel enforces, and how many credits follow from them."""

from array import array


class CreditWindow:
    """One user's attempts under one rule.

    Attributes:
        limit: His limit.
        told: Credited attempts told of so far, those given up for lost included.
        times: Event times of the attempts in the window, ascending.
        lost: (when they may be forgotten, how many) of credits whose attempts never arrived.
        due_ns: When the first of them leaves the window, as the heap of departures has it; None if it is not in there.
        floor_ns: The window was emptied then: what came up to then, and is told of later, does not enter it.
    """

    __slots__ = ("due_ns", "floor_ns", "limit", "lost", "times", "told")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.told = 0
        self.times = array("q")
        self.lost: tuple[tuple[int, int], ...] = ()
        self.due_ns: int | None = None
        self.floor_ns = 0

    def empty(self, at_ns: int) -> None:
        """What came up to a time (event time) does not count; credits given up for lost were used, and are no more."""
        self.floor_ns = max(self.floor_ns, at_ns)
        del self.times[:]
        self.told += sum(count for _, count in self.lost)
        self.lost = ()

    def allowed(self) -> int:
        """Credits that the user may have taken in all."""
        return max(0, self.limit + self.told - len(self.times))
