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
