"""How long the machine itself stood still: a virtual one's processors are taken away for moments, from everybody.

Nobody inside can do anything about that, so it is no fault of what a test measures by the clock. A process of the
highest priority on each processor wakes again and again and notes how late. No ordinary program makes it late; a long
stretch in the kernel does. Where that priority is not to be had, anybody may make it a little late: what is short is
left out then.
"""

import mmap
import os
import signal
import struct
import time
from typing import Self

from smtpguard.demo import namespaces

_TICK_S = 0.005
_ORDINARY_S = 0.02
"""Who is first only among the ordinary waits so long on a busy machine; that is no standstill."""
_SLOT = struct.Struct("=d")


def _come_first() -> float:
    """Before all others; almost, where a control group has no time for that (sched-rt-group, kernel documents).

    Returns:
        How many seconds others may make us late all the same.
    """
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(os.sched_get_priority_max(os.SCHED_FIFO)))
    except PermissionError:
        os.setpriority(os.PRIO_PROCESS, 0, -20)
        return _ORDINARY_S
    return 0


class Standstill:
    """Watches from its beginning to its end. A context."""

    def __init__(self) -> None:
        self._processors = sorted(os.sched_getaffinity(0))
        self._worst = mmap.mmap(-1, mmap.PAGESIZE)
        self._pids: list[int] = []

    def __enter__(self) -> Self:
        for slot, processor in enumerate(self._processors):
            pid = os.fork()
            if pid == 0:
                try:
                    namespaces.die_with_parent(signal.SIGKILL)
                    os.closerange(3, 1024)  # or who reads a pipe of the test's would not see its end
                    os.sched_setaffinity(0, {processor})
                    self._tick(slot * _SLOT.size, worst_s=_come_first())
                finally:
                    os._exit(1)
            self._pids.append(pid)
        return self

    def __exit__(self, *_: object) -> None:
        for pid in self._pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        print(f"the machine stood still for up to {1000 * self.worst_s():.0f} ms")

    def worst_s(self) -> float:
        """The longest time that a processor was away, in all the time since the beginning."""
        found: list[float] = [_SLOT.unpack_from(self._worst, n * _SLOT.size)[0] for n in range(len(self._processors))]
        return max(found)

    def _tick(self, place: int, worst_s: float) -> None:
        while True:
            begun = time.monotonic()
            time.sleep(_TICK_S)
            late_s = time.monotonic() - begun - _TICK_S
            if late_s > worst_s:
                worst_s = late_s
                _SLOT.pack_into(self._worst, place, late_s)
