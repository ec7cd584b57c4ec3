"""How long a block lasts: longer each time within the memory, never shorter than its rule says."""

from typing import NamedTuple

from smtpguard.settings import Escalation, Rule

MAX_LEVEL = 64
"""Beyond it every factor has long met `max`; keeps the power finite."""


class Record(NamedTuple):
    """What is remembered of a subject's blocks.

    Attributes:
        blocks: How many came, each within the memory of the one before.
        until_ns: When the last of them ends or ended.
    """

    blocks: int
    until_ns: int


def level_of(record: Record | None, escalation: Escalation, at_ns: int) -> int:
    """How often the subject was blocked before within the memory, which runs from the end of the last block."""
    if record is None or at_ns >= record.until_ns + escalation.forget_ns:
        return 0
    return min(record.blocks, MAX_LEVEL)


def block_ns(rule: Rule, escalation: Escalation, level: int) -> int:
    """How long a block by a rule lasts at a level: `factor`^level times as long, lengthened to `max` at most."""
    longer = min(rule.block_ns * escalation.factor**level, float(escalation.max_ns))
    return max(rule.block_ns, int(longer))
