"""Which audit records are connections: a call that only asks how an attempt went is none. Pure, bounded, event time.

audit sees system calls, not connections, and programs make several calls for one connection:

- *Retry*: a non-blocking connect() answers EINPROGRESS, an interrupted one ERESTARTSYS or EINTR; the program asks
  again on the same descriptor and gets the outcome (0, ECONNREFUSED, ...). While the attempt is under way the kernel
  never gives EINPROGRESS again (that would be EALREADY, which no decoder counts), nor EPERM: either means a new
  socket under the old number. So a loop of connect and close to one server is counted in full.
- *Probe* of a resolver: see probes.py. What may be one is held back for a moment.

The descriptor tells: calls on other descriptors, by other threads too, are connections of their own.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from smtpguard.decode.audit.probes import HOLD_NS, MS, Probes, Process, Slot
from smtpguard.model import NS, Connect

RETRY_NS = 5 * NS
_TURN_NS = 2 * RETRY_NS
"""How long first attempts are gathered in one generation: what is older than RETRY_NS is asked about no more."""
_UNDER_WAY = frozenset({b"-115", b"-4", b"-512", b"-513", b"-514", b"-516"})
"""EINPROGRESS; EINTR; ERESTARTSYS, ERESTARTNOINTR, ERESTARTNOHAND, ERESTART_RESTARTBLOCK (include/linux/errno.h)."""
_AFRESH = frozenset({b"-115", b"-1", b"-13"})
"""Answers that only a fresh attempt gets: EINPROGRESS, EPERM (cgroup/connect), EACCES (security modules)."""
_AT_ONCE = frozenset({b"0", b"-101", b"-113", b"-99"})
"""What a datagram socket is answered: 0; ENETUNREACH, EHOSTUNREACH, EADDRNOTAVAIL (no address of that family here)."""

Event = Sequence[Any]
"""A sequence of four; see Retries.feed."""
_Attempt = tuple[int, int, bytes]
"""time_ns, port, address."""
_First = tuple[bytes, bytes | None, int, int, bytes]
"""Descriptor, exit value, and the attempt."""


class Retries:
    """Remembers the recent attempts of processes.

    Args:
        tick_ns: See Probes.
        max_entries: Bound of each table; the oldest entries are forgotten first, so that a flood is counted in full.

    Attributes:
        repeats: Calls that belonged to an attempt already counted.
    """

    def __init__(self, *, tick_ns: int = MS, max_entries: int = 8192) -> None:
        self.repeats = 0
        self._probes = Probes(tick_ns=tick_ns, max_open=max_entries)
        self._max = max_entries
        # Most processes make one attempt: what it was is looked at when they make another. None for those who did.
        # Two generations of each; the oldest first in `_lone`, which are held back until they can be no probes.
        self._once: dict[Process, _First | None] = {}
        self._once_before: dict[Process, _First | None] = {}
        self._lone: dict[Process, Connect] = {}
        self._lone_before: dict[Process, Connect] = {}
        self._under_way: dict[Slot, _Attempt] = {}
        self._under_way_before: dict[Slot, _Attempt] = {}
        self._due_ns = 0
        self._turn_ns = -1

    @property
    def probes(self) -> int:
        """Calls that were a resolver's probes."""
        return self._probes.count

    @property
    def is_holding(self) -> bool:
        """Whether something is held back that may be a probe."""
        return bool(self._lone or self._probes.open)

    def set_tick(self, tick_ns: int) -> None:
        """See Probes."""
        self._probes.set_tick(tick_ns)

    def feed(self, events: Iterable[Event]) -> list[Connect]:
        """Take calls, in the order of the stream; returns those that count, once it is clear that they do.

        Args:
            events: Sequences of four: anything; the descriptor as the record writes it, None if not known; what the
                call returned likewise; the Connect.
        """
        out: list[Connect] = []
        once, before, lone, held = self._once, self._once_before, self._lone, self._probes.open
        due_ns, turn_ns = self._due_ns, self._turn_ns
        for _, fd, exit_value, connect in events:
            time_ns = connect.time_ns
            if time_ns > due_ns and (lone or held):
                due_ns = self._expire(time_ns, out)
            pid: Process = connect.pid
            if pid is None or fd is None:
                out.append(connect)
                continue
            if connect.node is not None:
                pid = (connect.pid, connect.node)
            if pid in once or pid in before:
                self._take(pid, fd, exit_value, connect, out)
                continue
            if time_ns > turn_ns or len(once) >= self._max:
                self._turn_ns = turn_ns = time_ns + _TURN_NS
                self._once_before, self._once = once, {}
                once, before = self._once, self._once_before
            once[pid] = (fd, exit_value, time_ns, connect.port, connect.address)  # no Connect is kept
            if exit_value in _AT_ONCE:
                lone[pid] = connect
                if len(lone) > self._max:
                    out.append(lone.pop(next(iter(lone))))
            else:
                out.append(connect)
        return out

    def sweep(self) -> list[Connect]:
        """Let go what has been held since the last sweep: time has passed, and nothing more is to be read."""
        out: list[Connect] = []
        for pid, connect in self._lone_before.items():
            if self._lone.get(pid) is connect:
                del self._lone[pid]
                out.append(connect)
        self._lone_before = dict(self._lone)
        self._probes.sweep(out)
        return out

    def finish(self) -> list[Connect]:
        """The stream has ended: let go everything."""
        out = list(self._lone.values())
        self._lone.clear()
        self._lone_before.clear()
        self._probes.finish(out)
        return out

    def _expire(self, time_ns: int, out: list[Connect]) -> int:
        """Let go what was held before the stream came so far. Returns when to look again."""
        lone = self._lone
        due_ns = time_ns + HOLD_NS
        while lone:
            pid, connect = next(iter(lone.items()))
            if connect.time_ns + HOLD_NS >= time_ns:
                due_ns = connect.time_ns + HOLD_NS
                break
            del lone[pid]
            out.append(connect)
        self._due_ns = min(due_ns, self._probes.expire(time_ns, out))
        return self._due_ns

    def _take(self, pid: Process, fd: bytes, exit_value: bytes | None, connect: Connect, out: list[Connect]) -> None:
        """Take a call of a process that made one before."""
        first = self._once[pid] if pid in self._once else self._once_before[pid]
        if first is not None:
            self._once[pid] = None
            if first[1] in _UNDER_WAY:
                self._under_way[pid, first[0]] = first[2:]
            elif (lone := self._lone.pop(pid, None)) is not None:
                self._probes.take((pid, first[0]), lone, answered=first[1] == b"0", counts=True, out=out)
        slot = (pid, fd)
        if exit_value in _AT_ONCE:
            counts = not self._is_retry(slot, connect, exit_value)
            self._probes.take(slot, connect, answered=exit_value == b"0", counts=counts, out=out)
            return
        if slot in self._probes.open:
            self._probes.end(slot, connect, out)
        if not self._is_retry(slot, connect, exit_value):
            out.append(connect)
        if exit_value in _UNDER_WAY:
            self._under_way[slot] = (connect.time_ns, connect.port, connect.address)
            if len(self._under_way) >= self._max:
                self._under_way_before, self._under_way = self._under_way, {}

    def _is_retry(self, slot: Slot, connect: Connect, exit_value: bytes | None) -> bool:
        """Whether an attempt under way on this descriptor is asked for; what was under way there is so no more."""
        began = self._under_way.pop(slot, None)
        before = self._under_way_before.pop(slot, None) if self._under_way_before else None
        began = began or before
        is_retry = (
            began is not None
            and began[2] == connect.address
            and began[1] == connect.port
            and abs(connect.time_ns - began[0]) <= RETRY_NS
            and exit_value not in _AFRESH
        )
        self.repeats += is_retry
        return is_retry
