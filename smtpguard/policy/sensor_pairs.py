"""Several sensors at once, and each connection counts once. Pure: events in, events that count out.

One sensor leads: its events count at once. An event of another one is paired, one to one, with an event that counted,
by address and port within a second; one that finds no partner is what the leader missed, and counts at the next tick
after that second, under its own sensor's name. Uids may differ within a pair (nft tells a socket's creator, BPF the
caller), so they only order the choice: partners of the same uid at once, any other when the second is over.
"""

from bisect import bisect_left, insort_right
from collections import Counter, deque
from collections.abc import Iterable
from heapq import heappop, heappush
from itertools import count

from smtpguard.model import NS, Connect

WITHIN_NS = NS
MEMORY_NS = 10 * NS
"""How long an event that counted waits for its partners: auditd delivers seconds late under load."""
MAX_HELD = 100_000
"""Ten seconds at 10,000 connections a second."""
SHARE = 8
"""No uid takes more than an eighth of the room: a flood hides nobody else's connections."""

Where = tuple[str, int | None, bytes, int]
"""Sensor, uid, address, port."""
_NEVER = -(1 << 63)


class _Event:
    """An event that waits for its partner, or one that counted; `open_to` are sensors that have not told of it."""

    __slots__ = ("connect", "done", "open_to")

    def __init__(self, connect: Connect) -> None:
        self.connect = connect
        self.done = False
        self.open_to: set[str] = set()

    def time_ns(self) -> int:
        return self.connect.time_ns


class _Shelf:
    """Events by time under many keys, for each the oldest within a second of a time. All steps are logarithmic."""

    __slots__ = ("_events",)

    def __init__(self) -> None:
        self._events: dict[object, list[_Event]] = {}

    def add(self, key: object, event: _Event) -> None:
        events = self._events.setdefault(key, [])
        if events and event.connect.time_ns < events[-1].connect.time_ns:
            insort_right(events, event, key=_Event.time_ns)
        else:
            events.append(event)

    def find(self, key: object, time_ns: int) -> _Event | None:
        events = self._events.get(key, [])
        place = bisect_left(events, time_ns - WITHIN_NS, key=_Event.time_ns)
        if place < len(events) and events[place].connect.time_ns <= time_ns + WITHIN_NS:
            return events[place]
        return None

    def discard(self, key: object, event: _Event) -> None:
        events = self._events.get(key, [])
        for place in range(bisect_left(events, event.connect.time_ns, key=_Event.time_ns), len(events)):
            if events[place] is event:
                del events[place]
                if not events:
                    del self._events[key]
                return
            if events[place].connect.time_ns != event.connect.time_ns:
                return


class SensorPairs:
    """Makes one stream of what several sensors see.

    Args:
        sensors: Names of all that run, the most trusted first.
        max_held: Most events that wait, and most that are remembered after they counted.

    Attributes:
        paired: Events of connections that were known.
        unpaired: Connections that the leader did not see, handed over by `tick`.
        early: Of these, how many were handed over before their second was over, for want of room.
        late: Events that came when their partner would have been forgotten: left out.
        dropped: Events left out because their partner may have been, in a flood.
    """

    def __init__(self, sensors: Iterable[str], *, max_held: int = MAX_HELD) -> None:
        self._sensors = tuple(sensors)
        self._max_held = max_held
        self._counted = _Shelf()
        self._counted_anyhow = _Shelf()
        self._kept: deque[_Event] = deque()
        self._kept_of: Counter[int | None] = Counter()
        self._waiting = _Shelf()
        self._due: list[tuple[int, int, _Event]] = []
        self._due_of: dict[int | None, deque[_Event]] = {}
        self._waits = 0
        self._let_go: list[Connect] = []
        self._tick = count()
        self._newest_ns = _NEVER
        self._full_ns = _NEVER
        self._full_of: dict[int | None, int] = {}
        self.paired = self.unpaired = self.early = self.late = self.dropped = 0

    def lead(self, connect: Connect) -> bool:
        """The leader saw a connection.

        Returns:
            Whether it counts now; False if it was handed over already, because the leader tells of it late.
        """
        self._newest_ns = max(self._newest_ns, connect.time_ns)
        if self._pair(connect):
            return False
        self._count(connect)
        return True

    def beside(self, connect: Connect) -> None:
        """Another sensor saw one."""
        self._newest_ns = max(self._newest_ns, connect.time_ns)
        if connect.time_ns <= self._newest_ns - MEMORY_NS + WITHIN_NS:
            self.late += 1
        elif not self._pair(connect):
            event = _Event(connect)
            own = self._due_of.setdefault(connect.uid, deque())
            own.append(event)
            self._waiting.add(_where(connect), event)
            heappush(self._due, (connect.time_ns + WITHIN_NS, next(self._tick), event))
            self._waits += 1
            if self._waits > self._max_held or len(own) > self._max_held // SHARE:
                self._hurry(own[0] if len(own) > self._max_held // SHARE else self._oldest())

    def tick(self, now_ns: int) -> list[Connect]:
        """Events whose second is over and whose connection nobody has told of: they count."""
        due: list[Connect] = []
        while self._due and self._due[0][0] <= now_ns:
            event = heappop(self._due)[2]
            if not event.done:
                self._stop_waiting(event)
                due.append(event.connect)
        due.sort(key=lambda connect: (self._rank(connect), connect.time_ns))
        out, self._let_go = self._let_go, []
        for connect in due:
            self._decide(connect, out)
        self._newest_ns = max(self._newest_ns, now_ns)
        self._forget()
        return sorted(out, key=lambda connect: connect.time_ns)

    def next_deadline(self) -> int | None:
        """When `tick` has something to hand over; None if nothing waits."""
        if self._let_go:
            return self._let_go[0].time_ns
        while self._due and self._due[0][2].done:
            heappop(self._due)
        return self._due[0][0] if self._due else None

    def _rank(self, connect: Connect) -> int:
        return self._sensors.index(connect.sensor) if connect.sensor in self._sensors else len(self._sensors)

    def _decide(self, connect: Connect, out: list[Connect]) -> None:
        """An event waits no more: it has a partner of another uid, or it counts."""
        if self._pair(connect) or self._pair(connect, any_uid=True):
            return
        if self._is_blind(connect):
            self.dropped += 1
            return
        self.unpaired += 1
        self._count(connect)
        out.append(connect)

    def _oldest(self) -> _Event:
        while self._due[0][2].done:
            heappop(self._due)
        return self._due[0][2]

    def _hurry(self, event: _Event) -> None:
        """Decide on an event before its second is over: too many wait. A report that comes later pairs with it."""
        self._stop_waiting(event)
        before = len(self._let_go)
        self._decide(event.connect, self._let_go)
        self.early += len(self._let_go) - before

    def _pair(self, connect: Connect, *, any_uid: bool = False) -> bool:
        """Pair an event with the oldest one that counted within a second and that its sensor has not told of."""
        if any_uid:
            event = self._counted_anyhow.find(_place(connect.sensor, connect), connect.time_ns)
        else:
            event = self._counted.find(_where(connect), connect.time_ns)
        if event is None:
            return False
        self._close(event, connect.sensor)
        self.paired += 1
        return True

    def _count(self, connect: Connect) -> None:
        """An event counts: pair it with what has waited for it, and remember it for what will come."""
        open_to = {sensor for sensor in self._sensors if sensor != connect.sensor}
        for sensor in list(open_to):
            key = (sensor, connect.uid, connect.address, connect.port)
            if waiting := self._waiting.find(key, connect.time_ns):
                self._stop_waiting(waiting)
                self.paired += 1
                open_to.discard(sensor)
        if not open_to:
            return
        if len(self._kept) >= self._max_held:
            self._full_ns = self._newest_ns
        elif self._kept_of[connect.uid] >= self._max_held // SHARE:
            self._full_of[connect.uid] = self._newest_ns
        else:
            event = _Event(connect)
            event.open_to = open_to
            self._kept.append(event)
            self._kept_of[connect.uid] += 1
            for sensor in open_to:
                self._counted.add((sensor, connect.uid, connect.address, connect.port), event)
                self._counted_anyhow.add(_place(sensor, connect), event)

    def _close(self, event: _Event, sensor: str) -> None:
        """A sensor has told of an event that counted."""
        connect = event.connect
        event.open_to.discard(sensor)
        self._counted.discard((sensor, connect.uid, connect.address, connect.port), event)
        self._counted_anyhow.discard(_place(sensor, connect), event)

    def _stop_waiting(self, event: _Event) -> None:
        event.done = True
        self._waiting.discard(_where(event.connect), event)
        self._waits -= 1
        own = self._due_of[event.connect.uid]
        while own and own[0].done:
            own.popleft()
        if not own:
            del self._due_of[event.connect.uid]

    def _is_blind(self, connect: Connect) -> bool:
        """Whether its partner may have been left out because there were too many."""
        return max(self._full_ns, self._full_of.get(connect.uid, _NEVER)) > self._newest_ns - MEMORY_NS

    def _forget(self) -> None:
        """Forget events that nothing can be paired with any more."""
        edge_ns = self._newest_ns - MEMORY_NS
        while self._kept and self._kept[0].connect.time_ns <= edge_ns:
            event = self._kept.popleft()
            for sensor in list(event.open_to):
                self._close(event, sensor)
            self._kept_of[event.connect.uid] -= 1
            if not self._kept_of[event.connect.uid]:
                del self._kept_of[event.connect.uid]
        self._full_of = {uid: time_ns for uid, time_ns in self._full_of.items() if time_ns > edge_ns}


def _where(connect: Connect) -> Where:
    return (connect.sensor, connect.uid, connect.address, connect.port)


def _place(sensor: str, connect: Connect) -> tuple[str, bytes, int]:
    return (sensor, connect.address, connect.port)
