"""What a block that a person asks for comes to beside the one they asked for before. Pure.

Nothing is shortened or forgotten silently: without a length the longer end stays, a shorter one is said, and the old
reason stays unless a new one is given.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

from smtpguard.errors import PolicyError
from smtpguard.model import NS, Block

USUAL_NS = 3600 * NS
"""How long a block lasts for which no length was given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged:
    """The block to begin.

    Attributes:
        block: It.
        before_ns: When the one that it replaces would have ended, if that was later; None else.
    """

    block: Block
    before_ns: int | None = None


def merge_wish(block: Block, held: Iterable[Block], *, has_length: bool) -> Merged:
    """A person's block, with what stays of their earlier one.

    Args:
        block: As it was asked for.
        held: The user's blocks.
        has_length: Whether they said for how long.
    """
    same = [b for b in held if (b.source, b.kind, b.ports) == (block.source, block.kind, block.ports)]
    old = max((b for b in same if b.until_ns > block.since_ns), key=lambda b: b.until_ns, default=None)
    if old is None:
        return Merged(block=block)
    block = replace(block, reason=block.reason or old.reason)
    if old.until_ns <= block.until_ns:
        return Merged(block=block)
    if not has_length:
        return Merged(block=replace(block, until_ns=old.until_ns))
    return Merged(block=block, before_ns=old.until_ns)


def check_ports(ports: Iterable[int] | None, guarded: Collection[int]) -> tuple[int, ...] | None:
    """Which ports a person's block refuses, in order; None for all.

    Args:
        ports: As they were asked for; None for all.
        guarded: The ports that are SMTP here.

    Raises:
        PolicyError: One is not guarded: nothing refuses it.
    """
    if ports is None:
        return None
    wanted = tuple(sorted(set(ports)))
    for port in wanted:
        if port not in guarded:
            known = ", ".join(map(str, sorted(guarded)))
            raise PolicyError(f"port {port} is not guarded here", fix=f"one of {known}, or add it to `ports`")
    return wanted
