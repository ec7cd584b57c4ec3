"""Who was refused at a relay's new address: asks whether an exempt name gives it now, and undoes what it led to.

The bound is one refused attempt a new address. What is undone is the very block whose verdict was over an attempt at
that address, the guard's and the fail2ban jail's that followed it; who was blocked for anything else stays blocked.
"""

import logging
from collections import OrderedDict
from collections.abc import Iterable
from typing import Literal, Protocol, TypeVar

from smtpguard.actions.fail2ban import parse_jail
from smtpguard.daemon.execution import Execution
from smtpguard.enrich.host_addresses import Cleared
from smtpguard.hooks import ClockNs, TellFail2ban
from smtpguard.model import NS, Block, Refusal, Subject, Verdict
from smtpguard.policy.engine import Engine
from smtpguard.text import render_address, render_user

T = TypeVar("T")

log = logging.getLogger(__name__)

MAX_REMEMBERED = 4096
"""Users whose last verdict is remembered."""
BAN_NS = 30 * NS
"""How long after its verdict a ban of fail2ban may come; the time in its log line may be a second early."""
_EARLY_NS = 2 * NS


class Doubt(Protocol):
    """Asks whether an address is an exempt name's; never waits."""

    def __call__(self, address: bytes, subject: Subject, /) -> None:
        """Ask for one attempt."""


class Requested(Protocol):
    """Follows the engine."""

    def request(self, reason: Literal["forgiven"]) -> None:
        """Put everything in step before this turn of the loop is over."""
        ...


class Forgiveness:
    """Undoes what attempts at exempt destinations led to that were not known as such.

    Args:
        engine: Knows who is blocked.
        execution: Carries out what was decided.
        enforcement: Follows the engine.
        now: CLOCK_BOOTTIME in nanoseconds.
        doubt: Asks for an address.
        tell_fail2ban: Unbans.
    """

    def __init__(
        self,
        engine: Engine,
        execution: Execution,
        enforcement: Requested,
        now: ClockNs,
        *,
        doubt: Doubt,
        tell_fail2ban: TellFail2ban,
    ) -> None:
        self._engine = engine
        self._execution = execution
        self._enforcement = enforcement
        self._now = now
        self._doubt = doubt
        self._tell_fail2ban = tell_fail2ban
        self._judged: OrderedDict[Subject, tuple[int, bytes]] = OrderedDict()
        self._cleared: OrderedDict[Subject, int] = OrderedDict()

    def judged(self, verdict: Verdict) -> None:
        """A rule was exceeded."""
        if verdict.action == "warn":
            return
        if verdict.action == "block" and verdict.mode == "enforce":
            _remember(self._judged, verdict.subject, (verdict.time_ns, verdict.connect.address))
            self._cleared.pop(verdict.subject, None)
        self._doubt(verdict.connect.address, verdict.subject)

    def refused(self, refusal: Refusal) -> None:
        """An attempt was refused, or would have been."""
        self._doubt(refusal.connect.address, refusal.subject)

    def is_undone(self, subject: Subject, at_ns: int) -> bool:
        """Whether a ban that began at a time follows a verdict that was undone.

        Args:
            subject: Who is banned.
            at_ns: Event time.
        """
        time_ns = self._cleared.get(subject)
        return time_ns is not None and time_ns - _EARLY_NS <= at_ns <= time_ns + BAN_NS

    def take(self, found: Iterable[Cleared]) -> None:
        """Addresses turned out to be exempt; what the kernel lets pass is told already."""
        engine = self._engine
        for cleared in found:
            now_ns = self._now()
            subject, address = cleared.subject, render_address(cleared.address)
            reason = f"{address} is {cleared.name}, which is exempt"
            user = render_user(subject.id, self._execution.account_of(subject).name)
            log.warning("%s was refused at a new address of %s, %s: it is exempt now", user, cleared.name, address)
            ended = engine.commands.forgive(subject, cleared.address, now_ns=now_ns, reason=reason)
            time_ns, where = self._judged.get(subject, (0, b""))
            if where == cleared.address and now_ns <= time_ns + BAN_NS:
                _remember(self._cleared, subject, time_ns)
                engine.commands.judge_again(subject, now_ns)
                for block in engine.blocks_of(subject):
                    if self.is_undone(subject, block.since_ns) and parse_jail(block.source) is not None:
                        ended += engine.commands.end(
                            subject, source=block.source, by="exempt", now_ns=now_ns, reason=reason
                        )
                        self.unban(block, user)
            self._execution.act(ended)
            if ended:
                log.warning("%s may send again: %s", user, reason)
                self._enforcement.request("forgiven")

    def unban(self, block: Block, user: str) -> None:
        """Tell fail2ban that its ban is over.

        Args:
            block: What it asked for.
            user: The user as the event log writes them.
        """
        for known_as in block.ids or (user,):
            self._tell_fail2ban([block.source], known_as)


def _remember(memory: OrderedDict[Subject, T], subject: Subject, value: T) -> None:
    memory[subject] = value
    memory.move_to_end(subject)
    if len(memory) > MAX_REMEMBERED:
        memory.popitem(last=False)
