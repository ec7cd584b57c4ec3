"""What the daemon costs while it lives: memory, descriptors, and the worst stall of its loop."""

import contextlib
import itertools
import os
import signal
import statistics
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from smtpguard.daemon.startup.privileges import PRIORITY
from smtpguard.demo import namespaces

_TICK_S = 0.005
_WORK_EVERY, _WORK_S = 40, 0.008
"""At each 40th tick it computes for so long: 4% of a CPU."""
_FIRST = 10
"""So many looks are the first ones: in one of them no question was under way."""
_YOUNG_S = 5.0
"""A daemon that has just begun is not measured: it has not yet seen what it will."""
TOLD_STALL_MS = 50.0


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at the daemon."""

    at_s: float
    pid: int
    resident_kb: int
    files: tuple[str, ...]


class Measures:
    """Looks at the daemon again and again."""

    def __init__(self) -> None:
        self.samples: list[Sample] = []
        self.stalls_ms: list[float] = []
        self._stall_ms = 0.0
        self.starts_ms: list[float] = []
        self._first_ms = 0.0
        self._disturbed = False
        self._born: dict[int, float] = {}

    def look(self, pid: int, status: dict[str, Any]) -> None:
        """Note what a daemon costs now; the first look at one comes when it has just become ready.

        What its loop did until then, opening sources, was no stall: nobody was guarded yet.
        """
        found = float(status["worst_stall_ms"])
        if pid not in self._born:
            self._first_ms = found
            self.starts_ms.append(found)
        if not self._disturbed and found > self._first_ms:
            if found > max(self._stall_ms, TOLD_STALL_MS):
                print(f"    a stall of {found} ms in {status['worst_stall_in']}", flush=True)
            self._stall_ms = found
        now_s = time.monotonic()
        if now_s - self._born.setdefault(pid, now_s) >= _YOUNG_S:
            self.samples.append(Sample(now_s, pid, read_resident_kb(pid), list_files(pid)))

    def disturb(self) -> None:
        """It is about to be stopped: the worst stall of this life tells of nothing else from here on."""
        self._disturbed = True

    def life_ends(self) -> None:
        """This daemon ends."""
        self.stalls_ms.append(self._stall_ms)
        self._stall_ms, self._disturbed = 0.0, False

    def tenth(self, number: int) -> float:
        """Median of what was resident in one tenth of the time, in kB; not a number where nobody looked."""
        if not self.samples:
            return float("nan")
        begun_s, ended_s = self.samples[0].at_s, self.samples[-1].at_s
        step_s = (ended_s - begun_s) / 10
        low_s = begun_s + number * step_s
        found = [s.resident_kb for s in self.samples if low_s <= s.at_s <= low_s + step_s]
        return statistics.median(found) if found else float("nan")

    def worst_stall_ms(self) -> float:
        """The longest time that any daemon's loop did not wait, but for those in which it was stopped."""
        return max(self.stalls_ms)

    def compare_files(self, pid: int) -> list[str]:
        """How what is open now differs from the least that was open when this was first looked at; empty if not."""
        if not self.samples:
            return []
        least = min((sample.files for sample in self.samples[:_FIRST]), key=len)
        first, now = Counter(least), Counter(list_files(pid))
        return [*(f"{name} no more" for name in first - now), *(f"{name} now" for name in now - first)]

    def report(self) -> str:
        kb = [sample.resident_kb for sample in self.samples] or [0]
        second_mb, last_mb = self.tenth(1) / 1000, self.tenth(9) / 1000
        return (
            f"worst stall {self.worst_stall_ms():.1f} ms, {max(self.starts_ms):.1f} ms while starting; resident "
            f"{min(kb) / 1000:.1f} to {max(kb) / 1000:.1f} MB, second tenth {second_mb:.2f} MB, last {last_mb:.2f} MB"
        )


class Metronome:
    """A process of the daemon's priority that wakes and computes a little: how busy the machine is. A context.

    Args:
        path: Where it notes how late it was, and how much longer than its CPU time it computed.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pid = 0

    def __enter__(self) -> Self:
        self._pid = os.fork()
        if self._pid == 0:
            try:
                namespaces.die_with_parent(signal.SIGKILL)
                os.setpriority(os.PRIO_PROCESS, 0, PRIORITY)
                self._tick()
            finally:
                os._exit(1)
        return self

    def __exit__(self, *_: object) -> None:
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)

    def worst_ms(self) -> float:
        """How late it was at worst."""
        return max(self._read("late"), default=0)

    def slowness(self) -> float:
        """By how much computing took longer than on a machine of its own: in nine of ten times no more than that."""
        found = sorted(self._read("slow"))
        return found[len(found) * 9 // 10] if found else 1.0

    def report(self) -> str:
        return (
            f"a process of its priority woke {self.worst_ms():.1f} ms late at worst, computing took "
            f"{self.slowness():.1f} times as long"
        )

    def _read(self, what: str) -> list[float]:
        lines = self._path.read_text().splitlines()
        return [float(line.split()[1]) for line in lines if line.startswith(f"{what} ") and line.count(" ") == 1]

    def _tick(self) -> None:
        worst_ms = 0.0
        with self._path.open("w", buffering=1) as notes:
            for number in itertools.count():
                begun = time.monotonic()
                time.sleep(_TICK_S)
                late_ms = (time.monotonic() - begun - _TICK_S) * 1000
                if late_ms > worst_ms:
                    worst_ms = late_ms
                    notes.write(f"late {late_ms:.1f}\n")
                if number % _WORK_EVERY == 0:
                    notes.write(f"slow {_measure_slowness():.2f}\n")


def _measure_slowness() -> float:
    begun, computed = time.monotonic(), time.thread_time()
    while (took := time.thread_time() - computed) < _WORK_S:
        pass
    return (time.monotonic() - begun) / took


def read_resident_kb(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise AssertionError(f"process {pid} has no memory")


def list_files(pid: int) -> tuple[str, ...]:
    """What a process holds open, sorted; numbers are left out, and so are the sockets to its helpers.

    Helpers come when they are needed: the daemon has a socket for each.
    """
    sockets = _name_sockets(pid)
    found = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            kind, _, number = str(entry.readlink()).partition(":[")
            name = f"socket {sockets.get(number[:-1], '')}" if kind == "socket" else kind
            found.append(name.removesuffix(f".{pid}"))
    return tuple(sorted(name for name in found if name != _HELPER and "faketime" not in name))


_HELPER = "socket unix 0005"
"""A connection of SOCK_SEQPACKET, as /proc/net/unix shows it."""


def _name_sockets(pid: int) -> dict[str, str]:
    """Inode to the family of a socket, and what tells it from others of it."""
    found: dict[str, str] = {}
    for family, inode, more in (
        ("unix", 6, (4, 7)),
        ("netlink", 9, (1,)),
        ("tcp", 9, ()),
        ("udp", 9, ()),
        ("udp6", 9, ()),
    ):
        for line in Path(f"/proc/{pid}/net/{family}").read_text().splitlines()[1:]:
            fields = line.split()
            found[fields[inode]] = " ".join([family, *(fields[number] for number in more if number < len(fields))])
    return found
