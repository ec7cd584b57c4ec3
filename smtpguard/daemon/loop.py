"""The loop: waits for descriptors and times, calls who asked for it. One thread, no policy.

What a part raises is caught here and nowhere else: see supervision.py.

Waits are on CLOCK_MONOTONIC (epoll(7)); deadlines are given in CLOCK_BOOTTIME, as event times are.
"""

import contextlib
import logging
import os
import select
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Protocol

from smtpguard.daemon.supervision import Health, Supervision
from smtpguard.hooks import ClockNs, Task
from smtpguard.model import NS

log = logging.getLogger(__name__)


class Part(Protocol):
    """A part of the daemon that lives in the loop."""

    def filenos(self) -> Sequence[int]:
        """Descriptors to wait for; asked again before each wait, so they may change."""
        ...

    def on_ready(self, fileno: int) -> None:
        """A descriptor has become readable."""
        ...

    def next_deadline(self) -> int | None:
        """When `on_time` is due (CLOCK_BOOTTIME); None for never."""
        ...

    def on_time(self, now_ns: int) -> None:
        """Called once a turn, whether or not the deadline has come."""
        ...


class TimedPart:
    """What a part that lives on time alone says of descriptors."""

    def filenos(self) -> Sequence[int]:
        """None."""
        return ()

    def on_ready(self, fileno: int) -> None:
        """Never called."""


class StallGauge:
    """How long the loop was away from its waiting at most, and whose turn took most of that time.

    Args:
        clock: CLOCK_MONOTONIC in nanoseconds: real time, so what others took of the CPU is in it too.

    Attributes:
        worst_ns: Longest time between two waits.
        worst_part: Name of the part that took most of it; "" when there was none.
    """

    __slots__ = ("_begun_ns", "_clock", "_last_ns", "_longest_ns", "_part", "worst_ns", "worst_part")

    def __init__(self, clock: ClockNs) -> None:
        self._clock = clock
        self._begun_ns: int | None = None
        self._last_ns = 0
        self._longest_ns = 0
        self._part = ""
        self.worst_ns = 0
        self.worst_part = ""

    def begin(self) -> None:
        """A wait is over."""
        self._begun_ns = self._last_ns = self._clock()
        self._longest_ns, self._part = 0, ""

    def forget(self) -> None:
        """Begin anew: what has been was the start."""
        self._begun_ns, self.worst_ns, self.worst_part = None, 0, ""

    def note(self, part: str) -> None:
        """A part has had a turn."""
        now_ns = self._clock()
        took_ns, self._last_ns = now_ns - self._last_ns, now_ns
        if took_ns > self._longest_ns:
            self._longest_ns, self._part = took_ns, part

    def end(self) -> None:
        """The next wait begins."""
        if self._begun_ns is None:
            return
        took_ns = self._clock() - self._begun_ns
        if took_ns > self.worst_ns:
            self.worst_ns = took_ns
            self.worst_part = self._part


@dataclass(slots=True)
class _Member:
    """A part and how it fares."""

    part: Part
    health: Health


class Loop:
    """Runs parts until `stop`.

    Args:
        now: CLOCK_BOOTTIME in nanoseconds.
        longest_wait_ns: Upper bound of one wait.
        clock: CLOCK_MONOTONIC in nanoseconds, for the gauge.

    Attributes:
        stalls: How long a turn took at most.
        supervision: What parts raised.
    """

    def __init__(
        self,
        now: ClockNs,
        *,
        longest_wait_ns: int = 60 * NS,
        clock: ClockNs = time.monotonic_ns,
    ) -> None:
        self.stalls = StallGauge(clock)
        self.supervision = Supervision(now)
        self._now = now
        self._longest_wait_ns = longest_wait_ns
        self._epoll = select.epoll()
        self._members: list[_Member] = []
        self._owners: dict[int, _Member] = {}
        self._stopping = False
        self._handlers: dict[int, Task] = {}
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._epoll.register(self._wake_read, select.EPOLLIN)

    def add(self, part: Part, name: str = "", *, vital: bool = False) -> None:
        """Add a part; parts are served in the order they were added.

        Args:
            part: The part.
            name: What it is called in `status`; "" for that of its class.
            vital: Whether it is on the way of a verdict.
        """
        self._members.append(_Member(part, Health(name or type(part).__name__, vital)))

    def remove(self, part: Part) -> None:
        """Take a part out; its descriptors are dropped at the next turn."""
        self._members = [member for member in self._members if member.part is not part]

    def part_names(self) -> list[str]:
        """What the parts are called."""
        return [member.health.name for member in self._members]

    def on_signal(self, number: signal.Signals, handler: Task) -> None:
        """Call a handler in the loop's own turn when a signal has come."""
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        self._handlers[int(number)] = handler
        signal.signal(number, self._note_signal)

    def stop(self) -> None:
        """End `run` after this turn."""
        self._stopping = True

    def run(self) -> None:
        """Serve until `stop`; signals are served between waits."""
        self.turn()
        self.stalls.forget()  # that turn opened the sources: before, nothing could come late
        while not self._stopping:
            self.turn()

    def turn(self) -> None:
        """One wait and what it brought."""
        self._sync()
        wait_s = self._wait_s()
        gauge = self.stalls
        gauge.end()
        ready = self._epoll.poll(wait_s)
        gauge.begin()
        for fileno, _ in ready:
            if fileno == self._wake_read:
                self._serve_signals()
            elif member := self._owners.get(fileno):
                self._serve(member, fileno)
        for member in list(self._members):
            self._serve(member, None)

    def _serve(self, member: _Member, fileno: int | None) -> None:
        """Give a part its turn, unless it rests."""
        health, now_ns = member.health, self._now()
        if health.rests_until_ns is not None:
            if now_ns < health.rests_until_ns:
                return
            health.rests_until_ns = None
        try:
            if fileno is None:
                member.part.on_time(now_ns)
            else:
                member.part.on_ready(fileno)
        except Exception as error:  # noqa: BLE001 - the supervisor
            self.supervision.note(health, error)
        self.stalls.note(health.name)

    def close(self) -> None:
        """Release the descriptors; parts close themselves."""
        if self._handlers:
            signal.set_wakeup_fd(-1)
        self._epoll.close()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def _note_signal(self, number: int, frame: FrameType | None) -> None:
        """Python's own handler: nothing to do, the wake-up descriptor carries the number."""

    def _serve_signals(self) -> None:
        with contextlib.suppress(BlockingIOError):
            for number in os.read(self._wake_read, 256):
                if handler := self._handlers.get(number):
                    try:
                        handler()
                    except Exception as error:  # noqa: BLE001 - the supervisor
                        self.supervision.record("signals", error)

    def _wait_s(self) -> float:
        now_ns = self._now()
        until_ns = now_ns + self._longest_wait_ns
        for member in self._members:
            deadline_ns = member.health.rests_until_ns
            if deadline_ns is None:
                try:
                    deadline_ns = member.part.next_deadline()
                except Exception as error:  # noqa: BLE001 - the supervisor
                    self.supervision.note(member.health, error)
                    deadline_ns = member.health.rests_until_ns
            if deadline_ns is not None:
                until_ns = min(until_ns, deadline_ns)
        return max(0, until_ns - now_ns) / NS

    def _sync(self) -> None:
        """Make epoll watch what the parts ask for now; those that rest ask for nothing.

        A part may close a descriptor and open another that gets the same number within one turn; the kernel has
        forgotten it then, and only the kernel knows: so each is modified anew, and registered where that fails.
        """
        owners: dict[int, _Member] = {}
        for member in self._members:
            if member.health.rests_until_ns is None:
                try:
                    for fileno in member.part.filenos():
                        self._watch(fileno)
                        owners[fileno] = member
                except Exception as error:  # noqa: BLE001 - the supervisor
                    self.supervision.note(member.health, error)
        for fileno in self._owners.keys() - owners.keys():
            with contextlib.suppress(OSError):
                self._epoll.unregister(fileno)
        self._owners = owners

    def _watch(self, fileno: int) -> None:
        try:
            self._epoll.modify(fileno, select.EPOLLIN)
        except FileNotFoundError:
            self._epoll.register(fileno, select.EPOLLIN)
