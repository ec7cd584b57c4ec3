"""Carries out what the engine decided: the kernel is told first, then state, then the journal. It decides nothing.

Verdicts, people's orders, ends and heals come this way alike, so that a block is told and kept in one way whoever
began or ended it.
"""

import logging
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

from smtpguard.clock import WallMap, render_until
from smtpguard.daemon.enforce.enforcement import Enforcement
from smtpguard.daemon.record.journal import Journal
from smtpguard.daemon.record.notices import render_brake, render_owner
from smtpguard.enrich.accounts.directory import AccountDirectory
from smtpguard.hooks import ClockNs
from smtpguard.model import (
    Account,
    Allowance,
    AllowanceEnded,
    Block,
    BreakerChange,
    Decision,
    Ended,
    Extended,
    Named,
    Refusal,
    Subject,
    Verdict,
    WatchEnded,
)
from smtpguard.policy.subjects import account_of
from smtpguard.settings import BreakerLimits, Settings
from smtpguard.state.rows import AllowanceRow, BlockRow, EscalationRow
from smtpguard.state.statements import block_key, key_of
from smtpguard.state.writer import StateWriter
from smtpguard.text import render_ports, render_user

if TYPE_CHECKING:
    from smtpguard.daemon.record.metric_totals import MetricTotals

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


class LeftToJail(Protocol):
    """Told of verdicts whose block is left to fail2ban: daemon/serve/jail_bans.py."""

    def left(self, verdict: Verdict) -> None:
        """A rule was exceeded."""


class HearsBrake(Protocol):
    """Has others told of the safety brake: daemon/outlet/occasions.py."""

    def brake(self, change: BreakerChange, limits: BreakerLimits) -> None:
        """It has taken hold or let go."""


class EndWatch(Protocol):
    """Told of watches that are over: daemon/watches.py."""

    def ended(self, ended: WatchEnded) -> None:
        """One is."""


class Execution:
    """What follows from decisions.

    Args:
        settings: The configuration in force.
        enforcement: Tells the kernel.
        journal: Writes.
        state: Keeps what survives a restart.
        accounts: Who is who.
        wall: Event time to wall time.
        now: CLOCK_BOOTTIME in nanoseconds.

    Attributes:
        refused: Attempts refused since the start, by subject; an unblock forgets its subject's.
        refused_sum: Attempts refused since the start; it never goes back.
        doubts: Who asks whether a destination is exempt; None where nobody does.
        jail: Who remembers what was left to fail2ban; None where nobody does.
        totals: What metrics count; None where nobody wants them.
        herald: Who has others told; None where nobody is.
        watches: Who keeps watches; None where nobody does.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        enforcement: Enforcement,
        journal: Journal,
        state: StateWriter,
        accounts: AccountDirectory,
        wall: WallMap,
        now: ClockNs,
    ) -> None:
        self._settings = settings
        self._enforcement = enforcement
        self._journal = journal
        self._state = state
        self._accounts = accounts
        self._wall = wall
        self._now = now
        self.refused: Counter[Subject] = Counter()
        self.refused_sum = 0
        journal.notices.refused = self.refused
        self.doubts: Doubts | None = None
        self.jail: LeftToJail | None = None
        self.totals: MetricTotals | None = None
        self.herald: HearsBrake | None = None
        self.watches: EndWatch | None = None

    def reconfigure(self, settings: Settings) -> None:
        """Take a new configuration."""
        self._settings = settings

    def act(self, decisions: Iterable[Decision], *, settle: bool = False) -> None:
        """Carry out and note what the engine decided; `settle` as in Reconciler.apply."""
        for decision in decisions:
            if isinstance(decision, Verdict) and self.jail is not None and self._is_left(decision):
                self.jail.left(decision)
            match decision:
                case Block():
                    if self.carry_out(decision, settle=settle) and self.totals is not None:
                        self.totals.add_response(decision, self._now())
                case Refusal():
                    if self.doubts is not None:
                        self.doubts.refused(decision)
                case Verdict() if self.doubts is not None:
                    self.doubts.judged(decision)
                case Extended():
                    self.carry_out(decision.block)
                    self._journal.add_extended(self.account_of(decision.block.subject), decision.block)
                    user = render_owner(self.account_of(decision.block.subject))
                    where = render_ports(decision.block.ports)
                    until = render_until(
                        decision.block.until_ns + self._wall.offset_ns, self._wall.to_wall_ns(self._now())
                    )
                    log.warning("%s still BLOCKED%s, until %s: its attempts have not stopped.", user, where, until)
                case Ended():
                    self._ended(decision)
                case BreakerChange():
                    log.warning("%s", render_brake(decision, self._settings.breaker))
                    if self.herald is not None:
                        self.herald.brake(decision, self._settings.breaker)
                case AllowanceEnded():
                    self._allowance_ended(decision)
                case WatchEnded() if self.watches is not None:
                    self.watches.ended(decision)
                case Named():
                    self._keep_named(decision)

    def carry_out(self, block: Block, *, settle: bool = False) -> bool:
        """Tell kernel and state of a block that began; False if a means of enforcement failed."""
        self._journal.notices.hold(block, self.account_of(block.subject))
        fine = block.mode != "enforce" or self._enforcement.carry_out(block.subject, settle=settle)
        if not block.renewed:
            self._state.put(BlockRow.of(block, self._wall.offset_ns))
            self._keep_escalation(block, block.level + 1, block.until_ns)
        return fine

    def _keep_escalation(self, block: Block, level: int, last_ns: int) -> None:
        """How often a user was blocked is known after a restart."""
        if (block.source, block.kind, block.mode) == ("guard", "block", "enforce") and block.subject.scope is None:
            uid, wall_ns = block.subject.id, last_ns + self._wall.offset_ns
            self._state.put(EscalationRow(uid=uid, name=block.name, level=level, last_ns=wall_ns))

    def count_refused(self, subject: Subject) -> None:
        """An attempt of theirs was refused by one of our means, the one that exceeded an exact limit among them."""
        self.refused_sum += 1
        if len(self.refused) < _MAX_REFUSED_USERS or subject in self.refused:
            self.refused[subject] += 1

    def show_user(self, uid: int) -> str:
        """A user of this host, for people."""
        return render_user(uid, self.account_of(Subject(id=uid)).name)

    def account_of(self, subject: Subject) -> Account:
        """The account of a subject."""
        return account_of(self._accounts, subject)

    def _is_left(self, verdict: Verdict) -> bool:
        """Whether the block over a verdict is fail2ban's to make."""
        return self._settings.block_by == "fail2ban" and verdict.action == "block" and verdict.mode == "enforce"

    def _ended(self, ended: Ended) -> None:
        self._enforcement.carry_out(ended.block.subject)
        self._state.delete(block_key(ended.block))
        if ended.by == "exempt":  # as if it had not been
            self._keep_escalation(ended.block, ended.block.level, ended.block.since_ns)
        if ended.block.mode == "enforce":
            account = self.account_of(ended.block.subject)
            self._journal.add_unblock(account, ended.block, by=ended.by, reason=ended.reason)
        if ended.by == "name":
            self.refused.pop(ended.block.subject, None)

    def _keep_named(self, named: Named) -> None:
        """The name came of whom a block or an allowance was made by uid alone: they are kept under it from now on."""
        match named.before, named.after:
            case Block() as before, Block() as after:
                self._state.delete(block_key(before))
                if not after.renewed:
                    self._state.put(BlockRow.of(after, self._wall.offset_ns))
            case Allowance() as before, Allowance() as after:
                self._state.delete(key_of(AllowanceRow.of(before, 0)))
                self._state.put(AllowanceRow.of(after, self._wall.offset_ns))
        uid = named.after.subject.id
        log.info(
            "uid %d is %s: its block or allowance belongs to that name now", uid, render_user(uid, named.after.name)
        )

    def _allowance_ended(self, ended: AllowanceEnded) -> None:
        allowance = ended.allowance
        user = render_user(allowance.subject.id, allowance.name)
        log.info("Allowance of %s ended (%s). Normal limits apply now.", user, _ENDED_BY.get(ended.by, ended.by))
        if allowance.subject.scope is None:
            self._enforcement.credits.reset(allowance.subject.id, ended.time_ns - 1)
        if ended.by != "allow":
            account = self.account_of(allowance.subject)
            now_wall_ns = self._wall.to_wall_ns(min(ended.time_ns, self._now()))
            self._journal.add_allow(
                account, until_wall_ns=now_wall_ns, by=ended.by, reason="ended" if not ended.reason else ended.reason
            )
            self._state.delete(key_of(AllowanceRow.of(allowance, 0)))
            self._enforcement.request("allowance")
