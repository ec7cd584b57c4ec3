"""What others did to our nftables table, from the kernel's notifications (NFNLGRP_NFTABLES). Pure.

The kernel tells every change of a transaction and then NEWGEN, which names the process. So changes are collected
until NEWGEN and judged by what they come to: an element deleted and added again is not gone. It tells apart

- `lost`: the table is gone, or was deleted and made anew (flush ruleset, a reloaded firewall): put it back;
- `damaged`: rules, chain, sets or counters are gone, or the table was made dormant: put them back;
- `deleted`: elements were taken out of our sets, the table being whole: somebody's wish to free these uids;
- `changed`: elements were put in, or given another time or comment: read the set; `loaded` if the same transaction also
  changed rules, chains or sets, as a file does that is loaded over ours;
- `altered`: something was added to our table or changed that is none of the above;
- `unknown`: notifications were lost, or too many to keep: look for yourself.

The end of an element's time is not told by the kernel. Numbers: <linux/netfilter/nf_tables.h>.
"""

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeGuard

from smtpguard.decode.netlink.messages import (
    HEADER,
    NetlinkMessage,
    list_attributes,
    read_string,
    read_u32,
    split_attributes,
    split_messages,
)
from smtpguard.errors import DecodeError

EventKind = Literal["lost", "damaged", "deleted", "changed", "altered", "unknown"]

_NFNL_SUBSYS_NFTABLES = 10
_NFPROTO_INET = 1
_NEWTABLE, _DELTABLE = 0, 2
_NEWSETELEM, _DELSETELEM = 12, 14
_NEWGEN = 15
_NEW_PARTS = frozenset({3, 6, 9, 18})
"""NEWCHAIN, NEWRULE, NEWSET, NEWOBJ."""
_DEL_PARTS = frozenset({5, 8, 11, 20})
"""DELCHAIN, DELRULE, DELSET (also of the nameless set in a rule that goes), DELOBJ."""
_TABLE_DORMANT = 1
_INTERVAL_END = 1
_NFGENMSG = struct.Struct("=BBH")
_LAST_UID = 0xFFFF_FFFF
KEPT_SETS = ("ports", "root", "exempt", "exempt4", "exempt6", "uncapped")
MAX_PENDING = 300_000
"""Most element changes kept of one transaction: 65,536 elements, each deleted and added, two ends each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NftEvent:
    """One transaction's effect on our table.

    Attributes:
        kind: See the module.
        pid: Process (thread) id of who did it, in the initial pid namespace; None if not told.
        comm: Its name, untrusted; None if not told.
        set: Which set, for `deleted` and `changed`.
        ranges: The uids that are in the set no longer, as inclusive ranges, for `deleted`.
        loaded: Whether the transaction did more than change elements, for `changed`.
    """

    kind: EventKind
    pid: int | None = None
    comm: bytes | None = None
    set: str | None = None
    ranges: tuple[tuple[int, int], ...] = ()
    loaded: bool = False


class NotifyDecoder:
    """Collects one transaction after the other.

    Args:
        table: Our table, of family inet.
        sets: The sets whose elements matter one by one; those that begin with one of these and _ do, too.
        kept: The sets that hold what the configuration says.
    """

    def __init__(
        self, table: str, sets: Iterable[str] = ("blocked", "throttled"), kept: Iterable[str] = KEPT_SETS
    ) -> None:
        self._table = table.encode()
        self._sets = frozenset(name.encode() for name in sets)
        self._kept = frozenset(name.encode() for name in kept)
        self._transaction = _Transaction()

    def feed(self, datagram: bytes | memoryview) -> list[NftEvent]:
        """Events of the transactions that end in this datagram.

        Raises:
            DecodeError: It is not what the kernel sends; what was collected is dropped, call `lose`.
        """
        events: list[NftEvent] = []
        if self._is_about_others(bytes(datagram)):
            return events
        for message in split_messages(datagram):
            if message.type >> 8 != _NFNL_SUBSYS_NFTABLES:
                continue
            if len(message.body) < _NFGENMSG.size:
                raise DecodeError("an nfnetlink message without its header")
            if message.type & 0xFF == _NEWGEN:
                attributes = split_attributes(message.body[_NFGENMSG.size :])
                events += self._transaction.judge(read_u32(attributes.get(2)), read_string(attributes.get(3)))
                self._transaction = _Transaction()
            elif message.body[0] == _NFPROTO_INET:
                self._collect(message)
        return events

    def _is_about_others(self, datagram: bytes) -> bool:
        """Whether our table is not named in it: somebody's 400,000 elements are as many messages.

        NEWGEN names no table, and comes in a datagram of its own.
        """
        if self._table + b"\0" in datagram or len(datagram) < HEADER.size:
            return False
        kind: int = HEADER.unpack_from(datagram)[1]
        return kind >> 8 == _NFNL_SUBSYS_NFTABLES and kind & 0xFF != _NEWGEN

    def lose(self) -> NftEvent:
        """Notifications were lost: drop what was collected; the event that says so."""
        self._transaction = _Transaction()
        return NftEvent(kind="unknown")

    def _is_ours(self, name: bytes | None) -> TypeGuard[bytes]:
        return name is not None and name.partition(b"_")[0] in self._sets

    def _collect(self, message: NetlinkMessage) -> None:
        kind = message.type & 0xFF
        attributes = split_attributes(message.body[_NFGENMSG.size :])
        if read_string(attributes.get(1)) != self._table:
            return
        transaction = self._transaction
        if kind in (_NEWSETELEM, _DELSETELEM):
            name = read_string(attributes.get(2))
            if self._is_ours(name) and 3 in attributes:
                transaction.add_elements(name, attributes[3], gone=kind == _DELSETELEM)
            elif name in self._kept:
                transaction.damaged = True
        elif kind == _DELTABLE:
            transaction.lost = True
        elif kind == _NEWTABLE:
            transaction.dormant = bool((read_u32(attributes.get(2)) or 0) & _TABLE_DORMANT)
            transaction.altered = True
        elif kind in _DEL_PARTS:
            transaction.damaged = True
        elif kind in _NEW_PARTS:
            transaction.altered = True


class _Transaction:
    """What one transaction did to our table so far."""

    __slots__ = ("altered", "damaged", "dormant", "gone", "lost", "overflow", "there")

    def __init__(self) -> None:
        self.lost = False
        self.damaged = False
        self.dormant = False
        self.altered = False
        self.overflow = False
        # Set, key, and whether it is an interval's end: the kernel keeps both ends of an interval as elements.
        self.gone: set[tuple[bytes, int, bool]] = set()
        self.there: set[tuple[bytes, int, bool]] = set()

    def add_elements(self, name: bytes, listing: memoryview, *, gone: bool) -> None:
        for _, item in list_attributes(listing):
            attributes = split_attributes(item)
            key = read_u32(split_attributes(attributes.get(1, b"")).get(1))
            if key is None:
                continue
            if len(self.gone) + len(self.there) >= MAX_PENDING:
                self.overflow = True
                return
            element = (name, key, bool((read_u32(attributes.get(3)) or 0) & _INTERVAL_END))
            if gone:
                self.gone.add(element)
                self.there.discard(element)
            else:
                self.there.add(element)

    def judge(self, pid: int | None, comm: bytes | None) -> list[NftEvent]:
        """What it all comes to."""
        if self.lost:
            return [NftEvent(kind="lost", pid=pid, comm=comm)]
        events = []
        if self.damaged or self.dormant:
            events.append(NftEvent(kind="damaged", pid=pid, comm=comm))
        elif self.altered:
            events.append(NftEvent(kind="altered", pid=pid, comm=comm))
        if self.overflow:
            return [*events, NftEvent(kind="unknown", pid=pid, comm=comm)]
        for name in sorted({name for name, _, _ in self.gone | self.there}):
            freed = _subtract(_join(self.gone, name), _join(self.there, name))
            text = name.decode("ascii")
            if freed:
                events.append(NftEvent(kind="deleted", pid=pid, comm=comm, set=text, ranges=tuple(freed)))
            if any(n == name and not end for n, _, end in self.there):
                loaded = self.damaged or self.altered
                events.append(NftEvent(kind="changed", pid=pid, comm=comm, set=text, loaded=loaded))
        return events


def _join(elements: set[tuple[bytes, int, bool]], name: bytes) -> list[tuple[int, int]]:
    """Starts and ends as inclusive ranges. A start without an end is one whose time alone was changed: left out."""
    starts = sorted(key for n, key, end in elements if n == name and not end)
    ends = sorted(key for n, key, end in elements if n == name and end)
    ranges: list[tuple[int, int]] = []
    index = 0
    for position, start in enumerate(starts):
        while index < len(ends) and ends[index] <= start:
            index += 1
        following = starts[position + 1] if position + 1 < len(starts) else None
        if index < len(ends) and (following is None or ends[index] <= following):
            ranges.append((start, ends[index] - 1))
        elif index == len(ends) and following is None:
            ranges.append((start, _LAST_UID))  # the kernel keeps no end beyond the last key
    return ranges


def _subtract(ranges: list[tuple[int, int]], holes: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """What of sorted disjoint ranges lies in no hole (sorted and disjoint too)."""
    left: list[tuple[int, int]] = []
    index = 0
    for first, last in ranges:
        start = first
        while index < len(holes) and holes[index][1] < start:
            index += 1
        scan = index
        while scan < len(holes) and holes[scan][0] <= last:
            if start < holes[scan][0]:
                left.append((start, holes[scan][0] - 1))
            start = max(start, holes[scan][1] + 1)
            scan += 1
        if start <= last:
            left.append((start, last))
    return left
