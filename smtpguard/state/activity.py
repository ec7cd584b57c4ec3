"""Who connected where, summed up in memory between two writes. Pure.

Figures per user and minute are exact. Where a user went (address, port, script) is bounded: each user has so many
places between two writes, all of them together so many; what goes beyond is still in the figures, and is counted.
"""

from dataclasses import dataclass

from smtpguard.settings import DAY_NS, MINUTE_NS
from smtpguard.state import statements
from smtpguard.state.columns import Statement

MAX_PLACES_PER_USER = 500
MAX_PLACES = 20_000
MAX_USERS = 20_000
MAX_SCRIPT_BYTES = 512


@dataclass(slots=True)
class _Minute:
    connects: int = 0
    refused: int = 0
    messages: int = 0
    recipients: int = 0


@dataclass(slots=True)
class _Place:
    first_ns: int
    last_ns: int
    connects: int = 0
    refused: int = 0


class Tally:
    """The sums.

    Attributes:
        dropped: Places, and figures of users beyond the bound, that were not kept.
    """

    __slots__ = ("_minutes", "_places", "_places_of", "_seen", "dropped")

    def __init__(self) -> None:
        self._minutes: dict[tuple[int, int], _Minute] = {}
        self._places: dict[tuple[int, int, bytes, int, bytes], _Place] = {}
        self._places_of: dict[int, int] = {}
        self._seen: dict[tuple[int, int], int] = {}
        self.dropped = 0

    def add_connect(
        self, uid: int, *, wall_ns: int, address: bytes, port: int, script: bytes | None, refused: bool
    ) -> None:
        """Count one attempt.

        Args:
            uid: Whose.
            wall_ns: When, nanoseconds since the epoch.
            address: Where to, 4 or 16 bytes.
            port: Which port.
            script: By which script; None if not known.
            refused: Whether it was refused.
        """
        minute = self._minute(uid, wall_ns)
        if minute is None:
            return
        minute.connects += 1
        minute.refused += refused
        self._seen[uid, port] = max(wall_ns, self._seen.get((uid, port), 0))
        place = self._place(uid, wall_ns, address, port, (script or b"")[:MAX_SCRIPT_BYTES])
        if place is None:
            return
        place.connects += 1
        place.refused += refused
        place.last_ns = max(place.last_ns, wall_ns)

    def add_message(self, uid: int, *, wall_ns: int, recipients: int) -> None:
        """Count one mail handed to the local server."""
        minute = self._minute(uid, wall_ns)
        if minute is not None:
            minute.messages += 1
            minute.recipients += recipients

    def take(self) -> list[Statement]:
        """The sums as statements for `StateWriter.add_activity`; begins anew."""
        rows = [
            statements.add_minute(
                minute, uid, connects=m.connects, refused=m.refused, messages=m.messages, recipients=m.recipients
            )
            for (minute, uid), m in self._minutes.items()
        ]
        rows += [statements.put_seen(uid, port, last_ns) for (uid, port), last_ns in self._seen.items()]
        rows += [
            statements.add_destination(
                day, uid, address, port, script, first_ns=p.first_ns, last_ns=p.last_ns, connects=p.connects,
                refused=p.refused,
            )
            for (day, uid, address, port, script), p in self._places.items()
        ]  # fmt: skip
        for sums in (self._minutes, self._places, self._places_of, self._seen):
            sums.clear()
        return rows

    def _minute(self, uid: int, wall_ns: int) -> _Minute | None:
        key = (wall_ns // MINUTE_NS, uid)
        minute = self._minutes.get(key)
        if minute is None:
            if len(self._minutes) >= MAX_USERS:
                self.dropped += 1
                return None
            minute = self._minutes[key] = _Minute()
        return minute

    def _place(self, uid: int, wall_ns: int, address: bytes, port: int, script: bytes) -> _Place | None:
        key = (wall_ns // DAY_NS, uid, address, port, script)
        place = self._places.get(key)
        if place is None:
            count = self._places_of.get(uid, 0)
            if count >= MAX_PLACES_PER_USER or len(self._places) >= MAX_PLACES:
                self.dropped += 1
                return None
            self._places_of[uid] = count + 1
            place = self._places[key] = _Place(first_ns=wall_ns, last_ns=wall_ns)
        return place
