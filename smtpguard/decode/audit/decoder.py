r"""Linux audit records to Connects: joins SYSCALL (or URINGOP) and SOCKADDR records of one serial, from bytes.

Feed it an audit.log, or the same lines made from netlink messages, in chunks of any size. It takes RAW and ENRICHED
format, `node=` prefixes, CRLF, NUL bytes, lines of any length, records of different events interleaved, the SOCKADDR
before its SYSCALL, and thousands of records in between. Reads no clock and no file, and lets no error out: what can't
be read is counted and passed.

It is a sieve: it stops only at SOCKADDR records on the ports asked for, and only for those is the SYSCALL looked up,
nearly always in the line before. Everything else is never looked at, so a garbled record that is no such SOCKADDR
goes unnoticed.

In ENRICHED format auditd writes the path of an AF_UNIX address raw, so a tenant can put whole lines into the log. A
forged SYSCALL does not fit into a path (107 bytes), nor does a forged SOCKADDR with the part that auditd adds behind
0x1d; without that part none is taken for an event whose SYSCALL has one, and two for one serial drop the event.
"""

from collections.abc import Iterable

from smtpguard.decode.audit.duplicates import Duplicates
from smtpguard.decode.audit.event_joiner import EventJoiner, Nodes
from smtpguard.decode.audit.held_events import Event, HeldEvents
from smtpguard.decode.audit.index import find_line
from smtpguard.decode.audit.line_buffer import LineBuffer
from smtpguard.decode.audit.pair import PairReader, ToEventNs
from smtpguard.decode.audit.retries import Retries
from smtpguard.decode.audit.sieve import Sieve, SockaddrSieve
from smtpguard.model import Connect

_NEWLINE = 0x0A


class AuditDecoder:
    """Bytes in, Connects out, in the order in which their last record came.

    Args:
        ports: Ports that matter.
        sensor: What the Connects call their sensor.
        retries: Where repeats and probes are recognised; None counts every call.
        buffer: Where the bytes are kept; None makes one with its defaults.
        hold_bytes: How much more of the stream must have come before an ENRICHED event goes out, so that a second
            SOCKADDR of its serial can still drop it. 1 waits for the next line.
        sieve: What finds the records on these ports; None for Python's own search.
        duplicates: Where events of files that overlap are recognised; None where there are no such files.
        nodes: Which hosts' events are wanted; None for all. Those that name no host are.

    Attributes:
        counters: What was not made a Connect.
    """

    def __init__(
        self,
        *,
        ports: Iterable[int],
        sensor: str,
        retries: Retries | None = None,
        buffer: LineBuffer | None = None,
        hold_bytes: int = 1,
        sieve: Sieve | None = None,
        duplicates: Duplicates | None = None,
        nodes: Nodes | None = None,
    ) -> None:
        self._gone = 0
        self._retries = retries
        self._buffer = buffer or LineBuffer()
        self._is_picking = duplicates is not None
        self._sieve: Sieve = sieve or SockaddrSieve(ports)
        self._read_pair = PairReader(sensor).read
        self._held = HeldEvents(hold_bytes)
        self._joiner = EventJoiner(self._buffer, self._held, sensor=sensor, duplicates=duplicates, nodes=nodes)
        self.counters = self._joiner.counters

    @property
    def to_event_ns(self) -> ToEventNs | None:
        """What makes event times of the records' wall times; None leaves nanoseconds since the epoch.

        A live source gives what maps them to CLOCK_BOOTTIME.
        """
        return self._joiner.to_event_ns

    @to_event_ns.setter
    def to_event_ns(self, to_event_ns: ToEventNs | None) -> None:
        self._joiner.to_event_ns = to_event_ns

    @property
    def joined(self) -> int:
        """Connecting calls with their address, counted or not: what could be read."""
        return self._gone + self.counters.duplicates + len(self._held)

    @property
    def is_holding(self) -> bool:
        """Whether `settle` would let something go."""
        return bool(self._held) or (self._retries is not None and self._retries.is_holding)

    @property
    def overlong(self) -> int:
        """Lines dropped for their length."""
        return self._buffer.overlong

    def set_ports(self, ports: Iterable[int]) -> None:
        """Find the records on other ports from now on.

        Args:
            ports: Ports that matter.
        """
        self._sieve = SockaddrSieve(ports)

    @property
    def unfinished(self) -> bytes:
        """What has come of a line whose end has not."""
        return self._buffer.unfinished

    def feed(self, data: bytes) -> list[Connect]:
        """Take the next bytes of the stream, cut anywhere."""
        out: list[Connect] = []
        start = 0
        while start < len(data):
            room = self._buffer.room()
            count = min(len(room), len(data) - start)
            room[:count] = data[start : start + count]
            out += self.commit(count)
            start += count
        return out

    def room(self) -> memoryview:
        """Where a reader may put the next bytes itself, to save a copy; `commit` must follow."""
        return self._buffer.room()

    def commit(self, count: int) -> list[Connect]:
        """Take `count` bytes that were put into `room()`."""
        start, stop = self._buffer.commit(count)
        return self._scan(start, stop) if start < stop else []

    def settle(self) -> list[Connect]:
        """Let go what is held back: nothing more has come for a while.

        What may be a resolver's probe goes at the second call without a change: call it every 20 ms or so.
        """
        out = self._let_go([], None)
        return out if self._retries is None else out + self._tell(self._retries.sweep())

    def forget(self) -> list[Connect]:
        """What comes now may hold the events again that came before: a serial seen twice is no second address."""
        out = self._let_go([], None)
        self._joiner.recent.clear()
        self._joiner.older.clear()
        return out

    def finish(self) -> list[Connect]:
        """The stream has ended: its last line counts without a newline. Another stream may follow."""
        start, stop = self._buffer.finish()
        out = self._scan(start, stop) if start < stop else []
        out += self._let_go([], None)
        self._joiner.waiting.give_up()
        return out if self._retries is None else out + self._tell(self._retries.finish())

    def _scan(self, start: int, stop: int) -> list[Connect]:
        """Look through a region of whole lines."""
        found: list[Event] = []
        data, base = self._buffer.data, self._buffer.base
        joiner, held, is_picking = self._joiner, self._held.events, self._is_picking
        waiting = joiner.waiting.by_key
        read_pair, to_event_ns, find_newline = self._read_pair, joiner.to_event_ns, data.rfind
        # All hits first: searching and joining in turns would cost a tenth more, in cold caches.
        for at in self._sieve.find(data, start, stop):
            begin, node = at - 8, None
            if data[begin - 1] != _NEWLINE:
                begin, node = find_line(data, begin)
            if begin >= 0 and waiting:
                joiner.catch_up(begin, found)
            if begin > 0:
                pair = read_pair(data, find_newline(b"\n", 0, begin - 1) + 1, stop, to_event_ns)
                if pair is not None:
                    key, end, fd, exit_value, is_enriched, connect = pair
                    mark = hash(key)
                    recent = joiner.recent
                    if mark not in recent and mark not in joiner.older:
                        event = [base + end, fd, exit_value, connect]
                        if is_picking or key[0] is not None:
                            joiner.keep(key, event, held if is_enriched else found)
                        elif is_enriched:
                            held.append(event)
                            recent[mark] = event
                        else:
                            found.append(event)
                            recent[mark] = None
                        continue
            if begin >= 0 and data.startswith(b"type=SOCKADDR msg=", at - 8):
                joiner.take(begin, node, stop, found)
            else:
                self.counters.garbled += data.startswith(b"KADDR msg=audit(", at)
            joiner.age()
        if waiting:
            joiner.catch_up(stop, found)
        joiner.age()
        return self._let_go(found, base + stop)

    def _let_go(self, found: list[Event], limit: int | None) -> list[Connect]:
        """The Connects of what was found and of what need not be held beyond a place in the stream (None: all)."""
        found, free = self._held.let_go(found, limit)
        self._gone += len(found)
        if self._retries is None:
            connects = [connect for _, _, _, connect in found]
        else:
            connects = self._tell(self._retries.feed(found))
        for event in free:
            event[3] = None  # its serial is kept in mind for long; the Connect need not be
        return connects

    def _tell(self, connects: list[Connect]) -> list[Connect]:
        """Keep the counters in step with `_retries`."""
        if self._retries is not None:
            self.counters.repeats, self.counters.probes = self._retries.repeats, self._retries.probes
        return connects
