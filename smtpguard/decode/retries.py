"""Which audit records are a second sight of one connection attempt. Pure, bounded, on event time.

audit sees system calls, not connections, and two habits of programs make two calls out of one connection:

- *Retry*: a non-blocking connect() answers EINPROGRESS, an interrupted one ERESTARTSYS or EINTR; the program asks
  again on the same descriptor and gets the outcome (0, ECONNREFUSED, ...). While the attempt is under way the kernel
  never gives EINPROGRESS again (that would be EALREADY, which no decoder counts), nor EPERM: either means a new
  socket under the old number. So a loop of connect and close to one server is counted in full.
- *Probe*: getaddrinfo(3) connects a datagram socket to each address it found, to sort them (RFC 3484), with the real
  port, and gets 0; then the program connects. It does so only for names with several addresses, hence with a probe of
  another address just before or after. The same pair with nothing beside it is taken for a probe once; after that
  it is a program that makes blocking connects, and each counts.
"""

from collections import OrderedDict
from collections.abc import Hashable
from typing import TypeVar

from smtpguard.model import NS, Connect

_K = TypeVar("_K", bound=Hashable)
_V = TypeVar("_V")
RETRY_NS = 5 * NS
PROBE_NS = 2 * NS
_SORTING_NS = NS // 100
"""getaddrinfo sends its probes within a fraction of a millisecond; stamps are in milliseconds, machines are slow."""
_UNDER_WAY = frozenset({b"-115", b"-4", b"-512", b"-513", b"-514", b"-516"})
"""EINPROGRESS; EINTR; ERESTARTSYS, ERESTARTNOINTR, ERESTARTNOHAND, ERESTART_RESTARTBLOCK (include/linux/errno.h)."""
_AFRESH = frozenset({b"-115", b"-1", b"-13"})
"""Answers that only a fresh attempt gets: EINPROGRESS, EPERM (cgroup/connect), EACCES (security modules)."""

_Place = tuple[int, int, bytes]
"""pid, port, address."""
_Attempt = tuple[int, int, bytes, bytes | None, bytes | None]
"""time_ns, port, address, fd, exit value."""
_NONE: _Attempt = (0, 0, b"", None, None)


class Retries:
    """Remembers the recent attempts of processes.

    Args:
        max_entries: Bound of each table; the oldest entries are forgotten first, so that a flood is counted in full.
    """

    def __init__(self, *, max_entries: int = 8192) -> None:
        self._max = max_entries
        # Most processes make one attempt; only those that make a second get a place in the other tables.
        # Two generations.
        self._once: dict[int, _Attempt | None] = {}
        self._once_before: dict[int, _Attempt | None] = {}
        self._under_way: OrderedDict[tuple[int, bytes, int, bytes], int] = OrderedDict()  # pid, fd, port, address
        self._zeros: OrderedDict[_Place, tuple[int, bool]] = OrderedDict()  # (time, whether it came in a set)
        self._paired: OrderedDict[_Place, None] = OrderedDict()  # pairs once taken for probe and connect
        self._latest: OrderedDict[tuple[int, int], tuple[int, bytes]] = OrderedDict()  # by pid and port

    def is_repeat(self, connect: Connect, fd: bytes | None, exit_value: bytes | None) -> bool:
        """Whether this call belongs to an attempt already reported, and so counts no second time.

        Args:
            connect: The call.
            fd: Descriptor it was made on, as the record writes it; None if not known, and then it is no retry.
            exit_value: What it returned, as the record writes it; None if the record does not say.
        """
        pid = connect.pid
        if pid is None:
            return False
        once = self._once
        first = once[pid] if pid in once else self._once_before.get(pid, _NONE)
        if first is _NONE:
            if len(once) >= self._max:
                self._once_before, once = once, {}
                self._once = once
            once[pid] = (connect.time_ns, connect.port, connect.address, fd, exit_value)
            return False
        once[pid] = None
        if first is not None:
            self._judge(pid, *first)
        return self._judge(pid, connect.time_ns, connect.port, connect.address, fd, exit_value)

    def _judge(
        self, pid: int, time_ns: int, port: int, address: bytes, fd: bytes | None, exit_value: bytes | None
    ) -> bool:
        """Whether an attempt repeats one of the same process; remembers it."""
        place = (pid, port, address)
        in_set = self._is_in_set(time_ns, place)
        if fd is not None and self._is_retry(time_ns, (pid, fd, port, address), exit_value):
            return True
        zero = self._zeros.pop(place, None)
        if (
            zero is not None
            and abs(time_ns - zero[0]) <= PROBE_NS
            and (exit_value != b"0" or zero[1] or self._is_first_pair(place))
        ):
            return True
        if exit_value == b"0":
            _remember(self._zeros, place, (time_ns, in_set), self._max)
        return False

    def _is_retry(self, time_ns: int, slot: tuple[int, bytes, int, bytes], exit_value: bytes | None) -> bool:
        """Whether an attempt on this descriptor is under way; remembers if it still is."""
        began = self._under_way.pop(slot, None)
        retry = began is not None and abs(time_ns - began) <= RETRY_NS and exit_value not in _AFRESH
        if exit_value in _UNDER_WAY:
            _remember(self._under_way, slot, time_ns, self._max)
        return retry

    def _is_in_set(self, time_ns: int, place: _Place) -> bool:
        """Whether the process just went for another address on that port; marks that one too."""
        pid, port, address = place
        before = self._latest.pop((pid, port), None)
        _remember(self._latest, (pid, port), (time_ns, address), self._max)
        if before is None or before[1] == address or abs(time_ns - before[0]) > _SORTING_NS:
            return False
        other = (pid, port, before[1])
        if other in self._zeros:
            self._zeros[other] = (self._zeros[other][0], True)
        return True

    def _is_first_pair(self, place: _Place) -> bool:
        """Whether this process made no such pair of calls to that place before."""
        if place in self._paired:
            return False
        _remember(self._paired, place, None, self._max)
        return True


def _remember(table: OrderedDict[_K, _V], key: _K, value: _V, bound: int) -> None:
    table[key] = value
    if len(table) > bound:
        table.popitem(last=False)
