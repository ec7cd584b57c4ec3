"""How long this machine kept everybody from running while something was measured by the clock.

A virtual machine's processor is taken away for up to 0.3 s now and then: nothing runs on it meanwhile, and no counter
of a process tells of it. A process on each processor that wakes every 5 ms does.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol

from tests.lived.measures import Metronome

_ORDINARY_MS = 20.0
"""Who wakes on a busy machine waits so long for others; that is no reason for anybody to be late."""


class HeldUp(Protocol):
    """So far."""

    def __call__(self) -> float:
        """The longest time in ms for which a processor was away; 0 where none was."""
        ...


@contextmanager
def watching_processors() -> Iterator[HeldUp]:
    """Watch them for a while."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        metronomes = [
            stack.enter_context(Metronome(folder / str(processor), processor=processor))
            for processor in sorted(os.sched_getaffinity(0))
        ]

        def held_up() -> float:
            worst_ms = max(metronome.worst_ms() for metronome in metronomes)
            return worst_ms if worst_ms > _ORDINARY_MS else 0.0

        yield held_up
