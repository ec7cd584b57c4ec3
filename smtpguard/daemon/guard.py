"""The guard: the one consumer that owns all mutable state. Joins sources, engine, kernel, state and log.

Each connect goes through the engine at once; the kernel is told first, then state, then the journal. It holds no
policy of its own, and does nothing slow.
"""

import logging
from collections import Counter
from collections.abc import Iterable
from typing import Protocol

from smtpguard.actions.suppression import highest_limit
from smtpguard.clock import WallMap, render_until
from smtpguard.daemon.enforce.enforcement import Enforcement
from smtpguard.daemon.loop import TimedPart
from smtpguard.daemon.record.enrichment_queue import Entry
from smtpguard.daemon.record.journal import Journal
from smtpguard.daemon.record.notices import render_brake
from smtpguard.enrich.accounts.directory import AccountDirectory
from smtpguard.hooks import ClockNs
from smtpguard.logline import render_time
from smtpguard.model import (
    NS,
    Account,
    Allowance,
    AllowanceEnded,
    Block,
    BreakerChange,
    Connect,
    Decision,
    Ended,
    Extended,
    Named,
    Refusal,
    SocketReport,
    Subject,
    Verdict,
)
from smtpguard.policy.destinations import Destinations
from smtpguard.policy.engine import Engine
from smtpguard.policy.rules import compile_terms, override_index
from smtpguard.policy.subjects import account_of, subject_of
from smtpguard.settings import Settings
from smtpguard.state.rows import AllowanceRow, BlockRow
from smtpguard.state.statements import block_key, key_of
from smtpguard.state.writer import StateWriter
from smtpguard.text import render_user

log = logging.getLogger(__name__)

_MAX_REFUSED_USERS = 65_536
_ENDED_BY = {
    "time": "its time is over",
    "name": "the uid is another account's now",
    "allow": "a new one replaces it",
    "admin": "ended by hand",
}


class Doubts(Protocol):
    """Told of attempts whose destination may be exempt though nobody knows it yet: daemon/forgiveness.py."""

    def judged(self, verdict: Verdict) -> None:
        """A rule was exceeded."""

    def refused(self, refusal: Refusal) -> None:
        """An attempt was refused, or would have been."""

    def is_undone(self, subject: Subject, at_ns: int) -> bool:
        """Whether a ban that began at an event time follows a verdict that was undone."""


class LeftToJail(Protocol):
    """Told of verdicts whose block is left to fail2ban: daemon/serve/jail_bans.py."""

    def left(self, verdict: Verdict) -> None:
        """A rule was exceeded."""


class Guard(TimedPart):
    """What happens when something is seen, when time passes, and when a person asks; a part of the loop.

    Args:
        settings: The configuration in force.
        engine: Decides.
        enforcement: Tells the kernel.
        journal: Writes.
        state: Keeps what survives a restart.
        accounts: Who is who.
        destinations: What never counts.
        wall: Event time to wall time.
        now: CLOCK_BOOTTIME in nanoseconds.

    Attributes:
        refused: Attempts refused since the start, by subject.
        seen: Connects taken since the start.
        doubts: Who asks whether a destination is exempt; None where nobody does.
        jail: Who remembers what was left to fail2ban; None where nobody does.
        freed: Whom somebody freed while the state could not be read, and of which source's block; None for all of
            them, or of everybody. What the state holds of these is over.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        engine: Engine,
        enforcement: Enforcement,
        journal: Journal,
        state: StateWriter,
        accounts: AccountDirectory,
        destinations: Destinations,
        wall: WallMap,
        now: ClockNs,
    ) -> None:
        self.settings = settings
        self.engine = engine
        self.enforcement = enforcement
        self.journal = journal
        self.state = state
        self.accounts = accounts
        self._destinations = destinations
        self.wall = wall
        self.now = now
        self._limits: dict[int | None, int] = {}
        self.refused: Counter[Subject] = Counter()
        self.seen = 0
        self.doubts: Doubts | None = None
        self.jail: LeftToJail | None = None
        self.freed: set[tuple[Subject | None, str | None]] = set()

    # -- what sources saw --------------------------------------------------------------------------------------------

    def take(self, connects: Iterable[Connect], *, early: bool = False) -> None:
        """Judge what a source saw, respond, and note it: all are judged before the first is noted.

        Args:
            connects: The attempts.
            early: They were found in the kernel's verdicts: the source may tell of them later, or not at all.
        """
        judged: list[tuple[Connect, Subject, list[Decision]]] = []
        try:
            for seen in connects:
                self._judge(self.enforcement.cap.mark(seen), judged, early=early)
        finally:  # an attempt that meets a mistake of ours takes none of those before it with it
            self._note(judged)

    def hear(self, connects: Iterable[Connect]) -> None:
        """Judge what `proc` was alone to see, beside a better source: it is told and logged, and nobody is stopped."""
        judged: list[tuple[Connect, Subject, list[Decision]]] = []
        try:
            for connect in connects:
                decisions = self.engine.hear(connect)
                self.act(decisions)
                if connect.uid is not None:
                    judged.append((connect, subject_of(self.accounts, connect.uid), decisions))
        finally:
            self._note(judged)

    def _judge(self, connect: Connect, judged: list[tuple[Connect, Subject, list[Decision]]], *, early: bool) -> None:
        limits = self.enforcement.credits
        if connect.refused_by == "credit" and connect.uid is not None:
            if not early and limits.is_known(connect):
                return
            missed = limits.prepare(connect, subject_of(self.accounts, connect.uid, connect.netns))
            if missed is not None:
                self._judge(missed, judged, early=True)
        decisions = self.engine.feed(connect)
        self.act(decisions, settle=connect.refused_by == "credit")
        if connect.uid is None:
            return
        subject = subject_of(self.accounts, connect.uid, connect.netns)
        limits.note(connect, subject, decisions)
        judged.append((connect, subject, decisions))

    def _note(self, judged: list[tuple[Connect, Subject, list[Decision]]]) -> None:
        self.seen += len(judged)
        for connect, subject, decisions in judged:
            if self.settings.loopback == "ignore" and self._destinations.why_exempt(connect.address) == "loopback":
                continue
            account = self.account_of(subject)
            self.journal.add(
                Entry(
                    connect=connect,
                    account=account,
                    subject=subject,
                    refused=any(isinstance(d, Refusal) and d.connect.result != "allowed" for d in decisions),
                    highest_limit=self._highest_limit(account),
                    verdicts=[d for d in decisions if isinstance(d, Verdict)],
                    blocks=[d for d in decisions if isinstance(d, Block) and not d.renewed],
                )
            )

    def take_reports(self, reports: Iterable[SocketReport]) -> None:
        """Judge what became of connections (rules that count failures or bytes)."""
        for report in reports:
            if report.kind == "established" and report.uid and self._destinations.why_exempt(report.address) is None:
                self.enforcement.end_late(subject_of(self.accounts, report.uid, report.netns), report.port)
            decisions = self.engine.report(report)
            if not decisions:
                continue
            self.act(decisions)
            verdicts = [decision for decision in decisions if isinstance(decision, Verdict)]
            if verdicts:
                self.journal.add(
                    Entry(
                        connect=verdicts[0].connect,
                        account=verdicts[0].account,
                        subject=verdicts[0].subject,
                        is_new=False,
                        verdicts=verdicts,
                        blocks=[d for d in decisions if isinstance(d, Block) and not d.renewed],
                    )
                )

    def _is_left(self, verdict: Verdict) -> bool:
        """Whether the block over a verdict is fail2ban's to make."""
        return self.settings.block_by == "fail2ban" and verdict.action == "block" and verdict.mode == "enforce"

    def act(self, decisions: Iterable[Decision], *, settle: bool = False) -> None:
        """Carry out and note what the engine decided; `settle` as in Reconciler.apply."""
        for decision in decisions:
            if isinstance(decision, Verdict) and self.jail is not None and self._is_left(decision):
                self.jail.left(decision)
            match decision:
                case Block():
                    self.carry_out(decision, settle=settle)
                case Refusal():
                    self._count_refusal(decision)
                    if self.doubts is not None:
                        self.doubts.refused(decision)
                case Verdict() if self.doubts is not None:
                    self.doubts.judged(decision)
                case Extended():
                    self.carry_out(decision.block)
                    self.journal.add_extended(self.account_of(decision.block.subject), decision.block)
                    user = render_user(decision.block.subject.id, decision.block.name)
                    until = render_until(
                        decision.block.until_ns + self.wall.offset_ns, self.wall.to_wall_ns(self.now())
                    )
                    log.warning("%s still BLOCKED, until %s: its attempts have not stopped.", user, until)
                case Ended():
                    self._ended(decision)
                case BreakerChange():
                    log.warning("%s", render_brake(decision, self.settings.breaker))
                case AllowanceEnded():
                    self._allowance_ended(decision)
                case Named():
                    self._keep_named(decision)

    def _count_refusal(self, refusal: Refusal) -> None:
        """Count what was refused: what slipped through before the kernel knew, or in dry run, was not."""
        if refusal.mode != "enforce" or refusal.connect.result == "allowed":
            return
        if len(self.refused) < _MAX_REFUSED_USERS or refusal.subject in self.refused:
            self.refused[refusal.subject] += 1

    def _highest_limit(self, account: Account) -> int:
        """The highest limit of a user's rules: so many of his CONNECT lines are always written."""
        index = override_index(self.settings, account)
        known = self._limits.get(index)
        if known is None:
            rules = compile_terms(self.settings, index, "").of("enforce")
            known = self._limits[index] = highest_limit(rules)
        return known

    def carry_out(self, block: Block, *, settle: bool = False) -> bool:
        """Tell kernel and state of a block that began; False if a means of enforcement failed."""
        fine = block.mode != "enforce" or self.enforcement.carry_out(block.subject, settle=settle)
        if not block.renewed:
            self.state.put(BlockRow.of(block, self.wall.offset_ns))
        return fine

    def _ended(self, ended: Ended) -> None:
        self.enforcement.carry_out(ended.block.subject)
        self.state.delete(block_key(ended.block))
        if ended.block.mode == "enforce":
            account = self.account_of(ended.block.subject)
            self.journal.add_unblock(account, ended.block, by=ended.by, reason=ended.reason)

    # -- time --------------------------------------------------------------------------------------------------------

    def next_deadline(self) -> int | None:
        """When the engine wants its turn."""
        return self.engine.next_deadline()

    def on_time(self, now_ns: int) -> None:
        """Let time pass."""
        self.act(self.engine.tick(now_ns))
        overdue = self.enforcement.credits.take_overdue(now_ns)
        if overdue:
            self.take(overdue, early=True)

    # -- what changes around it --------------------------------------------------------------------------------------

    def _keep_named(self, named: Named) -> None:
        """The name came of whom a block or an allowance was made by uid alone: they are kept under it from now on."""
        match named.before, named.after:
            case Block() as before, Block() as after:
                self.state.delete(block_key(before))
                if not after.renewed:
                    self.state.put(BlockRow.of(after, self.wall.offset_ns))
            case Allowance() as before, Allowance() as after:
                self.state.delete(key_of(AllowanceRow.of(before, 0)))
                self.state.put(AllowanceRow.of(after, self.wall.offset_ns))
        uid = named.after.subject.id
        log.info(
            "uid %d is %s: its block or allowance belongs to that name now", uid, render_user(uid, named.after.name)
        )

    def _allowance_ended(self, ended: AllowanceEnded) -> None:
        allowance = ended.allowance
        user = render_user(allowance.subject.id, allowance.name)
        log.info("Allowance of %s ended (%s). Normal limits apply now.", user, _ENDED_BY.get(ended.by, ended.by))
        if allowance.subject.scope is None:
            self.enforcement.credits.reset(allowance.subject.id)
        if ended.by != "allow":
            account = self.account_of(allowance.subject)
            now_wall_ns = self.wall.to_wall_ns(min(ended.time_ns, self.now()))
            self.journal.add_allow(
                account, until_wall_ns=now_wall_ns, by=ended.by, reason="ended" if not ended.reason else ended.reason
            )
            self.state.delete(key_of(AllowanceRow.of(allowance, 0)))
            self.enforcement.request("allowance")

    def reconfigure(self, settings: Settings) -> None:
        """Take a new configuration: windows go on; who is exempt now is free."""
        self.settings = settings
        self._limits.clear()
        self.act(self.engine.reconfigure(settings, self.accounts, self.now()))

    def explain(self, uid: int) -> str:
        """What a refused sender is told: why, until when, and a reference for the administrator."""
        now_ns = self.now()
        held = [b for b in self.engine.blocks_of(Subject(id=uid)) if b.mode == "enforce" and b.until_ns > now_ns]
        user = render_user(uid, self.account_of(Subject(id=uid)).name)
        if not held:
            return f"SMTP of {user} is limited on this server; try again later"
        last = max(held, key=lambda block: block.until_ns)
        until = render_time(last.until_ns + self.wall.offset_ns)
        reference = f"{user}-{(last.since_ns + self.wall.offset_ns) // NS}"
        return f"SMTP of {user} is refused until {until}: {last.rule or last.source} (ref {reference})"

    def show_user(self, uid: int) -> str:
        """A user of this host, for people."""
        return render_user(uid, self.account_of(Subject(id=uid)).name)

    def account_of(self, subject: Subject) -> Account:
        """The account of a subject."""
        return account_of(self.accounts, subject)
