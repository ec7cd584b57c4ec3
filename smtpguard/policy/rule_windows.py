"""The windows of one subject for those of its rules that share a fate: judges an attempt, and takes it in.

A subject has one book, or two where some of its rules are enforced and others report-only: a block that would be must
not hide attempts from the rules that are enforced.

An exact count of every rule at every attempt costs microseconds, so each look leaves behind how many attempts may
follow before a rule *can* be exceeded (`RuleWindows.room`, `KeyTable.room`) and until when that holds; the engine's
fast path counts it down and skips the look. Counts only fall as time goes on, so what was safe stays safe.
"""

from itertools import chain
from typing import TYPE_CHECKING

from smtpguard.model import Mode
from smtpguard.policy.compiled_rules import CompiledRules, TableKey
from smtpguard.policy.counters import Counter, Excess
from smtpguard.policy.open_port import OpenPort
from smtpguard.policy.windows import FOREVER, NEVER, Bounds, KeyTable, Lane
from smtpguard.settings import DAY_NS

if TYPE_CHECKING:
    from smtpguard.policy.block_spans import Outlook

NEWCOMER_NS = DAY_NS
"""A user is a newcomer for a day from the first attempt after the silence that `novel` asks for: one test connection
is no history, and a month of it would be noise."""

NEAR = 32
"""A rule this near to its limit is counted anew at each look: what has left its window gives room again."""
MAX_ROOM = 256
"""Attempts between two looks at most: CPython keeps the integers up to here, so counting down allocates nothing."""


class RuleWindows:
    """Windows of one subject for rules of one mode. Lanes, tables and counters are made when a port is first used.

    Args:
        plan: The rules.
        mode: Whether these rules are carried out.
        seen: When the subject was last seen on a port, from before these windows; shared by its books.
        bounds: What all windows together may hold.

    Attributes:
        counters: Rules that have counted anything, in the order of the configuration.
        room, granted: No connections rule can be exceeded by this many further attempts (and were so at the last
            look) ...
        recheck_ns: ... before this event time.
        ready_ns: From this event time on an attempt is not late: the fast path may judge it ...
        clear_ns: ... and from this one on none is inside a block, at whatever port.
        ahead: Until then: what is ahead at the ports asked about since the blocks last changed; None if at none.
        floor_ns: All windows were emptied then, also of rules that had counted nothing yet.
        changes: Grows with what the lanes do not show: who became a newcomer, and which rules have begun to count.
    """

    __slots__ = (
        "ahead", "bounds", "changes", "clear_ns", "counters", "floor_ns", "granted", "lanes", "mode", "plan",
        "ready_ns", "recheck_ns", "room", "seen", "tables",
    )  # fmt: skip

    def __init__(self, plan: CompiledRules, mode: Mode, seen: dict[int, int], bounds: Bounds) -> None:
        self.plan = plan
        self.mode = mode
        self.seen = seen
        self.room = self.granted = 0
        self.recheck_ns = NEVER
        self.ready_ns = NEVER
        self.clear_ns = NEVER
        self.ahead: dict[int, Outlook] | None = None
        self.floor_ns = NEVER
        self.changes = 0
        # Few each: a dict takes 220 bytes of every user.
        self.lanes: tuple[OpenPort, ...] = ()
        self.tables: tuple[KeyTable, ...] = ()
        self.counters: tuple[Counter, ...] = ()
        self.bounds = bounds

    def open_lane(self, port: int) -> OpenPort:
        """The lane of a port, made if it is not there yet, with the counters of its rules.

        What the last look worked out knows nothing of a new lane's rules, and what opens it may be refused, which
        brings no other look: the next attempt of every lane is looked at.
        """
        for lane in self.lanes:
            if lane.port == port:
                return lane
        self.distrust()
        return self._add_lane(port)

    def _add_lane(self, port: int) -> OpenPort:
        lane = OpenPort(port, self.plan.lanes[port])
        self.lanes = (*self.lanes, lane)
        known = {counter.planned.number: counter for counter in self.counters}
        lane.counters = self._count(port, known)
        if len(known) > len(self.counters):
            self.counters = tuple([known[number] for number in sorted(known)])
            self.changes += 1
        for lanes in {id(counter.lanes): counter.lanes for counter in lane.counters}.values():
            lanes.append(lane)
        lane.tables = tuple(dict.fromkeys([counter.table for counter in lane.counters if counter.table is not None]))
        return lane

    def begin_lane(self, port: int) -> bool:
        """Open a lane on which nothing was counted yet, with what may follow on it unseen; False if that takes a look.

        Where nothing is held all of a limit is left, so the first attempt on a port, which most users never follow by
        many, costs no look at every rule.
        """
        if self.plan.is_novel or any(lane.port == port for lane in self.lanes):
            return False
        first, spent = not self.lanes, self.spent()
        lane = self._add_lane(port)
        # A rule of several ports that was begun on another one stands as it stood.
        begun = [counter for counter in lane.counters if len(counter.lanes) == 1]
        tables = [table for table in lane.tables if any(counter.table is table for counter in begun)]
        if any(table.keys for table in tables):
            self.distrust()
            return False  # of an earlier run
        for table in tables:
            table.room, table.recheck_ns = min(MAX_ROOM, table.cap), FOREVER
        room = min(MAX_ROOM if first else self.room, lane.cap)
        for counter in begun:
            limit, keyed = counter.rule.limit, counter.table
            if keyed is None:
                counter.left = limit + spent
                room = min(room, limit)
            else:
                counter.left = limit
                keyed.room = min(keyed.room, limit)
        for table in tables:
            table.granted = table.room
        self.room, self.granted = room, room + spent
        if first:
            self.recheck_ns = FOREVER
        return True

    def open_table(self, key: TableKey) -> KeyTable:
        """The table of some ports, made if it is not there yet."""
        for table in self.tables:
            if table.place == key:
                return table
        table = KeyTable(key, self.plan.tables[key])
        self.tables = (*self.tables, table)
        return table

    def _count(self, port: int, known: dict[int, Counter]) -> tuple[Counter, ...]:
        """The counters of a port's rules; those that are new become known."""
        lanes_of = {counter.planned.ports: counter.lanes for counter in known.values()}
        for item in self.plan.of_port[port]:
            if item.number not in known:
                table = None if item.table is None else self.open_table(item.table)
                counter = known[item.number] = Counter(item, table, lanes_of.setdefault(item.ports, []))
                if self.floor_ns != NEVER:
                    counter.empty(self.floor_ns)
        return tuple([known[item.number] for item in self.plan.of_port[port]])

    def newest_ns(self) -> int:
        """The newest attempt that was taken in; NEVER if none."""
        return max((lane.times[-1] for lane in self.lanes if lane.times), default=NEVER)

    def touched_ns(self) -> int:
        """When something last happened to the windows: taken in, emptied or told of; NEVER if nothing did."""
        marks = [max(counter.floor_ns, counter.told_ns, counter.fresh_ns) for counter in self.counters]
        return max([self.newest_ns(), self.floor_ns, *marks])

    def judge(self, time_ns: int, port: int, address: bytes) -> list[Excess]:
        """Which rules the attempt would exceed, in the order of the configuration. Takes nothing in.

        A late attempt is judged in the windows as they are at the newest one.
        """
        lane = self.open_lane(port)
        at_ns = time_ns if time_ns >= self.ready_ns else max(time_ns, self.newest_ns())
        found: list[Excess] = []
        for counter in lane.counters:
            rule = counter.planned.rule
            if rule.novel_ns is not None and not self._is_newcomer(counter, lane, rule.novel_ns, at_ns):
                continue
            table = counter.table
            if counter.left > (self if table is None else table).spent() or at_ns < counter.over_until_ns:
                continue  # far from its limit, or known to be over and report-only: nothing rises
            edge_ns = max(at_ns - rule.window_ns, counter.floor_ns)
            before = counter.held(edge_ns)
            count = before
            # An attempt at or before the edge came so late that it is in no window, or before the window was emptied.
            if time_ns > edge_ns and (table is None or table.keys.get(table.key(address), NEVER) <= edge_ns):
                count += 1
            if count > rule.limit and time_ns > edge_ns:
                found.append(Excess(counter, count, before <= rule.limit))
        return found

    def enter(self, time_ns: int, port: int, address: bytes) -> None:
        """Take an attempt in that was just judged, and work out how many may follow unseen."""
        lane = self.open_lane(port)
        at_ns = time_ns if time_ns >= self.ready_ns else max(time_ns, self.newest_ns())
        lane.insert(time_ns, at_ns, self.bounds)
        self.ready_ns = max(self.ready_ns, at_ns)
        for table in lane.tables:
            table.insert(table.key(address), time_ns, at_ns, self.bounds)
        self.look(at_ns)

    def spent(self) -> int:
        """How many attempts were taken in since the last look."""
        return self.granted - self.room

    def look(self, at_ns: int) -> None:
        """Work out how many attempts may follow, and until when, before a rule can be exceeded.

        When it returns, `room` more attempts exceed no rule before `recheck_ns`, and a table's `room` more keys none
        that counts keys. `left` of a counter may be less than the truth, never more.

        Only rules that have come near their limit are counted anew. One that is over it already (then it only warns)
        can't rise over it before enough has left.
        """
        spent = self.spent() + 1
        room = min([MAX_ROOM, *[lane.cap - len(lane.times) for lane in self.lanes]])
        recheck_ns = FOREVER
        rooms = {id(table): (table, table.spent() + 1) for table in self.tables}
        for table, _ in rooms.values():
            table.room = min(MAX_ROOM, table.cap - len(table.keys))
            table.recheck_ns = FOREVER
        for counter in self.counters:
            rule = counter.planned.rule
            if rule.novel_ns is not None:
                # Silent there, though not on the port that is looked at: a newcomer with the next attempt.
                recheck_ns = min(recheck_ns, self.last_seen(counter) + rule.novel_ns)
                if at_ns - NEWCOMER_NS >= counter.fresh_ns:
                    counter.left = 0
                    continue
            until_ns, left = counter.over_until_ns, MAX_ROOM
            if at_ns >= until_ns:
                until_ns = FOREVER
                left = counter.left - (spent if counter.table is None else rooms[id(counter.table)][1])
                if left < NEAR:
                    left = rule.limit - counter.held(max(at_ns - rule.window_ns, counter.floor_ns))
                if left < 0:
                    left = MAX_ROOM
                    until_ns = counter.over_until_ns = counter.newest(rule.limit + 1) + rule.window_ns
            counter.left = left if until_ns == FOREVER else 0
            if counter.table is None:
                room = min(room, left)
                recheck_ns = min(recheck_ns, until_ns)
            else:
                counter.table.room = min(counter.table.room, left)
                counter.table.recheck_ns = min(counter.table.recheck_ns, until_ns)
        self.room = self.granted = room
        self.recheck_ns = recheck_ns
        for table, _ in rooms.values():
            table.granted = table.room

    def reset(self, at_ns: int) -> None:
        """Empty all windows, and forget what was told."""
        self.floor_ns = max(self.floor_ns, at_ns)
        for counter in self.counters:
            counter.empty(at_ns)
            counter.told_ns = NEVER
        self.distrust()

    def distrust(self) -> None:
        """Make the next attempt of every lane be looked at."""
        self.room = self.granted = 0
        for table in self.tables:
            table.room = table.granted = 0
        for counter in self.counters:
            counter.left = 0

    def put_back(self, lane: Lane, time_ns: int) -> None:
        """Take in an attempt of an earlier run: the newest so far on its port. `distrust` when all are in."""
        lane.insert(time_ns, time_ns, self.bounds)
        self.ready_ns = max(self.ready_ns, time_ns)

    def put_back_key(self, table: KeyTable, key: bytes, time_ns: int) -> None:
        """Take in an address or network of an earlier run."""
        table.insert(key, time_ns, max(time_ns, self.newest_ns()), self.bounds)

    def note_seen(self) -> None:
        """Remember when the subject was last on the ports of `novel` rules, for when the windows are gone."""
        for lane in self.lanes if self.plan.is_novel else ():
            if lane.times:
                self.seen[lane.port] = max(lane.times[-1], self.seen.get(lane.port, NEVER))

    def release(self) -> None:
        """Give back what was taken from the bounds; the book is not used any more."""
        for holder in chain[Lane | KeyTable](self.lanes, self.tables):
            holder.release(self.bounds)

    def last_seen(self, counter: Counter) -> int:
        """When the subject last was on the ports of a rule; NEVER if it was not."""
        taken = max((lane.times[-1] for lane in counter.lanes if lane.times), default=NEVER)
        return max(taken, max((self.seen.get(port, NEVER) for port in counter.planned.ports), default=NEVER))

    def _is_newcomer(self, counter: Counter, lane: Lane, novel_ns: int, at_ns: int) -> bool:
        if at_ns - self.bounds.known_ns < novel_ns:
            return False  # everybody would be one
        if not (lane.times and at_ns - lane.times[-1] < novel_ns):
            last_ns = self.last_seen(counter)
            if last_ns == NEVER or at_ns - last_ns >= novel_ns:
                counter.fresh_ns = at_ns
                self.changes += 1
        return at_ns - NEWCOMER_NS < counter.fresh_ns
