"""Which audit records are connections: a call that only asks how an attempt went is none. Pure, bounded, event time.

audit sees system calls, not connections, and programs make several calls for one connection:

- *Retry*: a non-blocking connect() answers EINPROGRESS, an interrupted one ERESTARTSYS or EINTR; the program asks
  again on the same descriptor and gets the outcome (0, ECONNREFUSED, ...). While the attempt is under way the kernel
  never gives EINPROGRESS again (that would be EALREADY, which no decoder counts), nor EPERM: either means a new
  socket under the old number. So a loop of connect and close to one server is counted in full.
- *Probe* of a resolver: see audit_probes.py. What may be one is held back for a moment.

The descriptor tells: calls on other descriptors, by other threads too, are connections of their own.
"""

from collections.abc import Iterable
from typing import Any

from smtpguard.decode.audit_probes import MS, Probes, Slot
from smtpguard.model import NS, Connect

RETRY_NS = 5 * NS
_UNDER_WAY = frozenset({b"-115", b"-4", b"-512", b"-513", b"-514", b"-516"})
"""EINPROGRESS; EINTR; ERESTARTSYS, ERESTARTNOINTR, ERESTARTNOHAND, ERESTART_RESTARTBLOCK (include/linux/errno.h)."""
_AFRESH = frozenset({b"-115", b"-1", b"-13"})
"""Answers that only a fresh attempt gets: EINPROGRESS, EPERM (cgroup/connect), EACCES (security modules)."""
_AT_ONCE = frozenset({b"0", b"-101", b"-113", b"-99"})
"""What a datagram socket is answered: 0; ENETUNREACH, EHOSTUNREACH, EADDRNOTAVAIL (no address of that family here)."""


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
        # Two generations.
        self._under_way: dict[Slot, Connect] = {}
        self._under_way_before: dict[Slot, Connect] = {}

    def set_tick(self, tick_ns: int) -> None:
        """See Probes."""
        self._probes.set_tick(tick_ns)

    @property
    def probes(self) -> int:
        """Calls that were a resolver's probes."""
        return self._probes.count

    @property
    def is_holding(self) -> bool:
        """Whether something is held back that may be a probe."""
        return bool(self._probes.open)

    def feed(self, events: Iterable[Any]) -> list[Connect]:
        """Take calls, in the order of the stream; returns those that count, once it is clear that they do.

        Args:
            events: Sequences of four: anything; the descriptor as the record writes it, None if not known; what the
                call returned likewise; the Connect.
        """
        out: list[Connect] = []
        probes, under_way = self._probes, self._under_way
        held = probes.open
        for _, fd, exit_value, connect in events:
            if held:
                probes.expire(connect.time_ns, out)
            pid = connect.pid
            if pid is None or fd is None:
                out.append(connect)
                continue
            slot = (pid, fd)
            if exit_value in _AT_ONCE:
                is_retry = self._is_retry(slot, connect, exit_value)
                probes.take(slot, connect, answered=exit_value == b"0", counts=not is_retry, out=out)
                continue
            if slot in held:
                probes.end(slot, connect, out)
            if exit_value == b"-115":  # nearly always; whatever was under way here was another socket
                under_way[slot] = connect
                out.append(connect)
            else:
                if not self._is_retry(slot, connect, exit_value):
                    out.append(connect)
                if exit_value in _UNDER_WAY:
                    under_way[slot] = connect
            if len(under_way) >= self._max:
                self._under_way_before = under_way
                self._under_way = under_way = {}
        return out

    def sweep(self) -> list[Connect]:
        """Let go what has been held since the last sweep: time has passed, and nothing more is to be read."""
        out: list[Connect] = []
        self._probes.sweep(out)
        return out

    def finish(self) -> list[Connect]:
        """The stream has ended: let go everything."""
        out: list[Connect] = []
        self._probes.finish(out)
        return out

    def _is_retry(self, slot: Slot, connect: Connect, exit_value: bytes | None) -> bool:
        """Whether an attempt under way on this descriptor is asked for; what was under way there is so no more."""
        began = self._under_way.pop(slot, None)
        before = self._under_way_before.pop(slot, None) if self._under_way_before else None
        began = began or before
        is_retry = (
            began is not None
            and began.address == connect.address
            and began.port == connect.port
            and abs(connect.time_ns - began.time_ns) <= RETRY_NS
            and exit_value not in _AFRESH
        )
        self.repeats += is_retry
        return is_retry
