"""How long something took this thread, without the time in which it wanted to run and others had the processor.

What a test holds against the guard by the clock, it holds against its own process, too. What somebody waits for (an
answer that does not come, a lock, a file) is counted; that nobody let them run is not (schedstats, kernel documents).
"""

import time
from pathlib import Path


class Stopwatch:
    """Runs from its beginning on, in the thread that made it."""

    def __init__(self) -> None:
        self._waited_s = _read_waited()  # first, and last below: a wait between the two is none of what is timed
        self._begun_s = time.monotonic()

    def seconds(self) -> float:
        """How long it has been."""
        passed_s = time.monotonic() - self._begun_s
        return passed_s - (_read_waited() - self._waited_s)


def _read_waited() -> float:
    _, waited_ns, _ = Path("/proc/thread-self/schedstat").read_text("ascii").split()
    return int(waited_ns) / 1e9
