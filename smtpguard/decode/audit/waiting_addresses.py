"""SOCKADDR records whose call has not come: kept until it does, or can't be found any more. Pure, bounded."""

from collections import OrderedDict
from typing import NamedTuple

from smtpguard.decode.audit.counters import AuditCounters
from smtpguard.decode.audit.fields import MIN_DIGITS, is_same_address
from smtpguard.decode.audit.index import Key
from smtpguard.decode.sockaddr import parse_sockaddr_hex
from smtpguard.errors import DecodeError

_MAX_WAITING = 4096
"""SOCKADDR records kept while their SYSCALL has not come."""

Saddr = tuple[bytes, bytes | None]
"""What a SOCKADDR says: hex digits, and what stands behind 0x1d (None in RAW format)."""


class WaitingAddress(NamedTuple):
    """A SOCKADDR whose call has not come."""

    end: int  # where its line ends in the stream
    saddr: Saddr
    garbled: bool  # there is a call of that serial which can't be read


class WaitingAddresses:
    """Those records, the oldest serial first.

    Args:
        counters: Where those are counted that wait in vain.

    Attributes:
        by_key: They; always the same dict.
    """

    def __init__(self, counters: AuditCounters) -> None:
        self.by_key: OrderedDict[Key, list[WaitingAddress]] = OrderedDict()
        self._counters = counters

    def __len__(self) -> int:
        return len(self.by_key)

    def add(self, key: Key, record: WaitingAddress, base: int) -> None:
        """Keep a record until its call comes; forget those for which it can't be found any more.

        Args:
            key: Its event.
            record: It.
            base: Where in the stream the buffer begins.
        """
        waiting = self.by_key
        waiting.setdefault(key, []).append(record)
        oldest = next(iter(waiting.values()))
        while oldest[0].end < base or len(waiting) > _MAX_WAITING or len(oldest) > _MAX_WAITING:
            self._give_up(waiting.popitem(last=False)[1])
            if not waiting:
                break
            oldest = next(iter(waiting.values()))

    def take(self, key: Key, *, is_enriched: bool) -> list[Saddr]:
        """What waited for a call that has come: of an ENRICHED one only what is whole, the rest is counted.

        Args:
            key: The event.
            is_enriched: Whether the call is in ENRICHED format.
        """
        saddrs = [record.saddr for record in self.by_key.pop(key, ())]
        if not is_enriched:
            return saddrs
        whole = [saddr for saddr in saddrs if is_whole(saddr)]
        self._counters.forged += len(saddrs) - len(whole)
        return whole

    def give_up(self) -> None:
        """Nothing more comes."""
        while self.by_key:
            self._give_up(self.by_key.popitem()[1])

    def _give_up(self, records: list[WaitingAddress]) -> None:
        garbled = sum(record.garbled for record in records)
        self._counters.garbled += garbled
        self._counters.unpaired += len(records) - garbled


def is_whole(saddr: Saddr) -> bool:
    """Whether a SOCKADDR has the whole part that auditd adds in ENRICHED format, saying the same address."""
    digits, tail = saddr
    try:
        if tail is None or len(digits) < MIN_DIGITS:
            return False
        return is_same_address(tail, *parse_sockaddr_hex(digits, big_endian=None))
    except DecodeError:
        return False
