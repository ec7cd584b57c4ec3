"""Counting in little memory what a tenant chooses: the most frequent values, and how many different ones."""

import math

BITS = 8192
FEW = 64
MOST_DISTINCT = 60_000
"""Beyond it the estimate is worth nothing: it then means "so many at least"."""


class TopCounts:
    """The most frequent of any number of values, in bounded memory (Metwally, Agrawal, El Abbadi: Space-Saving, 2005).

    A value beyond the capacity takes the place of the rarest one and inherits its count: a value that makes up more
    than 1/capacity of all is never missed, and no count is too low.

    Args:
        capacity: How many values are kept.
    """

    __slots__ = ("_capacity", "_counts")

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._counts: dict[bytes, int] = {}

    def add(self, value: bytes, many: int = 1) -> None:
        """Count a value."""
        counts = self._counts
        if value in counts:
            counts[value] += many
        elif len(counts) < self._capacity:
            counts[value] = many
        else:
            rarest = min(counts, key=counts.__getitem__)
            counts[value] = counts.pop(rarest) + many

    def top(self, many: int) -> tuple[tuple[bytes, int], ...]:
        """The most frequent values with their counts, most frequent first; ties by value."""
        return tuple(sorted(self._counts.items(), key=lambda item: (-item[1], item[0]))[:many])


class Distinct:
    """How many different values came: exactly up to some dozens, then about, in 1 kB (Whang: linear counting, 1990).

    Right within some percent up to some ten thousand. Python's hash of bytes is keyed per process (PEP 456), so nobody
    can choose values that collide.
    """

    __slots__ = ("_bits", "_few", "_set")

    def __init__(self) -> None:
        self._few: set[int] = set()
        self._bits: bytearray | None = None
        self._set = 0

    def add(self, value: bytes) -> None:
        """Note a value."""
        number = hash(value)
        if self._bits is not None:
            self._mark(self._bits, number)
            return
        self._few.add(number)
        if len(self._few) > FEW:
            self._bits = bytearray(BITS // 8)
            for known in self._few:
                self._mark(self._bits, known)
            self._few.clear()

    def count(self) -> int:
        """How many different values came, MOST_DISTINCT at most."""
        if self._bits is None:
            return len(self._few)
        unset = BITS - self._set
        return MOST_DISTINCT if unset == 0 else min(MOST_DISTINCT, round(-BITS * math.log(unset / BITS)))

    def _mark(self, bits: bytearray, number: int) -> None:
        place = number % BITS
        mask = 1 << (place & 7)
        if not bits[place >> 3] & mask:
            bits[place >> 3] |= mask
            self._set += 1
