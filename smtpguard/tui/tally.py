"""Sums over what was seen since the screen began, per user, script and destination; each kind is bounded. Pure."""

from array import array
from collections import OrderedDict
from collections.abc import Iterator

from smtpguard.model import NS
from smtpguard.tui.sightings import Sighting

BEATS = 20
BEAT_NS = 3 * NS
"""The rate is shown over a minute, in steps of three seconds."""
_NO_BEATS = bytes(BEATS * array("I").itemsize)
MAX_USERS = 5_000
MAX_SCRIPTS = 5_000
MAX_PLACES = 10_000
MAX_KNOWN = 50
"""Users and ports that are remembered of one script or destination."""


class Sum:
    """What one user, script or destination did.

    Args:
        key: What it is the sum of.
        owner: Which Sums may change it; all others that hold it read only.

    Attributes:
        key, owner: As above.
        seen, refused: Attempts.
        last: The latest of them.
        users: Names to uids of who made them, MAX_KNOWN at most; None for the uid of a container's.
        ports: Theirs, MAX_KNOWN at most.
    """

    __slots__ = ("_beats", "_in_beats", "_newest", "key", "last", "owner", "ports", "refused", "seen", "users")

    def __init__(self, key: str, owner: object = None) -> None:
        self.key = key
        self.owner = owner
        self.seen = self.refused = 0
        self.last: Sighting | None = None
        self.users: dict[str, int | None] = {}
        self.ports: tuple[int, ...] = ()
        self._beats = array("I", _NO_BEATS)
        self._newest = self._in_beats = 0

    def add(self, sighting: Sighting) -> None:
        """Count one attempt."""
        self.seen += 1
        self.refused += sighting.is_refused
        self.last = sighting
        if sighting.user not in self.users and len(self.users) < MAX_KNOWN:
            self.users[sighting.user] = sighting.account_uid
        if sighting.port not in self.ports and len(self.ports) < MAX_KNOWN:
            self.ports += (sighting.port,)
        beat = sighting.wall_ns // BEAT_NS
        if beat > self._newest:
            self._newest = self._turn(beat)
        if self._newest - beat < BEATS:
            self._beats[beat % BEATS] += 1
            self._in_beats += 1

    def _turn(self, beat: int) -> int:
        for passed in range(max(self._newest + 1, beat - BEATS + 1), beat + 1):
            self._in_beats -= self._beats[passed % BEATS]
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
        if self._newest == now_ns // BEAT_NS:  # of most that are busy; 10,000 of them are sorted by it
            return self._in_beats
        return sum(self.list_beats(now_ns))

    def copy(self, owner: object) -> "Sum":
        """One that another may change."""
        other = Sum(self.key, owner)
        other.seen, other.refused, other.last, other.ports = self.seen, self.refused, self.last, self.ports
        other.users, other._beats = dict(self.users), self._beats[:]
        other._newest, other._in_beats = self._newest, self._in_beats
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
        self._owner = object()

    def add(self, key: str, sighting: Sighting) -> None:
        """Count one attempt for a key."""
        found = self._sums.get(key)
        if found is None:
            if len(self._sums) >= self._most:
                self._sums.popitem(last=False)
                self.forgotten += 1
            found = self._sums[key] = Sum(key, self._owner)
        else:
            if found.owner is not self._owner:
                found = self._sums[key] = found.copy(self._owner)
            self._sums.move_to_end(key)
        found.add(sighting)

    def __iter__(self) -> Iterator[Sum]:
        """All of them."""
        return iter(self._sums.values())

    def get(self, key: str) -> Sum | None:
        """One; None where nothing was seen of it."""
        return self._sums.get(key)

    def copy(self) -> "Sums":
        """Ones that do not change with these; a sum is shared until one of both counts on it (10,000: 1 ms, not 60)."""
        other = Sums(self._most)
        other.forgotten = self.forgotten
        other._sums = self._sums.copy()
        self._owner = object()
        return other
