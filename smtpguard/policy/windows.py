"""What one subject did, as sorted times: the substance of sliding windows. Holds and counts, decides nothing.

A window of length W at time t holds what came in (t - W, t]. Times are event times in nanoseconds. Nothing here
asks for the clock; "now" is the newest time that was put in.
"""

from array import array
from bisect import bisect_right, insort_right

from smtpguard.policy.compiled_rules import Needs, TableKey
from smtpguard.policy.networks import network_of

NEVER = -(1 << 63)
"""Before every event time."""
FOREVER = (1 << 63) - 1
"""After every event time."""
FIRST_CAP = 64
"""How many entries a lane or table may take before its size is looked at: most users never fill it."""


class Bounds:
    """How much all windows together may hold beyond a first FIRST_CAP entries each, and what was dropped to keep to it.

    A holder that grows while the whole is full drops its own oldest entries down to its fair share, never another's:
    so a tenant can shorten no window but their own.

    Args:
        times_max: Times in all lanes; 8 bytes each.
        keys_max: Addresses and networks in all tables; about 200 bytes each.

    Attributes:
        times, keys: What is held now, in lanes and tables that hold more than FIRST_CAP.
        dropped: How many entries were given up.
        known_ns: Since when it is known who sends, for rules with `novel`; always, unless somebody says so.
    """

    __slots__ = ("dropped", "keys", "keys_max", "known_ns", "large_lanes", "large_tables", "times", "times_max")

    def __init__(self, *, times_max: int, keys_max: int) -> None:
        self.times_max = times_max
        self.keys_max = keys_max
        self.times = self.keys = 0
        self.large_lanes = self.large_tables = 0
        self.dropped = 0
        self.known_ns = NEVER

    def resize_lane(self, old: int, new: int) -> int:
        """A lane wants room for so many times: how many it may have."""
        before, after = old > FIRST_CAP, new > FIRST_CAP
        self.large_lanes += after - before
        self.times -= old * before
        if self.times + new * after > self.times_max:
            new = min(new, max(self.times_max // max(1, self.large_lanes), FIRST_CAP))
            self.large_lanes += (new > FIRST_CAP) - after
        self.times += new * (new > FIRST_CAP)
        return new

    def resize_table(self, old: int, new: int) -> int:
        """A table wants room for so many keys: how many it may have."""
        before, after = old > FIRST_CAP, new > FIRST_CAP
        self.large_tables += after - before
        self.keys -= old * before
        if self.keys + new * after > self.keys_max:
            new = min(new, max(self.keys_max // max(1, self.large_tables), FIRST_CAP))
            self.large_tables += (new > FIRST_CAP) - after
        self.keys += new * (new > FIRST_CAP)
        return new


class Lane:
    """Times of one subject's attempts on one port, sorted.

    Only what a rule can still ask for is kept.

    Attributes:
        times: Event times, ascending.
        base: How many entries were dropped from the front since the beginning; `base + len(times)` is the total.
        cap: Size at which `trim` is due.
        needs: What its rules can ask for.
        disturbed: Whether a late time came in between others since this was last cleared.
    """

    __slots__ = ("base", "cap", "disturbed", "needs", "times")

    def __init__(self, needs: Needs) -> None:
        self.times = array("q")
        self.base = 0
        self.cap = FIRST_CAP
        self.needs = needs
        self.disturbed = False

    def release(self, bounds: Bounds) -> None:
        """Give back what was taken from the bounds; the lane is not used any more."""
        bounds.resize_lane(self.cap, 0)

    def insert(self, time_ns: int, newest_ns: int, bounds: Bounds) -> None:
        """Put a time where it belongs; one that no window reaches any more is left out."""
        times = self.times
        if not times or time_ns >= times[-1]:
            times.append(time_ns)
        elif time_ns > newest_ns - self.needs.reach_ns:
            insort_right(times, time_ns)
            self.disturbed = True
        if len(times) >= self.cap:
            self.trim(newest_ns, bounds)

    def take_over(self, other: "Lane", bounds: Bounds) -> None:
        """Begin with what another lane held."""
        self.times.extend(other.times)
        self.base = other.base
        if len(self.times) >= self.cap:
            self.trim(self.times[-1], bounds)

    def trim(self, newest_ns: int, bounds: Bounds) -> None:
        """Drop what no rule can ask for, then make room for as many again as are left."""
        times = self.times
        self._drop(max(bisect_right(times, newest_ns - self.needs.reach_ns), len(times) - self.needs.newest))
        wanted = max(2 * len(times), FIRST_CAP)
        self.cap = bounds.resize_lane(self.cap, wanted)
        if self.cap < wanted:
            bounds.dropped += self._drop(len(times) - self.cap // 2)

    def _drop(self, many: int) -> int:
        many = max(0, many)
        if many:
            del self.times[:many]
            self.base += many
        return many


class KeyTable:
    """Distinct addresses or networks of one subject on a set of ports, each with the time of its last attempt.

    Attributes:
        keys: Key to the event time of its last attempt.
        place: Whether keys are whole addresses, and of which ports.
        cap: Number of keys at which `trim` is due.
        needs: What its rules can ask for.
        shortest_ns: The shortest of their windows.
        floor_ns: The latest time at which a window of these rules was emptied.
        room, granted: No rule of this table can be exceeded by this many further keys (and were so at the last
            look) ...
        recheck_ns: ... before this event time.
    """

    __slots__ = ("cap", "floor_ns", "granted", "keys", "needs", "place", "recheck_ns", "room", "shortest_ns")

    def __init__(self, place: TableKey, needs: Needs) -> None:
        self.keys: dict[bytes, int] = {}
        self.place = place
        self.cap = FIRST_CAP
        self.needs = needs
        self.shortest_ns = needs.shortest_ns
        self.floor_ns = NEVER
        self.room = self.granted = 0
        self.recheck_ns = NEVER

    @property
    def whole(self) -> bool:
        """Whether keys are whole addresses; else networks."""
        return self.place[0]

    def release(self, bounds: Bounds) -> None:
        """Give back what was taken from the bounds; the table is not used any more."""
        bounds.resize_table(self.cap, 0)

    def spent(self) -> int:
        """How many keys came in since the last look."""
        return self.granted - self.room

    def key(self, address: bytes) -> bytes:
        """What an address counts as."""
        return address if self.place[0] else network_of(address)

    def take_over(self, other: "KeyTable", bounds: Bounds) -> None:
        """Begin with what another table held."""
        self.keys = dict(other.keys)
        if len(self.keys) >= self.cap:
            self.trim(max(self.keys.values()), bounds)

    def ordered(self) -> list[int]:
        """The times of all keys, ascending."""
        return sorted(self.keys.values())

    def insert(self, key: bytes, time_ns: int, newest_ns: int, bounds: Bounds) -> None:
        """Note an attempt; a late one never makes a key older."""
        last = self.keys.get(key)
        if last is None or time_ns > last:
            self.keys[key] = time_ns
            if last is None and len(self.keys) >= self.cap:
                self.trim(newest_ns, bounds)

    def trim(self, newest_ns: int, bounds: Bounds) -> None:
        """Drop what no rule can ask for, then make room for as many again as are left."""
        self._keep(newest_ns - self.needs.reach_ns, self.needs.newest)
        wanted = max(2 * len(self.keys), FIRST_CAP)
        self.cap = bounds.resize_table(self.cap, wanted)
        if self.cap < wanted:
            before = len(self.keys)
            self._keep(NEVER, self.cap // 2)
            bounds.dropped += before - len(self.keys)

    def _keep(self, edge_ns: int, newest: int) -> None:
        """Keep the keys later than the edge, and of these the newest ones (all of the last equal time)."""
        if len(self.keys) > newest:
            edge_ns = max(edge_ns, self.ordered()[-newest] - 1)
        self.keys = {key: last for key, last in self.keys.items() if last > edge_ns}


def note_keys(tables: tuple[KeyTable, ...], address: bytes, time_ns: int) -> bool:
    """Note an attempt that came in order in all tables, if none of their rules can be exceeded by it; else in none."""
    keyed = [(table, table.key(address)) for table in tables]
    fresh: list[KeyTable] = []
    for table, key in keyed:
        last_ns = table.keys.get(key, NEVER)
        if last_ns <= time_ns - table.shortest_ns or last_ns <= table.floor_ns:
            if table.room <= 0 or time_ns >= table.recheck_ns:
                return False
            fresh.append(table)
    for table in fresh:
        table.room -= 1
    for table, key in keyed:
        table.keys[key] = time_ns
    return True
