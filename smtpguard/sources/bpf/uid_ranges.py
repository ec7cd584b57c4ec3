"""Denied uid ranges as an LPM trie: several holders may cover one uid, and the trie answers with one prefix only.

A trie finds the longest prefix, so the value written at each prefix is the latest end of every holder that covers it,
through this prefix or a shorter one.
"""

from bisect import bisect_left, insort
from collections.abc import Hashable, Iterable

from smtpguard.sources.bpf.maps import pack_denied_prefix, pack_ends, split_range
from smtpguard.sources.bpf.objects import Map

Prefix = tuple[int, int]
Ends = tuple[int, int]


class UidRanges:
    """One port's part of the trie `deny_ranges` and who put what into it. Raises BpfError, E2BIG when it is full.

    Args:
        table: The trie.
        port: The port; None for what is refused all of them.
    """

    def __init__(self, table: Map, port: int | None = None) -> None:
        self._table = table
        self._port = port
        self._held: dict[Prefix, dict[Hashable, Ends]] = {}
        self._sorted: list[Prefix] = []
        self._prefixes: dict[Hashable, frozenset[Prefix]] = {}

    def put(self, holder: Hashable, ranges: Iterable[tuple[int, int]], ends: Ends) -> None:
        """Let a holder's refusal cover exactly these ranges, until these ends; (0, 0) takes it away.

        Args:
            holder: Whose it is.
            ranges: (first, count).
            ends: CLOCK_BOOTTIME end of block and of throttle.
        """
        before = self._prefixes.get(holder, frozenset())
        after = frozenset(p for first, count in ranges for p in split_range(first, count)) if any(ends) else frozenset()
        for prefix in before - after:
            self._drop(prefix, holder)
        for prefix in after:
            if prefix not in self._held:
                self._held[prefix] = {}
                insort(self._sorted, prefix)
            self._held[prefix][holder] = ends
        if after:
            self._prefixes[holder] = after
        else:
            self._prefixes.pop(holder, None)
        for prefix in before | after:
            self._write(prefix)
            for inner in self._inside(prefix):
                self._write(inner)

    def _drop(self, prefix: Prefix, holder: Hashable) -> None:
        holders = self._held[prefix]
        del holders[holder]
        if not holders:
            del self._held[prefix]
            del self._sorted[bisect_left(self._sorted, prefix)]

    def _inside(self, prefix: Prefix) -> list[Prefix]:
        first, bits = prefix
        start = bisect_left(self._sorted, prefix)
        end = bisect_left(self._sorted, (first + (1 << (32 - bits)), 0))
        return [inner for inner in self._sorted[start:end] if inner[1] > bits]

    def _write(self, prefix: Prefix) -> None:
        key = pack_denied_prefix(*prefix, self._port)
        if prefix not in self._held:
            self._table.delete(key)
            return
        uid, bits = prefix
        block = throttle = 0
        for shorter in range(bits + 1):
            outer = (uid >> (32 - shorter) << (32 - shorter), shorter)
            for held_block, held_throttle in self._held.get(outer, {}).values():
                block, throttle = max(block, held_block), max(throttle, held_throttle)
        self._table.update(key, pack_ends(block, throttle))
