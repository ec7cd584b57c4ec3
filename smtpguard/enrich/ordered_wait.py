"""Events whose log line waits for what enrichers find out: in order, for a bounded time, in a bounded number. Pure.

Lines leave in the order in which the events came. An item leaves when everything it waits for has come or its time
is over; because all wait equally long, a look that never ends delays no line, its own or another's, by more than
`wait_ns`. The verdict does not wait at all: only the line does.
"""

import itertools
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Item = TypeVar("Item")
Value = TypeVar("Value")

WAIT_NS = 50_000_000
"""How long a line waits: half of the 100 ms within which CONTRACT wants it written."""
MAX_ITEMS = 4096
"""Waiting at once. At 5,000 events a second 50 ms hold 250; more than that is a flood, and lines leave early."""


next_ticket = itertools.count(1).__next__
"""A number for a question, unique in this process, so that several enrichers' answers can meet in one line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready(Generic[Item, Value]):
    """An item whose line can be written.

    Attributes:
        item: As it was added.
        values: What came for it, by ticket; what did not come in time is absent.
    """

    item: Item
    values: dict[int, Value]


@dataclass(slots=True)
class _WaitingItem(Generic[Item, Value]):
    """An item, and what it still waits for."""

    item: Item
    due_ns: int
    want: list[int]  # two at most, and a set takes 216 bytes
    values: dict[int, Value] = field(default_factory=dict)


class OrderedWait(Generic[Item, Value]):
    """The waiting line.

    Args:
        wait_ns: Longest wait of one item.
        max_items: Most items waiting; what is above leaves early, oldest first, at the next `due`, and is counted.

    Attributes:
        early: Items that left before their time for want of room.
        late: Items that left at their deadline with something still missing.
    """

    def __init__(self, *, wait_ns: int = WAIT_NS, max_items: int = MAX_ITEMS) -> None:
        self.early = 0
        self.late = 0
        self._wait_ns = wait_ns
        self._max_items = max_items
        self._entries: deque[_WaitingItem[Item, Value]] = deque()
        self._by_ticket: dict[int, _WaitingItem[Item, Value]] = {}
        self._forced = 0

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, item: Item, want: Iterable[int], now_ns: int) -> None:
        """Put an item at the end of the line.

        Args:
            item: What is to be written.
            want: Tickets it waits for; none lets it leave as soon as those before it have left.
            now_ns: Any clock that does not go back.
        """
        entry: _WaitingItem[Item, Value] = _WaitingItem(item, now_ns + self._wait_ns, list(want))
        self._entries.append(entry)
        for ticket in entry.want:
            self._by_ticket[ticket] = entry
        if len(self._entries) > self._max_items:
            self._forced = len(self._entries) - self._max_items

    def resolve(self, ticket: int, value: Value) -> None:
        """Something that was asked has come; a ticket nobody waits for (any more) is ignored."""
        entry = self._by_ticket.pop(ticket, None)
        if entry is not None:
            entry.want.remove(ticket)
            entry.values[ticket] = value

    def due(self, now_ns: int) -> list[Ready[Item, Value]]:
        """What can be written now, in order of arrival.

        Args:
            now_ns: The clock of `add`.
        """
        ready: list[Ready[Item, Value]] = []
        while self._entries:
            head = self._entries[0]
            if head.want and head.due_ns > now_ns and not self._forced:
                break
            self._entries.popleft()
            if head.want:
                if head.due_ns <= now_ns:
                    self.late += 1
                else:
                    self.early += 1
                for ticket in head.want:
                    del self._by_ticket[ticket]
            self._forced = max(0, self._forced - 1)
            ready.append(Ready(item=head.item, values=head.values))
        return ready

    def next_deadline(self) -> int | None:
        """When `due` has something even if nothing comes; None with an empty line."""
        return self._entries[0].due_ns if self._entries else None

    def flush(self) -> list[Ready[Item, Value]]:
        """Everything, now: the daemon stops."""
        self._forced = len(self._entries)
        return self.due(0)
