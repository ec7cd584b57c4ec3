"""Events of records that do not lie side by side, and the serials kept in mind so that none is made twice. Pure."""

from typing import Protocol

from smtpguard.decode.audit.counters import AuditCounters
from smtpguard.decode.audit.duplicates import Duplicates
from smtpguard.decode.audit.fields import parse_user
from smtpguard.decode.audit.held_events import Event, HeldEvents
from smtpguard.decode.audit.index import CallIndex, Key
from smtpguard.decode.audit.line_buffer import LineBuffer
from smtpguard.decode.audit.pair import ToEventNs, make_noded
from smtpguard.decode.audit.record import (
    URINGOP_GROUPS,
    is_big_endian,
    is_uring_enter,
    match_sockaddr,
    read_call,
    read_uring_call,
)
from smtpguard.decode.audit.waiting_addresses import Saddr, WaitingAddress, WaitingAddresses, is_whole
from smtpguard.decode.sockaddr import parse_sockaddr_hex
from smtpguard.errors import DecodeError

_MAX_RECENT = 4096
"""Serials kept, in each of two generations, to notice a second SOCKADDR; more if a region holds more."""


class Nodes(Protocol):
    """Knows which hosts' events are wanted."""

    def is_own(self, node: bytes) -> bool:
        """Whether the events of a host are."""
        ...


class EventJoiner:
    """Joins SOCKADDR records with their calls, wherever in the buffer those are, or once they come.

    Args:
        buffer: Where the records are.
        held: Where events go that a second address may drop.
        sensor: What the Connects call their sensor.
        duplicates: Where events of files that overlap are recognised; None where there are no such files.
        nodes: Which hosts' events are wanted; None for all.

    Attributes:
        counters: What was not made a Connect.
        waiting: Addresses whose call has not come.
        recent: The serials of late, by the hash of the Key, a third of its size; with the event, if it is held.
        older: Those of before.
        to_event_ns: Makes event times of the records' wall times.
    """

    def __init__(
        self, buffer: LineBuffer, held: HeldEvents, *, sensor: str, duplicates: Duplicates | None, nodes: Nodes | None
    ) -> None:
        self.counters = AuditCounters()
        self.waiting = WaitingAddresses(self.counters)
        self.recent: dict[int, Event | None] = {}
        self.older: dict[int, Event | None] = {}
        self.to_event_ns: ToEventNs | None = None
        self._buffer = buffer
        self._held = held
        self._sensor = sensor
        self._duplicates = duplicates
        self._nodes = nodes
        self._index = CallIndex(buffer)

    def take(self, begin: int, node: bytes | None, stop: int, found: list[Event]) -> None:
        """Join a SOCKADDR record, at an offset, with a call that is not just before it; or let it wait."""
        record = match_sockaddr(self._buffer.data, begin, stop)
        if record is None:
            self.counters.garbled += 1
            return
        key = (node, record[2])
        saddr = (record[5], record[6])
        mark = hash(key)
        if mark in self.recent or mark in self.older:
            held = self.recent.get(mark) or self.older.get(mark)
            self._take_double(held, self._buffer.base + begin, saddr)
            return
        call, garbled = self._index.find_near(key, begin)
        if call is None:
            self.catch_up(begin, found)
            call = self._index.find_far(key)
        end = self._buffer.base + record.end()
        if call is None:
            self.waiting.add(key, WaitingAddress(end, saddr, garbled), self._buffer.base)
        else:
            self._join(key, end, call.groups(), saddr, found)

    def _take_double(self, held: Event | None, begin: int, saddr: Saddr) -> None:
        """A second SOCKADDR of one serial drops the event if it is still here."""
        if held is not None and not is_whole(saddr):
            self.counters.forged += 1
            return
        self.counters.doubled += 1
        if held is not None:
            self._held.drop(held, begin)

    def catch_up(self, stop: int, found: list[Event]) -> None:
        """Join what waits with the calls up to an offset."""
        for key, call in self._index.advance(stop):
            if key not in self.waiting.by_key:
                continue
            groups = call.groups()
            saddrs = self.waiting.take(key, is_enriched=groups[-1] is not None)
            if len(saddrs) > 1:
                self.counters.doubled += len(saddrs) - 1
                self._remember(key, None)
            elif saddrs:
                self._join(key, self._buffer.base + call.end(), groups, saddrs[0], found)

    def _join(self, key: Key, end: int, groups: tuple[bytes, ...], saddr: Saddr, found: list[Event]) -> None:
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
        if enriched is not None and not is_whole(saddr):
            self.counters.forged += 1
            return
        if self.to_event_ns is not None:
            time_ns = self.to_event_ns(time_ns)
        user = None if enriched is None else parse_user(enriched)
        connect = make_noded(time_ns, pid, uid, euid, comm, exe, user, port, address, self._sensor, key[0])
        self.keep(key, [end, fd, exit_value, connect], found if enriched is None else self._held.events)

    def keep(self, key: Key, event: Event, events: list[Event]) -> None:
        """Put a joined event where it goes out from, now or when a second address can't drop it any more."""
        if key[0] is not None and self._nodes is not None and not self._nodes.is_own(key[0]):
            self.counters.foreign += 1
            return
        if self._duplicates is not None and self._duplicates.is_known(key, event[3].time_ns):
            self.counters.duplicates += 1
            return
        events.append(event)
        self._remember(key, event if events is self._held.events else None)

    def _remember(self, key: Key, held: Event | None) -> None:
        """Keep a serial in mind, for a while."""
        self.recent[hash(key)] = held

    def age(self) -> None:
        """Forget what was kept in mind longest, if that is much."""
        if len(self.recent) >= _MAX_RECENT:
            self.older, self.recent = self.recent, {}
