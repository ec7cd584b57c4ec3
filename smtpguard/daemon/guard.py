"""The guard: the one consumer that owns all mutable state. Joins sources, engine, kernel, state and log.

Each connect goes through the engine at once; the kernel is told first, then state, then the journal. It holds no
policy of its own, and does nothing slow.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace

from smtpguard.daemon.clock import WallMap
from smtpguard.daemon.journal import Entry, Journal
from smtpguard.daemon.keeper import Keeper
from smtpguard.daemon.responder import Responder
from smtpguard.enrich.accounts import Accounts
from smtpguard.model import (
    NS,
    Account,
    Block,
    BreakerChange,
    Connect,
    Ended,
    Refusal,
    Subject,
    Verdict,
)
from smtpguard.policy.engine import Engine
from smtpguard.settings import Settings
from smtpguard.text import render_user

log = logging.getLogger(__name__)

_MAX_REFUSED_USERS = 65_536


class Guard:
    """What happens when something is seen, or a person asks.

    Args:
        settings: The configuration in force.
        engine: Decides.
        responder: Tells the kernel.
        journal: Writes.
        keeper: Keeps what survives a restart.
        accounts: Who is who.
        wall: Event time to wall time.
        now: CLOCK_BOOTTIME in nanoseconds.

    Attributes:
        refused: Attempts refused since the start, by subject.
        seen: Connects judged since the start.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        engine: Engine,
        responder: Responder,
        journal: Journal,
        keeper: Keeper,
        accounts: Accounts,
        wall: WallMap,
        now: Callable[[], int],
    ) -> None:
        self.settings = settings
        self.engine = engine
        self.responder = responder
        self.journal = journal
        self.keeper = keeper
        self.accounts = accounts
        self.wall = wall
        self.now = now
        self.refused: Counter[Subject] = Counter()
        self.seen = 0

    # -- what sources saw --------------------------------------------------------------------------------------------

    def take(self, connects: Iterable[Connect]) -> None:
        """Judge what a source saw, respond, and note it."""
        for connect in connects:
            if connect.uid is None:
                continue
            self.seen += 1
            decisions = self.engine.feed(connect)
            self._act(decisions)
            if self.engine.ignores(connect):
                continue
            account = self.accounts.account(self.accounts.owner(connect.uid))
            self.journal.add(
                Entry(
                    time_ns=connect.time_ns,
                    account=account,
                    connect=connect,
                    highest_limit=self.engine.highest_limit(account),
                    verdicts=[d for d in decisions if isinstance(d, Verdict)],
                    blocks=[d for d in decisions if isinstance(d, Block) and not d.renewed],
                )
            )

    def _act(self, decisions: Iterable[Verdict | Block | Refusal | Ended | BreakerChange]) -> None:
        for decision in decisions:
            match decision:
                case Block():
                    if decision.mode == "enforce":
                        self.responder.apply(decision.subject)
                    self.keeper.save_block(decision)
                case Refusal():
                    if len(self.refused) < _MAX_REFUSED_USERS or decision.subject in self.refused:
                        self.refused[decision.subject] += 1
                case Ended():
                    self._ended(decision)
                case BreakerChange():
                    self._tell_breaker(decision)
                case Verdict():
                    log.info(
                        "%s exceeded %s: %d in %d s, limit %d: %s (%s)",
                        render_user(decision.account.uid, decision.account.name),
                        decision.rule,
                        decision.count,
                        decision.window_ns // NS,
                        decision.limit,
                        decision.action,
                        decision.mode,
                    )

    def _ended(self, ended: Ended) -> None:
        self.responder.apply(ended.block.subject)
        self.keeper.end_block(ended)
        if ended.block.mode == "enforce":
            account = self.account_of(ended.block.subject)
            wall_ns = self.wall.to_wall_ns(ended.time_ns)
            self.journal.add_unblock(account, wall_ns=wall_ns, by=ended.by, reason=ended.reason)

    def _tell_breaker(self, change: BreakerChange) -> None:
        if change.tripped:
            log.warning("the breaker: %d new blocks: from here blocks are throttles (%s)", change.blocks, change.mode)
        else:
            log.warning("the breaker: calm again: blocks are blocks (%s)", change.mode)

    # -- time --------------------------------------------------------------------------------------------------------

    def next_deadline(self) -> int | None:
        """When the engine or the responder want their turn."""
        times = [t for t in (self.engine.next_deadline(), self.responder.next_deadline()) if t is not None]
        return min(times, default=None)

    def on_time(self, now_ns: int) -> None:
        """Let time pass."""
        self._act(self.engine.tick(now_ns))
        self.responder.on_time(now_ns)

    # -- what people ask ---------------------------------------------------------------------------------------------

    def begin(self, block: Block) -> bool:
        """Begin a block that a person or fail2ban asked for; False if a means of enforcement failed."""
        self.engine.add_block(block)
        fine = self.responder.apply(block.subject) if block.mode == "enforce" else True
        self.keeper.save_block(block)
        self.journal.add_block(self.account_of(block.subject), block)
        return fine

    def end(self, subject: Subject, source: str | None, *, by: str, reason: str) -> list[Ended]:
        """End a subject's blocks of one source, or of all."""
        ended = self.engine.end(subject, source, by=by, reason=reason, now_ns=self.now())
        self._act(ended)
        return ended

    def forgive(self, subject: Subject) -> None:
        """A person's unblock: empty windows, no memory of earlier blocks."""
        self.engine.reset(subject, self.now())
        self.refused.pop(subject, None)
        self.keeper.forget(subject)

    def account_of(self, subject: Subject) -> Account:
        """The account of a subject; a container's has no name here, whatever its number."""
        account = self.accounts.account(subject.uid)
        return account if subject.netns is None else replace(account, name=None)
