"""What people, fail2ban and earlier runs make a guard do: blocks, allowances, and the ends of both."""

import logging
from bisect import bisect_left

from smtpguard.actions.base import Reach
from smtpguard.daemon.guard import Guard
from smtpguard.daemon.serve.unblock import Freed
from smtpguard.model import Account, Allowance, Block, Ended, Named, Subject
from smtpguard.state.rows import AllowanceRow, BlockRow
from smtpguard.state.statements import block_key, escalation_key
from smtpguard.text import render_user

log = logging.getLogger(__name__)


class Orders:
    """Carries out what was asked for.

    Args:
        guard: Whose.
    """

    def __init__(self, guard: Guard) -> None:
        self.guard = guard

    def begin(self, block: Block, *, force: bool = False) -> bool:
        """Begin a block that a person or fail2ban asked for; False if a means of enforcement failed.

        Raises:
            PolicyError: Whom nothing may hit was to be hit.
        """
        fine = True
        for decision in self.guard.engine.add_block(block, force=force):
            if isinstance(decision, Block):
                fine = self.guard.carry_out(decision)
                self.guard.journal.add_block(self.guard.account_of(decision.subject), decision)
            else:
                self.guard.act([decision])
        return fine

    def allow(self, allowance: Allowance) -> None:
        """A person gives an allowance: what is active for the account ends, and its rules do not hold meanwhile."""
        self.guard.act(self.guard.engine.allow(allowance))
        self.guard.state.put(AllowanceRow.of(allowance, self.guard.wall.offset_ns))
        self.guard.journal.add_allow(
            self.guard.account_of(allowance.subject),
            until_wall_ns=allowance.until_ns + self.guard.wall.offset_ns,
            by=allowance.by,
            reason=allowance.reason,
        )
        self.guard.enforcement.refresh("allowance")

    def end_allowance(self, subject: Subject, *, reason: str = "") -> bool:
        """A person ends an allowance; whether there was one."""
        decisions = self.guard.engine.end_allowance(subject, by="admin", now_ns=self.guard.now(), reason=reason)
        self.guard.act(decisions)
        self.guard.enforcement.refresh("allowance")  # now: whoever asked hears whether the kernel does it
        return bool(decisions)

    def end(self, subject: Subject, source: str, *, by: str, reason: str = "") -> list[Ended]:
        """End a subject's blocks of one source; windows and memory stay."""
        self._note_freed(subject, source)
        ended = self.guard.engine.end(subject, source=source, by=by, reason=reason, now_ns=self.guard.now())
        self.guard.act(ended)
        return ended

    def unblock(self, subject: Subject, *, by: str, reason: str = "") -> list[Ended]:
        """A person's unblock: all sources end, windows are empty, earlier blocks forgotten."""
        ended = self.guard.engine.unblock(subject, by=by, reason=reason, now_ns=self.guard.now())
        self.guard.act(ended)
        self._note_freed(subject)
        self.guard.refused.pop(subject, None)
        if subject.scope is None:
            account = self.guard.accounts.account(subject.id)
            ranges = ((first, first + count - 1) for first, count in account.ranges)
            self.guard.enforcement.clear([(subject.id, subject.id), *ranges])
            self.guard.enforcement.credits.reset(subject.id)
        self.guard.state.delete(escalation_key(subject.id, self.guard.account_of(subject).name))
        return ended

    def unblock_all(self, *, by: str, reason: str = "") -> list[Ended]:
        """A person's unblock of everybody, of whom the state knows and could not say, too."""
        self._note_freed(None)
        subjects = self.guard.engine.blocked_subjects()
        with self.guard.enforcement.together():
            all_ended = [ended for subject in subjects for ended in self.unblock(subject, by=by, reason=reason)]
        self.guard.enforcement.clear_all()
        return all_ended

    def _note_freed(self, subject: Subject | None, source: str | None = None) -> None:
        """While the state can't be read: what it holds of whom was freed meanwhile is not brought back."""
        if not self.guard.state.is_read:
            self.guard.freed.add((subject, source))

    def freed_by_hand(self, ranges: tuple[tuple[int, int], ...], reach: Reach, who: str) -> None:
        """Somebody took elements out of our sets: the wish to unblock, done and recorded as such.

        Args:
            ranges: Inclusive, sorted, disjoint.
            reach: Out of which set.
            who: Who did it.
        """
        lasts = [last for _, last in ranges]
        with self.guard.enforcement.together():
            for subject in self.guard.engine.blocked_subjects():
                held = [
                    block
                    for block in self.guard.engine.blocks_of(subject)
                    if block.kind == reach.kind and reach.port in block.reaches
                ]
                spans = [(subject.id, 1), *(span for block in held for span in block.ranges)]
                places = ((bisect_left(lasts, low), low + count - 1) for low, count in spans)
                hit = any(index < len(ranges) and ranges[index][0] <= high for index, high in places)
                if held and subject.scope is None and hit:
                    log.warning("uid %d was taken out of the set by %s: unblocked", subject.id, who)
                    self.unblock(subject, by="admin", reason=f"deleted from the nft set by {who}")

    def restore(self, block: Block) -> None:
        """A block from before this run: nothing new, so nothing is written to the event log."""
        for decision in self.guard.engine.add_block(block, force=True):
            if isinstance(decision, Block):
                if decision.name != block.name:  # kept under the uid alone until its name was known
                    self.guard.state.delete(block_key(block))
                if decision is not block:  # else the state holds it as it is
                    self.guard.state.put(BlockRow.of(decision, self.guard.wall.offset_ns))
            else:
                self.guard.act([decision])

    def restore_allowance(self, row: AllowanceRow) -> None:
        """An allowance from before this run."""
        allowance = row.to_allowance(self.guard.wall.offset_ns)
        if allowance.until_ns > self.guard.now():
            self.guard.act(self.guard.engine.allow(allowance))
            for held in self.guard.engine.allowances():
                if held.subject == allowance.subject and held.name != allowance.name:
                    self.guard.act([Named(before=allowance, after=held)])


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
            blocked = self._orders.guard.engine.blocked_subjects()
            numbers = {subject for subject in blocked if subject.id == account.uid} | {Subject(id=account.uid)}
            subjects = sorted(numbers, key=lambda s: (s.id, s.scope or 0))
            ended = [e for subject in subjects for e in self._orders.unblock(subject, by="admin", reason=reason)]
        return [self._render(end.block) for end in ended]

    def _render(self, block: Block) -> Freed:
        name = self._orders.guard.account_of(block.subject).name
        return Freed(user=render_user(block.subject.id, name), source=block.source, ids=block.ids)
