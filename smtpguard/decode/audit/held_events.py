"""Events of ENRICHED logs, held back while a second SOCKADDR of their serial can still drop them. Pure."""

from operator import itemgetter
from typing import Any

_ENDLESS = 1 << 63

Event = list[Any]
"""A joined event: where in the stream it is complete, the call's descriptor and exit value, and the Connect; None in
place of that if the event was dropped. A bare list: it is made for each and every connect, and changed only if held."""


class HeldEvents:
    """Those events.

    Args:
        hold_bytes: How much more of the stream must have come before one goes out. 1 waits for the next line.

    Attributes:
        events: They, those that were dropped among them.
    """

    def __init__(self, hold_bytes: int) -> None:
        self.events: list[Event] = []
        self._hold = hold_bytes

    def __len__(self) -> int:
        return len(self.events)

    def drop(self, event: Event, begin: int) -> None:
        """Drop an event, unless the second address, which begins there in the stream, came too late for that."""
        if begin < event[0] + self._hold:
            event[3] = None

    def let_go(self, found: list[Event], limit: int | None) -> tuple[list[Event], list[Event]]:
        """What goes out, in the order of the stream, and which of it was held.

        Args:
            found: What was found and is not held.
            limit: How far the stream has come; None lets all go.
        """
        if not self.events:
            return found, []
        edge = _ENDLESS if limit is None else limit - self._hold
        free = [event for event in self.events if event[0] <= edge and event[3] is not None]
        self.events = [event for event in self.events if event[0] > edge]
        return sorted(found + free, key=itemgetter(0)), free
