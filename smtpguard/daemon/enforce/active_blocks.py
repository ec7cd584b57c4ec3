"""What engine, accounts and panic switch want of the kernel now: whose blocks it carries out, and what it lets pass."""

from collections.abc import Iterable, Sequence

from smtpguard.actions.base import Exemptions
from smtpguard.daemon.enforce.activation import Activation
from smtpguard.daemon.enforce.neighbours import Around
from smtpguard.hooks import ClockNs
from smtpguard.model import Block, Subject
from smtpguard.policy.engine import Engine
from smtpguard.policy.subjects import account_of


class ActiveBlocks:
    """Derives it; holds nothing itself.

    Args:
        engine: Whose blocks, allowances and panic switch.
        around: Accounts and what passes.
        activation: Whether anything is refused.
        now: CLOCK_BOOTTIME in nanoseconds.
    """

    def __init__(self, engine: Engine, around: Around, activation: Activation, now: ClockNs) -> None:
        self._engine = engine
        self._around = around
        self._activation = activation
        self._now = now

    def blocks_of(self, subject: Subject) -> Sequence[Block]:
        """A subject's blocks, as far as they are to be carried out."""
        return self._engine.blocks_of(subject) if self._activation.up else ()

    def blocked_subjects(self) -> Iterable[Subject]:
        """All subjects that have blocks."""
        return self._engine.blocked_subjects()

    @property
    def changed(self) -> set[Subject]:
        """Whose blocks may be others than what the kernel was told."""
        return self._engine.changed_blocks

    def wants_refusals(self, *, dry_run: bool) -> bool:
        """Whether anything is to be refused: not while off; in dry run only while a person's block is enforced."""
        if self._engine.is_off:
            return False
        now_ns = self._now()
        return not dry_run or any(
            block.mode == "enforce" and block.until_ns > now_ns for block in self._engine.blocks()
        )

    def list_exemptions(self) -> Exemptions:
        """What passes in spite of any refusal."""
        allowed = [held.subject.id for held in self._engine.allowances() if held.subject.scope is None]
        held = (block for block in self._engine.blocks() if block.source == "admin" and block.mode == "enforce")
        forced = [block.subject.id for block in held if self.is_exempt(block.subject)]
        return self._around.exemptions(forced, allowed)

    def is_exempt(self, subject: Subject) -> bool:
        """Whether a person's block of this subject has to take away what lets the account pass."""
        return account_of(self._around.accounts, subject).standing in ("mta", "exempt")
