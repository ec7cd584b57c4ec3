"""`allow`: gives an account an allowance and ends it; what whoever asks hears is what the kernel does."""

import logging

from smtpguard.clock import WallMap, render_moment
from smtpguard.control.answer import Answer
from smtpguard.daemon.enforce.enforcement import Enforcement
from smtpguard.daemon.guard import Guard
from smtpguard.daemon.serve.allowance_terms import check_member, check_standing, render_kept, render_much
from smtpguard.daemon.serve.asker import Asker, not_carried_out
from smtpguard.daemon.serve.orders import Orders
from smtpguard.daemon.serve.requests import AllowRequest
from smtpguard.daemon.serve.unblock import MAX_REASON, find_account
from smtpguard.enrich.accounts.directory import AccountDirectory
from smtpguard.hooks import ClockNs
from smtpguard.model import NS, Allowance, Subject
from smtpguard.text import render_user

log = logging.getLogger(__name__)


class AllowCommand:
    """Gives allowances.

    Args:
        orders: What carries out what is asked.
        guard: The configuration in force.
        enforcement: Whether the kernel does it.
        accounts: Who is who.
        wall: Event time to wall time.
        now: CLOCK_BOOTTIME in nanoseconds.
    """

    def __init__(
        self,
        orders: Orders,
        guard: Guard,
        enforcement: Enforcement,
        *,
        accounts: AccountDirectory,
        wall: WallMap,
        now: ClockNs,
    ) -> None:
        self._orders = orders
        self._guard = guard
        self._enforcement = enforcement
        self._accounts = accounts
        self._wall = wall
        self._now = now

    def __call__(self, request: AllowRequest, asker: Asker, /) -> Answer:
        """Give one, or end it.

        Raises:
            GuardError: It can't be done, or the kernel does not do it yet.
        """
        account = find_account(self._accounts, user=request.user, uid=request.uid)
        user = render_user(account.uid, account.name)
        subject = Subject(id=account.uid)
        reason = request.reason[:MAX_REASON]
        if request.for_ns is None or request.end:
            ended = self._orders.end_allowance(subject, reason=reason)
            if ended:
                log.warning("allowance of %s removed, asked by %s", user, asker.who)
            return self._told_kernel(
                f"Allowance of {user} removed. Normal limits apply now." if ended else f"{user} has no allowance."
            )
        note = check_standing(account, user)
        now_ns = self._now()
        allowance = Allowance(
            subject=subject,
            name=account.name,
            since_ns=now_ns,
            until_ns=now_ns + request.for_ns,
            by="admin",
            reason=reason,
            limit=request.limit,
            window_ns=request.window_ns,
            everything=request.everything,
        )
        if asker.is_member:
            longest_ns = self._guard.settings.control_allow_max_ns
            check_member(allowance, self._orders.blocks_of(subject), longest_ns=longest_ns)
        self._orders.allow(allowance)
        until = render_moment((allowance.until_ns + self._wall.offset_ns) / NS)
        log.warning("%s may send more until %s, asked by %s", user, until, asker.who)
        return self._told_kernel(
            f"{user} may open {render_much(allowance)} until {until}{render_kept(allowance)}{note}"
        )

    def _told_kernel(self, text: str) -> Answer:
        """What was done about an allowance, if the kernel does it too."""
        if not self._enforcement.health.knows_exemptions():
            raise not_carried_out(text, self._enforcement)
        return {"text": text}
