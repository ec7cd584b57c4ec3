"""What people, fail2ban and earlier runs make a guard do: blocks, allowances, and the ends of both."""

import logging
from bisect import bisect_left
from collections.abc import Iterable, Sequence

from smtpguard.actions.base import Reach
from smtpguard.clock import WallMap
from smtpguard.daemon.enforce.enforcement import Enforcement
from smtpguard.daemon.execution import Execution
from smtpguard.daemon.record.journal import Journal
from smtpguard.daemon.serve.unblock import Freed
from smtpguard.enrich.accounts.directory import AccountDirectory
from smtpguard.hooks import ClockNs
from smtpguard.model import Account, Allowance, Block, Ended, Named, Subject
from smtpguard.policy.engine import Engine
from smtpguard.state.rows import AllowanceRow, BlockRow
from smtpguard.state.statements import block_key, escalation_key
from smtpguard.state.writer import StateWriter
from smtpguard.text import render_user

log = logging.getLogger(__name__)


class Orders:
    """Carries out what was asked for.

    Args:
        engine: Decides.
        execution: Carries out what was decided.
        enforcement: Tells the kernel.
        journal: Writes.
        state: Keeps what survives a restart.
        accounts: Who is who.
        wall: Event time to wall time.
        now: CLOCK_BOOTTIME in nanoseconds.

    Attributes:
        freed: Whom somebody freed while the state could not be read, and of which source's block; None for all of
            them, or of everybody. What the state holds of these is over.
        unallowed: Whose allowance somebody ended meanwhile.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        execution: Execution,
        enforcement: Enforcement,
        journal: Journal,
        state: StateWriter,
        accounts: AccountDirectory,
        wall: WallMap,
        now: ClockNs,
    ) -> None:
        self._engine = engine
        self._execution = execution
        self._enforcement = enforcement
        self._journal = journal
        self._state = state
        self._accounts = accounts
        self._wall = wall
        self._now = now
        self.freed: set[tuple[Subject | None, str | None]] = set()
        self.unallowed: set[Subject] = set()

    def begin(self, block: Block, *, force: bool = False) -> bool:
        """Begin a block that a person or fail2ban asked for; False if a means of enforcement failed.

        Raises:
            PolicyError: Whom nothing may hit was to be hit.
        """
        fine = True
        for decision in self._engine.commands.add_block(block, force=force):
            if isinstance(decision, Block):
                fine = self._execution.carry_out(decision)
                self._journal.add_block(self._execution.account_of(decision.subject), decision)
            else:
                self._execution.act([decision])
        return fine

    def allow(self, allowance: Allowance) -> None:
        """A person gives an allowance: what is active for the account ends, and its rules do not hold meanwhile."""
        self._execution.act(self._engine.commands.allow(allowance))
        self._note_freed(allowance.subject)
        self._state.put(AllowanceRow.of(allowance, self._wall.offset_ns))
        self._journal.add_allow(
            self._execution.account_of(allowance.subject),
            until_wall_ns=allowance.until_ns + self._wall.offset_ns,
            by=allowance.by,
            reason=allowance.reason,
        )
        self._enforcement.refresh("allowance")

    def end_allowance(self, subject: Subject, *, reason: str = "") -> bool:
        """A person ends an allowance; whether there was one."""
        if not self._state.is_read:
            self.unallowed.add(subject)
        decisions = self._engine.commands.end_allowance(subject, by="admin", now_ns=self._now(), reason=reason)
        self._execution.act(decisions)
        self._enforcement.refresh("allowance")  # now: whoever asked hears whether the kernel does it
        return bool(decisions)

    def end(self, subject: Subject, source: str, *, by: str, reason: str = "") -> list[Ended]:
        """End a subject's blocks of one source; windows and memory stay."""
        self._note_freed(subject, source)
        ended = self._engine.commands.end(subject, source=source, by=by, reason=reason, now_ns=self._now())
        self._execution.act(ended)
        return ended

    def unblock(self, subject: Subject, *, by: str, reason: str = "") -> list[Ended]:
        """A person's unblock: all sources end, windows are empty, earlier blocks forgotten."""
        now_ns = self._now()
        ended = self._engine.commands.unblock(subject, by=by, reason=reason, now_ns=now_ns)
        self._execution.act(ended)
        self._note_freed(subject)
        self._execution.refused.pop(subject, None)
        if subject.scope is None:
            account = self._accounts.account(subject.id)
            ranges = ((first, first + count - 1) for first, count in account.ranges)
            self._enforcement.clear([(subject.id, subject.id), *ranges])
            self._enforcement.credits.reset(subject.id, now_ns)
        self._state.delete(escalation_key(subject.id, self._execution.account_of(subject).name))
        return ended

    def unblock_all(self, *, by: str, reason: str = "") -> list[Ended]:
        """A person's unblock of everybody, of whom the state knows and could not say, too."""
        self._note_freed(None)
        subjects = self._engine.blocked_subjects()
        with self._enforcement.together():
            all_ended = [ended for subject in subjects for ended in self.unblock(subject, by=by, reason=reason)]
        self._enforcement.clear_all()
        return all_ended

    def _note_freed(self, subject: Subject | None, source: str | None = None) -> None:
        """While the state can't be read: what it holds of whom was freed meanwhile is not brought back."""
        if not self._state.is_read:
            self.freed.add((subject, source))

    def freed_by_hand(self, ranges: tuple[tuple[int, int], ...], reach: Reach, who: str) -> None:
        """Somebody took elements out of our sets: the wish to unblock, done and recorded as such.

        Args:
            ranges: Inclusive, sorted, disjoint.
            reach: Out of which set.
            who: Who did it.
        """
        lasts = [last for _, last in ranges]
        with self._enforcement.together():
            for subject in self._engine.blocked_subjects():
                held = [
                    block
                    for block in self._engine.blocks_of(subject)
                    if block.kind == reach.kind and reach.port in block.reaches
                ]
                spans = [(subject.id, 1), *(span for block in held for span in block.ranges)]
                places = ((bisect_left(lasts, low), low + count - 1) for low, count in spans)
                hit = any(index < len(ranges) and ranges[index][0] <= high for index, high in places)
                if held and subject.scope is None and hit:
                    log.warning("uid %d was taken out of the set by %s: unblocked", subject.id, who)
                    self.unblock(subject, by="admin", reason=f"deleted from the nft set by {who}")

    def blocks_of(self, subject: Subject) -> Sequence[Block]:
        """A subject's blocks of all sources."""
        return self._engine.blocks_of(subject)

    def blocked_subjects(self) -> Iterable[Subject]:
        """All subjects that have blocks."""
        return self._engine.blocked_subjects()

    def account_of(self, subject: Subject) -> Account:
        """The account of a subject."""
        return self._execution.account_of(subject)

    def restore(self, block: Block) -> None:
        """A block from before this run: nothing new, so nothing is written to the event log."""
        for decision in self._engine.commands.add_block(block, force=True):
            if isinstance(decision, Block):
                if decision.name != block.name:  # kept under the uid alone until its name was known
                    self._state.delete(block_key(block))
                if decision is not block:  # else the state holds it as it is
                    self._state.put(BlockRow.of(decision, self._wall.offset_ns))
            else:
                self._execution.act([decision])

    def restore_allowance(self, row: AllowanceRow, *, is_late: bool = False) -> None:
        """An allowance from before this run.

        Args:
            row: As the state has it.
            is_late: The state could be read late only: whom a person has blocked meanwhile stays blocked.
        """
        now_ns, offset_ns = self._now(), self._wall.offset_ns
        allowance = row.to_allowance(offset_ns, now_ns + offset_ns)
        if allowance.until_ns > now_ns:
            self._execution.act(self._engine.commands.allow(allowance, late_ns=now_ns if is_late else None))
            for held in self._engine.allowances():
                if held.subject == allowance.subject and held.name != allowance.name:
                    self._execution.act([Named(before=allowance, after=held)])


class GuardBlocks:
    """The blocks of a running guard, as `unblock` ends them.

    Args:
        orders: Carries it out.
    """

    how = "All counters are back to 0."
    where = ""

    def __init__(self, orders: Orders) -> None:
        self._orders = orders

    def end(self, account: Account, *, source: str, reason: str) -> bool:
        """End one source's block; windows and memory stay."""
        return bool(self._orders.end(Subject(id=account.uid), source, by=source, reason=reason))

    def unblock(self, account: Account | None, *, reason: str) -> list[Freed]:
        """End all, those of the same uid in other network namespaces too."""
        if account is None:
            ended = self._orders.unblock_all(by="admin", reason=reason)
        else:
            blocked = self._orders.blocked_subjects()
            numbers = {subject for subject in blocked if subject.id == account.uid} | {Subject(id=account.uid)}
            subjects = sorted(numbers, key=lambda s: (s.id, s.scope or 0))
            ended = [e for subject in subjects for e in self._orders.unblock(subject, by="admin", reason=reason)]
        return [self._render(end.block) for end in ended]

    def _render(self, block: Block) -> Freed:
        name = self._orders.account_of(block.subject).name
        return Freed(
            user=render_user(block.subject.id, name),
            source=block.source,
            ids=block.ids,
            was_dry=block.mode != "enforce",
        )
