"""`block`, as a person and a jail of fail2ban ask for it: whom, from when to when, which ports, and what they hear."""

import logging
from typing import Protocol

from smtpguard.clock import WallMap, render_moment
from smtpguard.control.answer import Answer
from smtpguard.daemon.enforce.enforcement import Enforcement
from smtpguard.daemon.enforce.off_switch import OffSwitch
from smtpguard.daemon.guard import Guard
from smtpguard.daemon.record.notices import render_owner
from smtpguard.daemon.serve.asker import Asker, not_carried_out
from smtpguard.daemon.serve.block_wish import USUAL_NS, check_ports, merge_wish
from smtpguard.daemon.serve.jail_bans import JailBans, Ports
from smtpguard.daemon.serve.orders import Orders
from smtpguard.daemon.serve.requests import MAX_SPAN_NS, BlockRequest
from smtpguard.daemon.serve.unblock import MAX_REASON, find_account
from smtpguard.enrich.accounts.directory import AccountDirectory
from smtpguard.errors import PolicyError
from smtpguard.hooks import ClockNs, TellFail2ban
from smtpguard.model import NS, Account, Block, Subject
from smtpguard.text import render_ports, render_user

log = logging.getLogger(__name__)

_MAX_IDS = 8
_MAX_ID = 255


class Undone(Protocol):
    """Knows which verdicts were undone: daemon/forgiveness.py."""

    def is_undone(self, subject: Subject, at_ns: int) -> bool:
        """Whether a ban that began at an event time follows a verdict that was undone."""


class BlockCommand:
    """Begins blocks.

    Args:
        orders: What carries out what is asked.
        guard: The configuration in force.
        enforcement: Whether the kernel does it.
        switch: Whether the guard is off.
        undone: Which verdicts were undone; None where nobody knows.
        jail: Which verdicts were left to fail2ban.
        tell_fail2ban: Called with the source of a ban that is taken back, and the user as that jail calls them.
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
        switch: OffSwitch,
        undone: Undone | None,
        jail: JailBans,
        tell_fail2ban: TellFail2ban,
        accounts: AccountDirectory,
        wall: WallMap,
        now: ClockNs,
    ) -> None:
        self._orders = orders
        self._guard = guard
        self._enforcement = enforcement
        self._switch = switch
        self._undone = undone
        self._jail = jail
        self._tell_fail2ban = tell_fail2ban
        self._accounts = accounts
        self._wall = wall
        self._now = now

    def __call__(self, request: BlockRequest, asker: Asker, /) -> Answer:
        """Begin one.

        Raises:
            GuardError: It can't be done, or the kernel does not do it yet.
        """
        source = request.source or "admin"
        account = find_account(self._accounts, user=request.user, uid=request.uid, from_fail2ban=source != "admin")
        user, now_ns = render_user(account.uid, account.name), self._now()
        # fail2ban's bantime -1, a ban without end, is the longest that a person can ask for.
        usual_ns = USUAL_NS if source == "admin" else MAX_SPAN_NS
        length_ns = min(request.for_ns if request.for_ns is not None else usual_ns, MAX_SPAN_NS)
        ports = check_ports(request.ports, self._guard.settings.ports)
        since_ns = now_ns
        if source != "admin":
            if request.at is not None:
                since_ns = min(now_ns, round(request.at * NS) - self._wall.offset_ns)
            refused = self._refuse_ban(request, account, source, since_ns, until_ns=since_ns + length_ns)
            if refused:
                return {"text": refused}
            if ports is None:
                ports = self._jail.ports_of(Subject(id=account.uid), source, since_ns)
            if self._guard.settings.dry_run:
                until = self._moment(since_ns + length_ns)
                return {"text": f"DRY RUN, nothing refused: would block {user} until {until}"}
        block = self._make_block(request, account, source, ports=ports, since_ns=now_ns, until_ns=since_ns + length_ns)
        before_ns = None
        if source == "admin":
            held = self._orders.blocks_of(block.subject)
            merged = merge_wish(block, held, has_length=request.for_ns is not None)
            block, before_ns = merged.block, merged.before_ns
        fine = self._orders.begin(block, force=request.force)
        until = self._moment(block.until_ns)
        where = render_ports(block.ports)
        log.warning("%s BLOCKED%s until %s by %s, asked by %s", render_owner(account), where, until, source, asker.who)
        text = self._render(block, account, before_ns)
        if not fine:
            raise not_carried_out(text, self._enforcement)
        return {"text": text, "until": (block.until_ns + self._wall.offset_ns) / NS}

    def _refuse_ban(self, request: BlockRequest, account: Account, source: str, since_ns: int, *, until_ns: int) -> str:
        """Why a jail's ban is not carried out, for its log; "" if it is."""
        user = render_user(account.uid, account.name)
        if account.standing != "tenant":
            raise PolicyError(f"{user} is not blocked: {account.standing}: {account.reason}")
        if until_ns <= self._now():
            return f"{user} is not blocked: that ban is over already"
        if self._undone is not None and self._undone.is_undone(Subject(id=account.uid), since_ns):
            self._tell_fail2ban([source], request.user or user)
            return f"{user} is not blocked: that verdict was over an exempt destination"
        return ""

    def _make_block(
        self, request: BlockRequest, account: Account, source: str, *, ports: Ports, since_ns: int, until_ns: int
    ) -> Block:
        subject = Subject(id=account.uid)
        return Block(
            subject=subject,
            name=account.name,
            source=source,
            kind="block",
            since_ns=since_ns,
            until_ns=until_ns,
            mode="enforce",
            reason=request.reason[:MAX_REASON],
            ids=self._list_ids(subject, source, request.user),
            ports=ports,
        )

    def _list_ids(self, subject: Subject, source: str, known_as: str) -> tuple[str, ...]:
        """Every id under which a jail holds a user: a person may ban by uid whom the log calls by name."""
        if source == "admin":
            return ()
        held = [id_ for b in self._orders.blocks_of(subject) if b.source == source for id_ in b.ids]
        known = dict.fromkeys((*held, *filter(None, [known_as[:_MAX_ID]])))
        return tuple(known)[-_MAX_IDS:]

    def _render(self, block: Block, account: Account, before_ns: int | None) -> str:
        """What was done, and what a person has to know about it."""
        user = render_user(account.uid, account.name)
        text = f"{user} is blocked{render_ports(block.ports)} until {self._moment(block.until_ns)}"
        if before_ns is not None:
            text += f" (was until {self._moment(before_ns)}, now {self._moment(block.until_ns)})"
        if self._switch.is_off:
            text += ". smtpguard is OFF: nothing is refused before `smtpguard on`"
        elif self._guard.settings.dry_run:
            text += " (enforced, although this is a dry run)"
        if account.standing == "shared":
            text += f". Note: {account.reason}: every site that runs as {user} is blocked"
        return text

    def _moment(self, time_ns: int) -> str:
        return render_moment((time_ns + self._wall.offset_ns) / NS)
