"""Times in which a subject's attempts are refused, or would be: what a block or throttle is to an attempt."""

from collections import deque
from dataclasses import dataclass, field
from typing import Literal

from smtpguard.model import NS, Block, Mode

TRIES = 20
"""So many refused attempts within the last LAST_NS of a block mean that its user has not stopped: a mail that a plugin
tries again every five minutes makes two or three."""
LATE_NS = 60 * NS
"""How long after its end a block is remembered for attempts that are reported late (audit backlogs: seconds)."""
Ports = tuple[int, ...] | None
Key = tuple[str, str, bool, Ports]


@dataclass(slots=True)
class BlockSpan:
    """A time in which attempts are refused, or would be.

    Attributes:
        since_ns, until_ns: From, and up to but not including.
        kind: Block or throttle.
        mode: "enforce" if the kernel refuses.
        hides: Whether attempts inside are hidden from enforced rules too; else from report-only ones alone.
        ports: At which ports; None for all.
        tries: When the last TRIES attempts inside were refused.
    """

    since_ns: int
    until_ns: int
    kind: Literal["block", "throttle"]
    mode: Mode
    hides: bool
    ports: Ports = None
    tries: deque[int] = field(default_factory=lambda: deque(maxlen=TRIES))

    def covers(self, time_ns: int, port: int) -> bool:
        """Whether an attempt at that time, at that port, is inside."""
        return self.since_ns <= time_ns < self.until_ns and (self.ports is None or port in self.ports)


def strength_of(span: BlockSpan) -> tuple[bool, bool, bool]:
    """By this the strongest of several is found: it is what an attempt ran into."""
    return (span.hides, span.mode == "enforce", span.kind == "block")


Outlook = tuple[int, BlockSpan | None]
"""From when on no attempt at a port can be inside a block; and the strongest block there, given only if it hides: an
attempt inside it ran into it, whatever else there is."""


class SubjectBlocks:
    """What is kept of one subject."""

    __slots__ = ("held", "spans")

    def __init__(self) -> None:
        self.held: dict[Key, tuple[Block, BlockSpan]] = {}
        self.spans: list[BlockSpan] = []

    def prune(self, newest_ns: int) -> None:
        """Forget times that nothing late can fall into any more."""
        self.spans = [span for span in self.spans if span.until_ns > newest_ns - LATE_NS]
