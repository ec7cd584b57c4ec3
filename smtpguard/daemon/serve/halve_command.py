"""`incidents close --watch` and `incidents unwatch`: half of a user's limits for a time, as people ask for it."""

import logging

from smtpguard.clock import WallMap, render_moment
from smtpguard.control.answer import Answer
from smtpguard.daemon.serve.asker import Asker
from smtpguard.daemon.serve.history_requests import HalveRequest
from smtpguard.daemon.serve.unblock import MAX_REASON, find_account
from smtpguard.daemon.watches import Watches
from smtpguard.enrich.accounts.directory import AccountDirectory
from smtpguard.errors import PolicyError
from smtpguard.model import NS
from smtpguard.policy.subject_state import NEVER_REFUSED
from smtpguard.text import render_user, tell_limits

log = logging.getLogger(__name__)


class HalveCommand:
    """Answers `halve`.

    Args:
        watches: What carries it out.
        accounts: Who is who.
        wall: Event time to wall time.
    """

    def __init__(self, watches: Watches, accounts: AccountDirectory, wall: WallMap) -> None:
        self._watches = watches
        self._accounts = accounts
        self._wall = wall

    def __call__(self, request: HalveRequest, asker: Asker, /) -> Answer:
        """Begin a watch, or end it.

        Raises:
            PolicyError: The account has no limits.
        """
        account = find_account(self._accounts, user=request.user, uid=request.uid)
        user = render_user(account.uid, account.name)
        if request.for_ns is None:
            ended = self._watches.end(account)
            if ended:
                log.warning("watch of %s ended, asked by %s", user, asker.who)
            return {
                "text": f"{user} is watched no more. Usual limits apply now." if ended else f"{user} is not watched."
            }
        if account.standing in NEVER_REFUSED:
            raise PolicyError(f"{user} has no limits to halve ({account.reason or account.standing})")
        reason = request.reason[:MAX_REASON]
        watch = self._watches.begin(account, for_ns=request.for_ns, reason=reason, incident=request.incident or None)
        until = render_moment((watch.until_ns + self._wall.offset_ns) / NS)
        now = self._watches.describe(watch)
        log.warning("%s is watched until %s, %s, asked by %s", user, until, tell_limits(now), asker.who)
        told = f"Limits of {user} are halved until {until}"
        if now["allowed_until"] is not None:
            told = f"{user} is watched until {until}: {tell_limits(now)}"
        return {"text": f"{told}. Undo: smtpguard incidents unwatch {user}"}
