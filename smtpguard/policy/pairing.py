"""Several sensors at once, one connection counted once. Pure.

One sensor leads and counts. What the others see is paired with it one to one, by destination and port within a second;
the uid is not compared, because sensors differ in whose it is (the caller's, the socket creator's). Only what stays
unpaired is handed over, when its second is over: a connection that the leader did not see, labelled by who did.

Reports of one destination and port pair in the order in which they come: two connections there within a second are
alike for every rule, so which report belongs to which does not matter, and a flood costs no search.
"""

from collections import deque
from collections.abc import Iterable

from smtpguard.model import NS, Connect

WITHIN_NS = NS
MAX_HELD = 100_000
"""Connections held for pairing: ten seconds at 10,000 a second. Beyond that the oldest are let go early."""

Key = tuple[int, bytes]


class _Seen:
    """One connection, as far as sensors have told of it."""

    __slots__ = ("connect", "counted", "sensors")

    def __init__(self, connect: Connect, *, counted: bool) -> None:
        self.connect = connect
        self.sensors = {connect.sensor}
        self.counted = counted


class Pairing:
    """Pairs what sensors see.

    Args:
        sensors: Names of all that run.
        within_ns: How far apart two reports of one connection may be.
        max_held: Most connections held.

    Attributes:
        paired: Reports that were of a connection known already.
        unpaired: Connections that the leader did not see, handed over by `tick`.
        early: Of these, how many were handed over before their second was over, for want of room.
    """

    def __init__(self, sensors: Iterable[str], *, within_ns: int = WITHIN_NS, max_held: int = MAX_HELD) -> None:
        self._sensors = tuple(sensors)
        self._within_ns = within_ns
        self._max_held = max_held
        self._open: dict[tuple[Key, str], deque[_Seen]] = {}
        self._held: deque[_Seen] = deque()
        self._uncounted: deque[_Seen] = deque()
        self._let_go: list[Connect] = []
        self.paired = 0
        self.unpaired = 0
        self.early = 0

    def lead(self, connect: Connect) -> bool:
        """The leader saw a connection.

        Returns:
            Whether it counts now; False if it was handed over already, because the leader tells of it late.
        """
        known = self._find(connect)
        if known is None:
            self._hold(_Seen(connect, counted=True))
            return True
        counts = not known.counted
        known.counted = True
        return counts

    def beside(self, connect: Connect) -> None:
        """Another sensor saw one."""
        if self._find(connect) is None:
            seen = _Seen(connect, counted=False)
            self._hold(seen)
            self._uncounted.append(seen)

    def tick(self, now_ns: int) -> list[Connect]:
        """The connections whose second is over and that nobody counted, in the order of their reports."""
        out, self._let_go = self._let_go, []
        uncounted = self._uncounted
        while uncounted and (uncounted[0].counted or uncounted[0].connect.time_ns + self._within_ns <= now_ns):
            seen = uncounted.popleft()
            if not seen.counted:
                out.append(self._count(seen))
        # Held for a second more, so that a report that comes late pairs instead of counting again.
        while self._held and self._held[0].connect.time_ns + 2 * self._within_ns <= now_ns:
            self._forget(self._held.popleft())
        return out

    def next_deadline(self) -> int | None:
        """When `tick` has something to hand over; None if nothing waits."""
        while self._uncounted and self._uncounted[0].counted:
            self._uncounted.popleft()
        return self._uncounted[0].connect.time_ns + self._within_ns if self._uncounted else None

    def _count(self, seen: _Seen) -> Connect:
        seen.counted = True
        self.unpaired += 1
        return seen.connect

    def _find(self, connect: Connect) -> _Seen | None:
        """The first connection there that this sensor has not told of."""
        waiting = self._open.get(((connect.port, connect.address), connect.sensor))
        while waiting:
            seen = waiting[0]
            if seen.connect.time_ns > connect.time_ns + self._within_ns:
                return None
            waiting.popleft()
            if seen.connect.time_ns >= connect.time_ns - self._within_ns:
                self.paired += 1
                seen.sensors.add(connect.sensor)
                return seen
        return None

    def _hold(self, seen: _Seen) -> None:
        if len(self._held) >= self._max_held:
            oldest = self._held.popleft()
            self._forget(oldest)
            if not oldest.counted:
                self.early += 1
                self._let_go.append(self._count(oldest))
        key = (seen.connect.port, seen.connect.address)
        for sensor in self._sensors:
            if sensor != seen.connect.sensor:
                self._open.setdefault((key, sensor), deque()).append(seen)
        self._held.append(seen)

    def _forget(self, seen: _Seen) -> None:
        """Nobody will tell of it any more."""
        key = (seen.connect.port, seen.connect.address)
        for sensor in self._sensors:
            waiting = self._open.get((key, sensor))
            if waiting and waiting[0] is seen:
                waiting.popleft()
            if waiting is not None and not waiting:
                del self._open[key, sensor]
