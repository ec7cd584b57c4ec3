"""One rule as one subject stands to it: where its window is, from when on it counts, what was told of it."""

from bisect import bisect_right
from dataclasses import dataclass
from itertools import chain
from typing import Protocol

from smtpguard.model import Action
from smtpguard.policy.compiled_rules import CompiledRule
from smtpguard.policy.windows import NEVER, KeyTable, Lane
from smtpguard.settings import Rule


class Counter:
    """One rule as one subject stands to it.

    Attributes:
        planned: The rule.
        lanes: The lanes of its ports that exist by now; one list for all rules of the same ports.
        table: Where its keys are, for `destinations` and `networks`.
        floor_ns: Attempts up to here do not count: the window was emptied then.
        told_ns: When a warn or throttle verdict was last told.
        over_until_ns: Known to be over its limit until then, whatever comes.
        fresh_ns: Since when the subject is a newcomer, with `novel`.
        left: It could not be exceeded by fewer attempts (or keys) than this when it was last looked at.
    """

    __slots__ = ("floor_ns", "fresh_ns", "lanes", "left", "over_until_ns", "planned", "table", "told_ns")

    def __init__(self, planned: CompiledRule, table: KeyTable | None, lanes: list[Lane]) -> None:
        self.planned = planned
        self.table = table
        self.lanes = lanes
        self.floor_ns = NEVER
        self.told_ns = NEVER
        self.over_until_ns = NEVER
        self.fresh_ns = NEVER
        self.left = 0

    @property
    def rule(self) -> Rule:
        """The rule, for whom it costs nothing to ask: ten counters of each user need no slot for it."""
        return self.planned.rule

    def identity(self) -> tuple[str, str, int]:
        """What makes the rule the same one after a reload or restart: name, count, window."""
        return (self.rule.name, self.rule.count, self.rule.window_ns)

    def held(self, edge_ns: int) -> int:
        """How many are later than the edge."""
        if self.table is not None:
            return sum([last_ns > edge_ns for last_ns in self.table.keys.values()])
        held = 0
        for lane in self.lanes:
            times = lane.times
            held += len(times)
            if times and times[0] <= edge_ns:
                held -= bisect_right(times, edge_ns)
        return held

    def times(self) -> list[int]:
        """Event times that are kept and may count, ascending."""
        edge_ns = self.floor_ns
        return sorted(time_ns for lane in self.lanes for time_ns in lane.times if time_ns > edge_ns)

    def newest(self, nth: int) -> int:
        """The time of the nth newest entry (1 is the newest). At least as many must be held."""
        if self.table is not None:
            return self.table.ordered()[-nth]
        if len(self.lanes) == 1:
            return self.lanes[0].times[-nth]
        return sorted(chain.from_iterable(lane.times[-nth:] for lane in self.lanes))[-nth]

    def empty(self, at_ns: int) -> None:
        """Empty the window: nothing up to the time counts any more."""
        self.floor_ns = max(self.floor_ns, at_ns)
        self.over_until_ns = NEVER
        if self.table is not None:
            self.table.floor_ns = max(self.table.floor_ns, at_ns)

    def release_ns(self, at_ns: int) -> int:
        """When one more attempt would pass again: the limit-th newest entry leaves the window then."""
        rule = self.rule
        return (self.newest(rule.limit) if rule.limit else at_ns) + rule.window_ns


class Exceeded(Protocol):
    """A rule as a subject stands to it, whatever it counts."""

    told_ns: int

    @property
    def rule(self) -> Rule:
        """The rule."""
        ...

    def release_ns(self, at_ns: int) -> int:
        """When one more would pass again."""
        ...

    def empty(self, at_ns: int) -> None:
        """Empty the window: nothing up to the time counts any more."""
        ...


@dataclass(frozen=True, slots=True)
class Excess:
    """A rule that an attempt exceeds.

    Attributes:
        counter: The rule as the subject stands to it.
        count: What the window holds with the attempt.
        rises: Whether the count was not over the limit without it.
    """

    counter: Exceeded
    count: int
    rises: bool

    @property
    def action(self) -> Action:
        """What the rule asks for."""
        return self.counter.rule.action
