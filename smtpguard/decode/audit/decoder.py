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

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, NamedTuple, Protocol

from smtpguard.decode.audit.duplicates import Duplicates
from smtpguard.decode.audit.fields import MIN_DIGITS, is_same_address, parse_user
from smtpguard.decode.audit.index import CallIndex, Key, find_line
from smtpguard.decode.audit.line_buffer import LineBuffer
from smtpguard.decode.audit.pair import PairReader, ToEventNs, make_noded
from smtpguard.decode.audit.record import (
    URINGOP_GROUPS,
    is_big_endian,
    is_uring_enter,
    match_sockaddr,
    read_call,
    read_uring_call,
)
from smtpguard.decode.audit.retries import Retries
from smtpguard.decode.audit.sieve import Sieve, SockaddrSieve
from smtpguard.decode.sockaddr import parse_sockaddr_hex
from smtpguard.errors import DecodeError
from smtpguard.model import Connect

_MAX_WAITING = 4096
"""SOCKADDR records kept while their SYSCALL has not come."""
_MAX_RECENT = 4096
"""Serials kept, in each of two generations, to notice a second SOCKADDR; more if a region holds more."""
_NEWLINE = 0x0A
_ENDLESS = 1 << 63


@dataclass(slots=True, kw_only=True)
class AuditCounters:
    """What the decoder did not make a Connect of, since it was made.

    Attributes:
        garbled: Records on a mail port that can't be read, or whose SYSCALL can't.
        unpaired: SOCKADDR records whose SYSCALL never came, or came too late.
        forged: SOCKADDR records in an ENRICHED log without the whole part that auditd adds.
        doubled: Further SOCKADDR records of a serial; an event not yet gone out was dropped for them.
        repeats: Calls that belong to an attempt already counted (see retries).
        probes: Calls of a resolver that sorts addresses (see audit_probes).
        duplicates: Events that another file held too.
        foreign: Events of other hosts (see AuditDecoder's nodes).
        others: Calls that are no connect: bind, getpeername, sendto without MSG_FASTOPEN, EISCONN, EALREADY.
    """

    garbled: int = 0
    unpaired: int = 0
    forged: int = 0
    doubled: int = 0
    repeats: int = 0
    probes: int = 0
    duplicates: int = 0
    foreign: int = 0
    others: int = 0


_Event = list[Any]
"""A joined event: where in the stream it is complete, the call's descriptor and exit value, and the Connect; None in
place of that if the event was dropped. A bare list: it is made for each and every connect, and changed only if held."""


_Saddr = tuple[bytes, bytes | None]
"""What a SOCKADDR says: hex digits, and what stands behind 0x1d (None in RAW format)."""


class _WaitingAddress(NamedTuple):
    """A SOCKADDR whose call has not come."""

    end: int  # where its line ends in the stream
    saddr: _Saddr
    garbled: bool  # there is a call of that serial which can't be read


class Nodes(Protocol):
    """Knows which hosts' events are wanted."""

    def is_own(self, node: bytes) -> bool:
        """Whether the events of a host are."""
        ...


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
        to_event_ns: Makes event times of the records' wall times; None leaves nanoseconds since the epoch. A live
            source gives what maps them to CLOCK_BOOTTIME.
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
        self.counters = AuditCounters()
        self._joined = 0
        self.to_event_ns: ToEventNs | None = None
        self._sensor = sensor
        self._retries = retries
        self._buffer = buffer or LineBuffer()
        self._hold = hold_bytes
        self._duplicates = duplicates
        self._nodes = nodes
        self._sieve: Sieve = sieve or SockaddrSieve(ports)
        self._read_pair = PairReader(sensor).read
        self._index = CallIndex(self._buffer)
        self._waiting: OrderedDict[Key, list[_WaitingAddress]] = OrderedDict()
        self._recent: dict[int, _Event | None] = {}  # by the hash of the Key, a third of its size
        self._older: dict[int, _Event | None] = {}
        self._held: list[_Event] = []

    @property
    def joined(self) -> int:
        """Connecting calls with their address, counted or not: what could be read."""
        return self._joined + len(self._held)

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
        self._recent.clear()
        self._older.clear()
        return out

    def finish(self) -> list[Connect]:
        """The stream has ended: its last line counts without a newline. Another stream may follow."""
        start, stop = self._buffer.finish()
        out = self._scan(start, stop) if start < stop else []
        out += self._let_go([], None)
        while self._waiting:
            self._give_up(self._waiting.popitem()[1])
        return out if self._retries is None else out + self._tell(self._retries.finish())

    def _scan(self, start: int, stop: int) -> list[Connect]:
        """Look through a region of whole lines."""
        found: list[_Event] = []
        data, base = self._buffer.data, self._buffer.base
        read_pair, to_event_ns = self._read_pair, self.to_event_ns
        find_newline, held, is_picking = data.rfind, self._held, self._duplicates is not None
        # All hits first: searching and joining in turns would cost a tenth more, in cold caches.
        for at in self._sieve.find(data, start, stop):
            begin, node = at - 8, None
            if data[begin - 1] != _NEWLINE:
                begin, node = find_line(data, begin)
            if begin >= 0 and self._waiting:
                self._catch_up(begin, found)
            if begin > 0:
                pair = read_pair(data, find_newline(b"\n", 0, begin - 1) + 1, stop, to_event_ns)
                if pair is not None:
                    key, end, fd, exit_value, is_enriched, connect = pair
                    mark = hash(key)
                    recent = self._recent
                    if mark not in recent and mark not in self._older:
                        event = [base + end, fd, exit_value, connect]
                        if is_picking or key[0] is not None:
                            self._keep(key, event, held if is_enriched else found)
                        elif is_enriched:
                            held.append(event)
                            recent[mark] = event
                        else:
                            found.append(event)
                            recent[mark] = None
                        continue
            if begin >= 0 and data.startswith(b"type=SOCKADDR msg=", at - 8):
                self._take(begin, node, stop, found)
            else:
                self.counters.garbled += data.startswith(b"KADDR msg=audit(", at)
            self._age()
        if self._waiting:
            self._catch_up(stop, found)
        self._age()
        return self._let_go(found, base + stop)

    def _take(self, begin: int, node: bytes | None, stop: int, found: list[_Event]) -> None:
        """Join a SOCKADDR record, at an offset, with a call that is not just before it; or let it wait."""
        record = match_sockaddr(self._buffer.data, begin, stop)
        if record is None:
            self.counters.garbled += 1
            return
        key = (node, record[2])
        saddr = (record[5], record[6])
        mark = hash(key)
        if mark in self._recent or mark in self._older:
            held = self._recent.get(mark) or self._older.get(mark)
            self._take_double(held, self._buffer.base + begin, saddr)
            return
        call, garbled = self._index.find_near(key, begin)
        if call is None:
            self._catch_up(begin, found)
            call = self._index.find_far(key)
        end = self._buffer.base + record.end()
        if call is None:
            self._wait(key, _WaitingAddress(end, saddr, garbled))
        else:
            self._join(key, end, call.groups(), saddr, found)

    def _take_double(self, held: _Event | None, begin: int, saddr: _Saddr) -> None:
        """A second SOCKADDR of one serial drops the event if it is still here."""
        if held is not None and not _is_whole(saddr):
            self.counters.forged += 1
            return
        self.counters.doubled += 1
        if held is not None and begin < held[0] + self._hold:
            held[3] = None

    def _wait(self, key: Key, record: _WaitingAddress) -> None:
        """Keep a SOCKADDR until its call comes; forget those for which it can't be found any more."""
        waiting = self._waiting
        waiting.setdefault(key, []).append(record)
        oldest = next(iter(waiting.values()))
        while oldest[0].end < self._buffer.base or len(waiting) > _MAX_WAITING or len(oldest) > _MAX_WAITING:
            self._give_up(waiting.popitem(last=False)[1])
            if not waiting:
                break
            oldest = next(iter(waiting.values()))

    def _give_up(self, records: list[_WaitingAddress]) -> None:
        garbled = sum(record.garbled for record in records)
        self.counters.garbled += garbled
        self.counters.unpaired += len(records) - garbled

    def _catch_up(self, stop: int, found: list[_Event]) -> None:
        """Join what waits with the calls up to an offset."""
        for key, call in self._index.advance(stop):
            waiting = self._waiting.pop(key, None)
            if waiting is None:
                continue
            groups = call.groups()
            records = [record.saddr for record in waiting]
            if groups[-1] is not None:
                records = [saddr for saddr in records if _is_whole(saddr)]
                self.counters.forged += len(waiting) - len(records)
            if len(records) > 1:
                self.counters.doubled += len(records) - 1
                self._remember(key, None)
            elif records:
                self._join(key, self._buffer.base + call.end(), groups, records[0], found)

    def _join(self, key: Key, end: int, groups: tuple[bytes, ...], saddr: _Saddr, found: list[_Event]) -> None:
        """Make an event of a call and an address; `end` says where in the stream the later record ends."""
        try:
            call = read_uring_call(groups, None) if len(groups) == URINGOP_GROUPS else read_call(groups)
            if call is None and is_uring_enter(groups):
                uring = self._index.find_uring(key, end - self._buffer.base)
                call = read_uring_call(uring.groups(), groups) if uring else None
            port, address = parse_sockaddr_hex(saddr[0], big_endian=is_big_endian(groups))
        except DecodeError:
            self.counters.garbled += 1
            return
        if call is None:
            self.counters.others += 1
            return
        time_ns, pid, uid, euid, comm, exe, fd, exit_value, enriched = call
        if enriched is not None and not _is_whole(saddr):
            self.counters.forged += 1
            return
        if self.to_event_ns is not None:
            time_ns = self.to_event_ns(time_ns)
        user = None if enriched is None else parse_user(enriched)
        connect = make_noded(time_ns, pid, uid, euid, comm, exe, user, port, address, self._sensor, key[0])
        self._keep(key, [end, fd, exit_value, connect], found if enriched is None else self._held)

    def _keep(self, key: Key, event: _Event, events: list[_Event]) -> None:
        """Put a joined event where it goes out from, now or when a second address can't drop it any more."""
        if key[0] is not None and self._nodes is not None and not self._nodes.is_own(key[0]):
            self.counters.foreign += 1
            return
        if self._duplicates is not None and self._duplicates.is_known(key, event[3].time_ns):
            self.counters.duplicates += 1
            self._joined += 1
            return
        events.append(event)
        self._remember(key, event if events is self._held else None)

    def _remember(self, key: Key, held: _Event | None) -> None:
        """Keep a serial in mind, for a while."""
        self._recent[hash(key)] = held

    def _age(self) -> None:
        """Forget what was kept in mind longest, if that is much."""
        if len(self._recent) >= _MAX_RECENT:
            self._older, self._recent = self._recent, {}

    def _let_go(self, found: list[_Event], limit: int | None) -> list[Connect]:
        """The Connects of what was found and of what need not be held beyond a place in the stream (None: all)."""
        free: list[_Event] = []
        if self._held:
            edge = _ENDLESS if limit is None else limit - self._hold
            free = [event for event in self._held if event[0] <= edge and event[3] is not None]
            self._held = [event for event in self._held if event[0] > edge]
            found = sorted(found + free, key=itemgetter(0)) if found else sorted(free, key=itemgetter(0))
        self._joined += len(found)
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


def _is_whole(saddr: _Saddr) -> bool:
    """Whether a SOCKADDR has the whole part that auditd adds in ENRICHED format, saying the same address."""
    digits, tail = saddr
    try:
        if tail is None or len(digits) < MIN_DIGITS:
            return False
        return is_same_address(tail, *parse_sockaddr_hex(digits, big_endian=None))
    except DecodeError:
        return False
