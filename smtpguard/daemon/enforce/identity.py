"""Which table is ours: this boot, this network namespace, and the handle that the kernel gave it when it was made.

A table of the same name with another handle was made by somebody else: a saved ruleset that was loaded, with elements
of a time that is over.
"""

from collections.abc import Mapping
from pathlib import Path

from smtpguard.state.last_good import FactKeeper
from smtpguard.state.rows import FactRow

FACT = "table"


class Identity:
    """What is remembered of our table.

    Args:
        facts: What an earlier run has kept.
        keeper: Where it is kept.
    """

    def __init__(self, facts: Mapping[str, str], keeper: FactKeeper) -> None:
        self._known = facts.get(FACT)
        self._keeper = keeper
        self._place = read_place()

    @property
    def is_known(self) -> bool:
        """Whether anything is remembered."""
        return self._known is not None

    def is_ours(self, handle: int) -> bool:
        """Whether a table is the one that is remembered."""
        return self._known == f"{self._place} {handle}"

    def note(self, handle: int | None) -> None:
        """Our table has this handle now."""
        text = f"{self._place} {handle}"
        if handle is not None and text != self._known:
            self._known = text
            self._keeper.put(FactRow(name=FACT, value=text))


def read_place() -> str:
    """This boot and this thread's network namespace."""
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    return f"{boot_id} {Path('/proc/thread-self/ns/net').stat().st_ino}"
