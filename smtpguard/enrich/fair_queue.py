"""Who may ask how often, and whose question is next: budgets and round-robin queues, bounded. Pure.

Shared by the enrichers. One tenant's flood of questions costs that tenant their own answers, nobody else's (THREATS
12, 15). A key is the uid that is charged: the owner, for a subordinate uid.
"""

from collections import Counter, OrderedDict, deque
from typing import Generic, Protocol, TypeVar

from smtpguard.model import NS

Item = TypeVar("Item")


class MayBeServed(Protocol):
    """Says whose turn it may be."""

    def __call__(self, key: int, /) -> bool:
        """Whether a key may be served now."""
        ...


class Budget:
    """At most so many grants in any second, per key and in all; exact, not a fixed window.

    Memory is bounded by `total`: only grants of the last second are remembered.

    Args:
        per_key: Grants a second for one key.
        total: Grants a second in all.
        window_ns: The second.
        keep_some: Whether a key gets at most as many as half of what is left, so that a few keys that use up all they
            may leave the next one some; else they can take all there is.
    """

    def __init__(self, *, per_key: int, total: int, window_ns: int = NS, keep_some: bool = False) -> None:
        self._per_key = per_key
        self._total = total
        self._window_ns = window_ns
        self._keep_some = keep_some
        self._grants: deque[tuple[int, int]] = deque()
        self._held: Counter[int] = Counter()

    def grant(self, key: int, now_ns: int) -> bool:
        """Whether this one may go on; a refusal costs nothing.

        Args:
            key: Whom to charge.
            now_ns: Any clock that does not go back.
        """
        while self._grants and self._grants[0][0] <= now_ns - self._window_ns:
            _, old = self._grants.popleft()
            self._held[old] -= 1
            if not self._held[old]:
                del self._held[old]
        left, held = self._total - len(self._grants), self._held[key]
        if left <= 0 or held >= self._per_key or (self._keep_some and 2 * held >= left):
            return False
        self._grants.append((now_ns, key))
        self._held[key] += 1
        return True


class FairQueue(Generic[Item]):
    """First in, first out for one key; round robin between keys; bounded per key and in all.

    Args:
        per_key: How many may wait for one key.
        total: How many may wait in all.
    """

    def __init__(self, *, per_key: int, total: int) -> None:
        self._per_key = per_key
        self._total = total
        self._size = 0
        self._lines: OrderedDict[int, deque[Item]] = OrderedDict()

    def __len__(self) -> int:
        return self._size

    def push(self, key: int, item: Item) -> bool:
        """Wait in the key's line; False if there is no room, and nothing was kept."""
        line = self._lines.get(key)
        if self._size >= self._total or (line is not None and len(line) >= self._per_key):
            return False
        if line is None:
            line = self._lines[key] = deque()
        line.append(item)
        self._size += 1
        return True

    def make_room(self, key: int) -> tuple[int, Item] | None:
        """Take the newest item out of the longest line, if the key's line is shorter by two or more; None if not.

        For a key that finds the queue full: those who filled it have more than their share.
        """
        own = len(self._lines.get(key, ()))
        longest = max(self._lines, key=lambda other: len(self._lines[other]), default=key)
        if len(self._lines.get(longest, ())) < own + 2:
            return None
        item = self._lines[longest].pop()
        self._size -= 1
        return longest, item

    def pop(self, *, may: MayBeServed = lambda _key: True) -> tuple[int, Item] | None:
        """The next item of the key that has waited longest for its turn; None if nobody may.

        Args:
            may: Whether it can be this key's turn now; others keep their place.
        """
        for key in self._lines:
            if may(key):
                break
        else:
            return None
        line = self._lines[key]
        item = line.popleft()
        self._size -= 1
        if line:
            self._lines.move_to_end(key)
        else:
            del self._lines[key]
        return key, item

    def discard(self, key: int, item: Item) -> None:
        """Take an item out of the key's line; nothing there is fine."""
        line = self._lines.get(key)
        if line is None or item not in line:
            return
        line.remove(item)
        self._size -= 1
        if not line:
            del self._lines[key]
