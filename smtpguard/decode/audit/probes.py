"""Which connect() calls are a resolver's probes and so no connections. Pure, bounded, on event time.

getaddrinfo(3), asked for a name *and a port*, connects one datagram socket to each address it found, in order to sort
them (RFC 6724): nothing is sent, but audit sees a connect() on the mail port each time. glibc does it on one
descriptor, answered at once with 0 or "unreachable", and only for names with several addresses. So:

- two or more calls on one (process, descriptor), beside each other in time, to *distinct* addresses of one port, each
  answered so and one of them with 0, are probes;
- the first repeat of one of them is the connection (a TCP socket gets the same number after close) and ends the burst;
- if all were unreachable they are probes only where such a repeat follows: a program goes through addresses likewise;
- if after the repeat another one of them follows just as quickly, a second thread looks up the same name;
- where a process lost its processor amid a look-up, the rest of the addresses come later: an address of the first part
  behind them is the connection, not one more of the rest;
- a lone call is a connection.

What looks exactly so is taken for it: `docs/architecture.md` says what that is worth to an attacker. A call that may
be a probe is held back until the next one on its descriptor comes, or until time has passed.
"""

import re
from itertools import pairwise

from smtpguard.model import NS, Connect

MS = NS // 1000
MAX_ADDRESSES = 32
"""More addresses than a mail server's name has: a longer burst is no look-up, and each of it counts."""
HOLD_NS = 50 * MS
"""How late, in event time, the next call of a burst may come in the stream: records of several CPUs interleave."""
BROKEN_NS = NS // 2
"""How long a process may be without a processor amid a look-up: 300 ms were seen on busy hosts."""
_MAX_BROKEN = 1024
_SLACK_NS = MS // 2
"""Wall stamps are mapped to event time anew at each read."""
Process = int | tuple[int, bytes]
"""pid, with the host's name where a log names one."""
Slot = tuple[Process, bytes]
"""Process and descriptor."""


_MOST_TICK = 4 * MS
"""Most kernels that people run tick 250 or 1000 times a second."""
_STAMP = re.compile(rb"audit\(([0-9]{1,11})\.([0-9]{3}):").findall


def guess_tick_ns(text: bytes) -> int:
    """How far the time stamps of a log jump, from a piece of it: 1 ms if some are that close, else what is usual."""
    stamps = sorted({int(seconds) * 1000 + int(millis) for seconds, millis in _STAMP(text)})
    close = sum(1 for one, other in pairwise(stamps) if other - one <= 2)
    return MS if close >= 2 else _MOST_TICK


class _Burst:
    """Calls beside each other on one slot; at least two.

    Attributes:
        port: Their port.
        last_ns: When the last one came.
        members: By address; None for one that is known not to count.
        answered: Whether one was answered with 0.
        repeat: The connection that ended it, if that may still turn out to be another thread's probe.
        repeat_answered: Whether that was answered with 0.
        is_flood: Whether it has more addresses than a name has.
        changes: Grows with each call.
    """

    __slots__ = ("answered", "changes", "is_flood", "last_ns", "members", "port", "repeat", "repeat_answered")

    def __init__(self, first: Connect, held: Connect | None, *, answered: bool) -> None:
        self.port = first.port
        self.last_ns = first.time_ns
        self.members: dict[bytes, Connect | None] = {first.address: held}
        self.answered = answered
        self.repeat: Connect | None = None
        self.repeat_answered = False
        self.is_flood = False
        self.changes = 0

    def add(self, connect: Connect, *, answered: bool) -> None:
        """One more address."""
        self.members[connect.address] = connect
        self.last_ns = connect.time_ns
        self.answered = self.answered or answered
        self.changes += 1


_Part = tuple[int, int, frozenset[bytes]]
"""Port of a look-up whose connection has not come, when it was last heard of, its addresses."""
Lone = tuple[Connect, Connect | None, bool]
"""A call with nothing beside it so far: it, what is to be let go of it (None: it counts not), whether 0 answered it."""


class Probes:
    """Holds back what may be a probe, lets go what is none.

    Args:
        tick_ns: How far the time stamps of two calls that follow each other at once may be apart: audit's come from
            the coarse clock, which moves once a tick of the kernel (1 to 10 ms).
        max_open: Most slots kept; beyond it the oldest are decided with what is known.

    Attributes:
        count: Calls that were probes.
        open: What is held, by slot, in the order of the last call.
    """

    def __init__(self, *, tick_ns: int = MS, max_open: int = 8192) -> None:
        self.count = 0
        self.open: dict[Slot, Lone | _Burst] = {}
        self.set_tick(tick_ns)
        self._max = max_open
        self._parts: dict[Slot, _Part] = {}
        self._before: dict[Slot, tuple[Lone | _Burst, int]] = {}

    def set_tick(self, tick_ns: int) -> None:
        """Another stream: how far its stamps jump."""
        self._tick_from_ns, self._tick_to_ns = tick_ns - MS - _SLACK_NS, tick_ns + _SLACK_NS

    def take(self, slot: Slot, connect: Connect, *, answered: bool, counts: bool, out: list[Connect]) -> None:
        """Take a call that was answered at once, with 0 or "unreachable".

        Args:
            slot: Where it was made.
            connect: The call.
            answered: Whether it got 0.
            counts: Whether it counts if it is no probe.
            out: Where calls go that are none.
        """
        held = connect if counts else None
        before = self.open.pop(slot, None)
        if before is None:
            self.open[slot] = (connect, held, answered)
            if len(self.open) > self._max:
                self._close(next(iter(self.open)), out)
            return
        if slot in self._parts and self._is_connection(slot, before, connect):
            self.open[slot] = before
            self._close(slot, out, is_repeat=True)
            if held is not None:
                out.append(held)
            return
        if isinstance(before, tuple):
            first = before[0]
            if (
                first.address == connect.address
                or first.port != connect.port
                or not self._is_beside(connect.time_ns - first.time_ns)
            ):
                if before[1] is not None:
                    out.append(before[1])
                self.open[slot] = (connect, held, answered)
                return
            burst = _Burst(first, before[1], answered=before[2])
            burst.add(connect, answered=answered)
            self.open[slot] = burst
            return
        self.open[slot] = before
        self._go_on(slot, before, connect, held, answered=answered, out=out)

    def end(self, slot: Slot, connect: Connect, out: list[Connect]) -> None:
        """Take another kind of call on a slot of `open`: what is held there is decided before it."""
        before = self.open[slot]
        is_repeat = isinstance(before, _Burst) and before.port == connect.port and connect.address in before.members
        is_repeat = is_repeat or (slot in self._parts and self._is_connection(slot, before, connect))
        self._close(slot, out, is_repeat=is_repeat)

    def expire(self, time_ns: int, out: list[Connect]) -> int:
        """Decide what is held since before: the stream is at `time_ns`. Returns when to call it again."""
        while self.open:
            slot, first = next(iter(self.open.items()))
            last_ns = first[0].time_ns if isinstance(first, tuple) else first.last_ns
            if last_ns + HOLD_NS >= time_ns:
                return last_ns + HOLD_NS
            self._close(slot, out)
        return time_ns + HOLD_NS

    def sweep(self, out: list[Connect]) -> None:
        """Time has passed and nothing more is to be read: decide what did not change since the last sweep."""
        for slot, (held, changes) in self._before.items():
            if self.open.get(slot) is held and changes == _changes(held):
                self._close(slot, out)
        self._before = {slot: (held, _changes(held)) for slot, held in self.open.items()}

    def finish(self, out: list[Connect]) -> None:
        """The stream has ended: decide everything."""
        while self.open:
            self._close(next(iter(self.open)), out)
        self._before.clear()

    def _is_beside(self, apart_ns: int) -> bool:
        """Whether stamps so far apart may belong to calls that followed each other at once."""
        apart_ns = abs(apart_ns)
        return apart_ns <= MS + _SLACK_NS or self._tick_from_ns <= apart_ns <= self._tick_to_ns

    def _is_connection(self, slot: Slot, rest: Lone | _Burst, connect: Connect) -> bool:
        """Whether a look-up was broken in two on this slot, `rest` is its second part, and this its connection."""
        port, last_ns, addresses = self._parts.pop(slot)
        if isinstance(rest, tuple):
            rest_port, rest_ns, others = rest[0].port, rest[0].time_ns, {rest[0].address}
        else:
            rest_port, rest_ns, others = rest.port, rest.last_ns, set(rest.members)
        if port != connect.port or port != rest_port or abs(connect.time_ns - last_ns) > BROKEN_NS:
            return False
        if not addresses.isdisjoint(others) or not self._is_beside(connect.time_ns - rest_ns):
            return False  # the same name once more, or connections that take their time
        if connect.address in addresses:
            return True
        self._parts[slot] = (port, last_ns, addresses)
        return False

    def _go_on(
        self, slot: Slot, burst: _Burst, connect: Connect, held: Connect | None, *, answered: bool, out: list[Connect]
    ) -> None:
        """Take one more call where there were two at least."""
        known = connect.address in burst.members
        repeat = burst.repeat
        if burst.port != connect.port or not self._is_beside(connect.time_ns - burst.last_ns):
            pass
        elif repeat is not None:
            if known and connect.address != repeat.address and (answered or burst.repeat_answered):
                burst.repeat = None
                self._close(slot, out)
                again = _Burst(repeat, repeat, answered=burst.repeat_answered)
                again.add(connect, answered=answered)
                self.open[slot] = again
                return
        elif burst.is_flood:
            burst.last_ns = connect.time_ns
            burst.changes += 1
            if held is not None:
                out.append(held)
            return
        elif not known:
            burst.add(connect, answered=answered)
            if len(burst.members) > MAX_ADDRESSES:
                out += [member for member in burst.members.values() if member is not None]
                burst.members = {}
                burst.is_flood = True
            return
        elif held is not None:
            burst.repeat, burst.repeat_answered, burst.last_ns = connect, answered, connect.time_ns
            burst.changes += 1
            return
        self._close(slot, out)
        self.open[slot] = (connect, held, answered)

    def _close(self, slot: Slot, out: list[Connect], *, is_repeat: bool = False) -> None:
        """Decide what is held on a slot."""
        held = self.open.pop(slot)
        if isinstance(held, tuple):
            if is_repeat:
                self.count += held[1] is not None
            elif held[1] is not None:
                out.append(held[1])
            return
        members = [member for member in held.members.values() if member is not None]
        if held.answered or held.repeat is not None or is_repeat:
            self.count += len(members)
            if held.repeat is None and not is_repeat:
                self._parts[slot] = (held.port, held.last_ns, frozenset(held.members))
                if len(self._parts) > _MAX_BROKEN:
                    del self._parts[next(iter(self._parts))]
        else:
            out += members
        if held.repeat is not None:
            out.append(held.repeat)


def _changes(held: Lone | _Burst) -> int:
    return held.changes if isinstance(held, _Burst) else 0
