"""Who connected where, summed up in memory between two writes. Pure.

Figures per user and minute are exact. Where a user went (address, port, script), what became of it and from which of
the host's own addresses is bounded: each user has so many places between two writes, all of them together so many;
what goes beyond is still in the figures, and is counted. Where more than MANY are held their rows are taken early: the
sums of a place take twice the memory of its row, and a thousand users that begin at once would make that megabytes.
Whoever goes on after that has two rows of one place, so the next time comes later where those are many.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

from smtpguard.settings import HOUR_NS, MINUTE_NS
from smtpguard.state import statements
from smtpguard.state.columns import Statement

Key = TypeVar("Key")
Sums = TypeVar("Sums")
MANY = 800
"""Places, and outcomes at places; LATER times as many the next time if half of those users were taken before, ..."""
LATER = 4
MAX_FEW = 50
"""... or one of them used more than so many places of their share."""
MAX_PLACES_PER_USER = 500
MAX_PLACES = 20_000
MAX_USERS = 20_000
MAX_SCRIPT_BYTES = 512
MAX_OWN_PER_USER = 64
MAX_ROWS = 100_000
"""Rows made ready while a log of many days is learned, or the clock is set back and forth."""


class _User:
    """What one user did since the last write.

    Attributes:
        minutes: Attempts, refused ones, messages and recipients of each minute.
        places: First and last time, attempts and refused ones by (address, port, script).
        seen: When each port was last used.
        early: How many places of theirs were taken early since the last write.
    """

    __slots__ = ("early", "minutes", "places", "seen")

    def __init__(self, early: int) -> None:
        self.early = early
        self.minutes: dict[int, list[int]] = {}
        self.places: dict[tuple[bytes, int, bytes], list[int]] = {}
        self.seen: dict[int, int] = {}


@dataclass(slots=True)
class _Outcome:
    """What became of connections."""

    connected: int = 0
    failed: int = 0
    error: str | None = None
    error_ns: int = 0


@dataclass(slots=True)
class _Own:
    """Connections from one of the host's own addresses."""

    connected: int = 0
    failed: int = 0
    first_ns: int = 0
    last_ns: int = 0


class Tally:
    """The sums.

    Attributes:
        held: Places, and outcomes at places, that are summed up now ...
        many: ... and with how many of them it is time for `take_early`.
        dropped: Places, and figures of users beyond the bound, that were not kept.
    """

    __slots__ = (
        "_early",
        "_hour",
        "_kept",
        "_outcomes",
        "_outcomes_of",
        "_own",
        "_places",
        "_rows",
        "_users",
        "dropped",
        "held",
        "many",
    )

    def __init__(self) -> None:
        self._hour = 0
        self._users: dict[int, _User] = {}
        self._places = 0
        self._outcomes: dict[tuple[int, int, bytes, int], _Outcome] = {}
        self._outcomes_of: dict[tuple[str, int], int] = {}
        self._own: dict[tuple[int, int, bytes], _Own] = {}
        self._rows: list[Statement] = []
        # Since the last write: outcomes and own addresses of all, and each user's places that were taken early.
        self._kept = {"outcomes": 0, "own": 0}
        self._early: dict[int, int] = {}
        self.held = 0
        self.many = MANY
        self.dropped = 0

    def add_connect(
        self,
        uid: int,
        *,
        wall_ns: int,
        address: bytes,
        port: int,
        script: bytes | None,
        refused: bool,
        is_counted: bool = True,
    ) -> None:
        """Count one attempt. On the way of every attempt: some 2 us.

        Args:
            uid: Whose.
            wall_ns: When, nanoseconds since the epoch.
            address: Where to, 4 or 16 bytes.
            port: Which port.
            script: By which script; None if not known.
            refused: Whether it was refused.
            is_counted: Whether the rules count it: who went to exempt destinations only is new to `novel` rules still.
        """
        user = self._users.get(uid)
        if user is None or wall_ns // HOUR_NS != self._hour:
            user = self._find(uid, wall_ns)
            if user is None:
                return
        minute = user.minutes.get(wall_ns // MINUTE_NS)
        if minute is None:
            minute = user.minutes[wall_ns // MINUTE_NS] = [0, 0, 0, 0]
        minute[0] += 1
        minute[1] += refused
        if is_counted and not refused and wall_ns > user.seen.get(port, 0):
            user.seen[port] = wall_ns
        key = (address, port, script[:MAX_SCRIPT_BYTES] if script else b"")
        place = user.places.get(key)
        if place is None:
            if self._places >= MAX_PLACES or len(user.places) + user.early >= MAX_PLACES_PER_USER:
                self.dropped += 1
                return
            self._places += 1
            self.held += 1
            user.places[key] = [wall_ns, wall_ns, 1, int(refused)]
            return
        if wall_ns > place[1]:
            place[1] = wall_ns
        elif wall_ns < place[0]:
            place[0] = wall_ns
        place[2] += 1
        place[3] += refused

    def add_outcome(
        self, uid: int, *, wall_ns: int, address: bytes, port: int, own: bytes | None, error: str | None
    ) -> None:
        """Count what became of an attempt that was let through.

        Args:
            uid: Whose.
            wall_ns: When that was known.
            address: Where to, 4 or 16 bytes.
            port: Which port.
            own: From which address of the host; None if not known.
            error: How it failed; None if it was connected.
        """
        if own is not None:
            self._add_own(uid, own, wall_ns, is_connected=error is None)
        outcome_key = (wall_ns // HOUR_NS, uid, address, port)
        outcome = self._outcomes.get(outcome_key)
        if outcome is None:
            if not self._has_room("outcomes", uid, MAX_PLACES_PER_USER):
                return
            self.held += 1
            outcome = self._outcomes[outcome_key] = _Outcome()
        if error is None:
            outcome.connected += 1
        else:
            outcome.failed += 1
            if wall_ns >= outcome.error_ns:
                outcome.error, outcome.error_ns = error, wall_ns

    def add_message(self, uid: int, *, wall_ns: int, recipients: int) -> None:
        """Count one mail handed to the local server."""
        user = self._find(uid, wall_ns)
        if user is not None:
            minute = user.minutes.setdefault(wall_ns // MINUTE_NS, [0, 0, 0, 0])
            minute[2] += 1
            minute[3] += recipients

    def take(self) -> list[Statement]:
        """The sums as statements for `StateWriter.add_activity`; begins anew. What is most precious comes first."""
        rows = self.take_early()
        self._places = 0
        self._kept = dict.fromkeys(self._kept, 0)
        self.many = MANY
        for shares in (self._outcomes_of, self._early):
            shares.clear()
        return rows

    def take_early(self) -> list[Statement]:
        """The same before it is time to write: what everybody has used of their share stays used until then."""
        places = self._places
        self._early |= {uid: user.early + len(user.places) for uid, user in self._users.items()}
        used = [self._early[uid] for uid, user in self._users.items() if user.early]
        if 2 * len(used) >= len(self._users) or max(used, default=0) > MAX_FEW:
            self.many *= LATER
        self._end_hour()
        self._places, self.held = places, 0
        rows, self._rows = self._rows, []
        outcomes, own_addresses = self._outcomes, self._own
        self._outcomes, self._own = {}, {}  # an emptied dict keeps its table
        rows += [
            statements.add_outcome(
                hour, uid, address, port, connected=o.connected, failed=o.failed, error=o.error, error_ns=o.error_ns
            )
            for (hour, uid, address, port), o in _drain(outcomes)
        ]
        rows += [
            statements.add_own_address(
                hour, uid, address, connected=o.connected, failed=o.failed, first_ns=o.first_ns, last_ns=o.last_ns
            )
            for (hour, uid, address), o in _drain(own_addresses)
        ]
        return rows

    def _add_own(self, uid: int, address: bytes, wall_ns: int, *, is_connected: bool) -> None:
        """Count a connection for the address it came from."""
        key = (wall_ns // HOUR_NS, uid, address)
        place = self._own.get(key)
        if place is None:
            if not self._has_room("own", uid, MAX_OWN_PER_USER):
                return
            place = self._own[key] = _Own(first_ns=wall_ns)
        if is_connected:
            place.connected += 1
        else:
            place.failed += 1
        place.first_ns = min(place.first_ns, wall_ns)
        place.last_ns = max(place.last_ns, wall_ns)

    def _find(self, uid: int, wall_ns: int) -> _User | None:
        """A user's sums of an attempt's hour; None if there are too many users."""
        hour = wall_ns // HOUR_NS
        if hour != self._hour:
            self._end_hour()
            self._hour = hour
        user = self._users.get(uid)
        if user is None:
            if len(self._users) >= MAX_USERS or len(self._rows) > MAX_ROWS:
                self.dropped += 1
                return None
            user = self._users[uid] = _User(self._early.get(uid, 0))
        return user

    def _end_hour(self) -> None:
        """Make statements of the sums of one hour."""
        users, self._users, self._places = self._users, {}, 0
        self._rows += [
            statements.add_minute(minute, uid, connects=sums[0], refused=sums[1], messages=sums[2], recipients=sums[3])
            for uid, user in users.items()
            for minute, sums in user.minutes.items()
        ]
        self._rows += [
            statements.put_seen(uid, port, last_ns)
            for uid, user in users.items()
            for port, last_ns in user.seen.items()
        ]
        self._rows += [
            statements.add_destination(
                self._hour, uid, *key, first_ns=sums[0], last_ns=sums[1], connects=sums[2], refused=sums[3]
            )
            for uid, user in _drain(users)
            for key, sums in _drain(user.places)
        ]

    def _has_room(self, what: str, uid: int, share: int) -> bool:
        """Whether one more of a user's may be kept; counted either way."""
        count = self._outcomes_of.get((what, uid), 0)
        if count >= share or self._kept[what] >= MAX_PLACES:
            self.dropped += 1
            return False
        self._outcomes_of[what, uid] = count + 1
        self._kept[what] += 1
        return True


def _drain(sums: dict[Key, Sums]) -> Iterator[tuple[Key, Sums]]:
    """All of some sums, each gone before the next one: their rows take the room that they give back."""
    while sums:
        yield sums.popitem()
