"""Windows that go on under rules that were compiled anew: what of the old ones the new ones take over."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from smtpguard.policy.rule_windows import RuleWindows
from smtpguard.policy.windows import NEVER

if TYPE_CHECKING:
    from smtpguard.policy.counters import Counter


def adopt_windows(new: RuleWindows, others: Iterable[RuleWindows]) -> None:
    """Take over the windows that new ones replace, nearest first.

    A rule goes on where one of its name, count and window was; any other begins with an empty window.
    """
    olds: dict[tuple[str, str, int], Counter] = {}
    newest_ns = NEVER
    for other in others:
        newest_ns = max(newest_ns, other.newest_ns())
        new.floor_ns = max(new.floor_ns, other.floor_ns)
        for lane in other.lanes:
            if lane.port in new.plan.lanes and not (mine := new.open_lane(lane.port)).times:
                mine.take_over(lane, new.bounds)
        for table in other.tables:
            if table.place in new.plan.tables and not (own := new.open_table(table.place)).keys:
                own.take_over(table, new.bounds)
        for counter in other.counters:
            olds.setdefault(counter.identity(), counter)
    for counter in new.counters:
        if old := olds.get(counter.identity()):
            counter.told_ns, counter.fresh_ns = old.told_ns, old.fresh_ns
            if old.floor_ns != NEVER:
                counter.empty(old.floor_ns)
        else:
            counter.empty(newest_ns)
