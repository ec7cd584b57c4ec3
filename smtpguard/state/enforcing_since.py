"""Since when users are refused at all, as the state keeps it over restarts: dry run ends it, the panic switch does not.

Customers are told of nothing in the first days of it: limits that are wrong show then.
"""

from collections.abc import Mapping

from smtpguard.state.last_good import FactKeeper
from smtpguard.state.rows import FactRow

FACT = "enforcing since"


class EnforcingSince:
    """Has the state keep it.

    Args:
        facts: What an earlier run has kept.
        keeper: Where it is kept.

    Attributes:
        wall_ns: Since when, as wall time; None in dry run.
    """

    def __init__(self, facts: Mapping[str, str], keeper: FactKeeper) -> None:
        self._keeper = keeper
        self.wall_ns = _parse(facts)

    def note(self, wall_ns: int, *, dry_run: bool) -> None:
        """A configuration is in force: dry run ends it, anything else begins it where it has not begun."""
        if dry_run or self.wall_ns is None or self.wall_ns > wall_ns:  # a clock that was wrong: it begins anew
            wanted = None if dry_run else wall_ns
            if wanted != self.wall_ns:
                self._put(wanted)

    def restore(self, facts: Mapping[str, str]) -> None:
        """Take what could not be read at the start: it has gone on since then, if it goes on now."""
        before = _parse(facts)
        if self.wall_ns is None:
            self._put(None)
        elif before is not None and before < self.wall_ns:
            self._put(before)

    def _put(self, wall_ns: int | None) -> None:
        self.wall_ns = wall_ns
        self._keeper.put(FactRow(name=FACT, value="" if wall_ns is None else str(wall_ns)))


def _parse(facts: Mapping[str, str]) -> int | None:
    text = facts.get(FACT, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None
