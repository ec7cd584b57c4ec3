"""Sums over what was seen since the screen began, per user, script and destination; each kind is bounded. Pure."""

from collections import OrderedDict
from collections.abc import Iterator

from smtpguard.model import NS
from smtpguard.tui.sightings import Sighting

BEATS = 20
BEAT_NS = 3 * NS
"""The rate is shown over a minute, in steps of three seconds."""
MAX_USERS = 5_000
MAX_SCRIPTS = 5_000
MAX_PLACES = 10_000
MAX_KNOWN = 50
"""Users and ports that are remembered of one script or destination."""


class Sum:
    """What one user, script or destination did.

    Args:
        key: What it is the sum of.

    Attributes:
        seen, refused: Attempts.
        last: The latest of them.
        users: Names to uids of who made them, MAX_KNOWN at most; None for the uid of a container's.
        ports: Theirs, MAX_KNOWN at most.
    """

    __slots__ = ("_beats", "_newest", "key", "last", "ports", "refused", "seen", "users")

    def __init__(self, key: str) -> None:
        self.key = key
        self.seen = self.refused = 0
        self.last: Sighting | None = None
        self.users: dict[str, int | None] = {}
        self.ports: set[int] = set()
        self._beats = [0] * BEATS
        self._newest = 0

    def add(self, sighting: Sighting) -> None:
        """Count one attempt."""
        self.seen += 1
        self.refused += sighting.is_refused
        self.last = sighting
        if sighting.user not in self.users and len(self.users) < MAX_KNOWN:
            self.users[sighting.user] = sighting.account_uid
        if sighting.port not in self.ports and len(self.ports) < MAX_KNOWN:
            self.ports.add(sighting.port)
        beat = sighting.wall_ns // BEAT_NS
        if beat > self._newest:
            self._newest = self._turn(beat)
        if self._newest - beat < BEATS:
            self._beats[beat % BEATS] += 1

    def _turn(self, beat: int) -> int:
        for passed in range(max(self._newest + 1, beat - BEATS + 1), beat + 1):
            self._beats[passed % BEATS] = 0
        return beat

    def list_beats(self, now_ns: int) -> list[int]:
        """Attempts in each step of the last minute, the oldest first.

        Args:
            now_ns: Wall time.
        """
        now = now_ns // BEAT_NS
        return [
            self._beats[beat % BEATS] if self._newest - BEATS < beat <= self._newest else 0
            for beat in range(now - BEATS + 1, now + 1)
        ]

    def per_minute(self, now_ns: int) -> int:
        """Attempts of the last minute."""
        return sum(self.list_beats(now_ns))

    def copy(self) -> "Sum":
        """One that does not change any more."""
        other = Sum(self.key)
        other.seen, other.refused, other.last, other._newest = self.seen, self.refused, self.last, self._newest
        other.users, other.ports, other._beats = dict(self.users), set(self.ports), list(self._beats)
        return other


class Sums:
    """Sums by key; of too many, those go that were longest silent.

    Args:
        most: How many are kept.

    Attributes:
        forgotten: How many had to go.
    """

    def __init__(self, most: int) -> None:
        self.forgotten = 0
        self._most = most
        self._sums: OrderedDict[str, Sum] = OrderedDict()

    def add(self, key: str, sighting: Sighting) -> None:
        """Count one attempt for a key."""
        found = self._sums.get(key)
        if found is None:
            if len(self._sums) >= self._most:
                self._sums.popitem(last=False)
                self.forgotten += 1
            found = self._sums[key] = Sum(key)
        else:
            self._sums.move_to_end(key)
        found.add(sighting)

    def __iter__(self) -> Iterator[Sum]:
        """All of them."""
        return iter(self._sums.values())

    def get(self, key: str) -> Sum | None:
        """One; None where nothing was seen of it."""
        return self._sums.get(key)

    def copy(self) -> "Sums":
        """Ones that do not change any more."""
        other = Sums(self._most)
        other.forgotten = self.forgotten
        other._sums = OrderedDict((key, one.copy()) for key, one in self._sums.items())
        return other
