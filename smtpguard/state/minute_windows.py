"""What sliding windows held, from figures of whole minutes. Pure."""

from collections import deque
from collections.abc import Iterable, Iterator


def sum_windows(minutes: Iterable[tuple[int, int]], window_minutes: int) -> Iterator[int]:
    """How much each window held that ends with one of the minutes.

    Args:
        minutes: (minute, count), in order; minutes without any may be left out.
        window_minutes: Length of a window.
    """
    inside: deque[tuple[int, int]] = deque()
    total = 0
    for minute, count in minutes:
        inside.append((minute, count))
        total += count
        while inside[0][0] <= minute - window_minutes:
            total -= inside.popleft()[1]
        yield total


class PeakFinder:
    """The most that any window of several lengths held, user by user, in one go.

    Args:
        windows: Lengths in minutes.
    """

    def __init__(self, windows: Iterable[int]) -> None:
        self._lengths = tuple(windows)
        self._uid: int | None = None
        self._open: list[tuple[int, deque[tuple[int, int]], list[int]]] = []
        self._peaks: dict[int, dict[int, int]] = {}

    def feed(self, uid: int, minute: int, count: int) -> None:
        """Take the next minute; those of one user follow each other, in order."""
        if uid != self._uid:
            self._end()
            self._uid = uid
            self._open = [(length, deque(), [0, 0]) for length in self._lengths]
        for length, inside, sums in self._open:
            inside.append((minute, count))
            total = sums[0] + count
            while inside[0][0] <= minute - length:
                total -= inside.popleft()[1]
            sums[0] = total
            if total > sums[1]:  # noqa: PLR1730 - max() takes twice as long, and a day has 400,000 of these
                sums[1] = total

    def take(self) -> dict[int, dict[int, int]]:
        """Uid to length to peak."""
        self._end()
        return self._peaks

    def _end(self) -> None:
        if self._uid is not None:
            self._peaks[self._uid] = {length: sums[1] for length, _, sums in self._open}
        self._uid = None
