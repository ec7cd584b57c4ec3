"""`why`: what the running guard knows about one user: standing, rules with their fill, blocks, and the history."""

import time
from typing import TYPE_CHECKING, Any

from smtpguard.control.answer import Answer, Pages
from smtpguard.daemon.guard import Guard
from smtpguard.daemon.serve.asker import Asker
from smtpguard.daemon.serve.block_list import BlockList
from smtpguard.daemon.serve.history_command import HistoryCommand, find_past
from smtpguard.daemon.serve.history_requests import WhyRequest
from smtpguard.daemon.serve.status import Status
from smtpguard.daemon.watches import Watches
from smtpguard.enrich.accounts.directory import AccountDirectory
from smtpguard.errors import GuardError
from smtpguard.hooks import ClockNs
from smtpguard.model import Account, Customer
from smtpguard.policy.engine import Engine
from smtpguard.policy.rule_fill import RuleFill
from smtpguard.policy.rules import override_index
from smtpguard.state.host_question import show_rule
from smtpguard.text import render_user

if TYPE_CHECKING:
    from smtpguard.state.history import History

_OF_MEMORY = ("stack", "request", "client", "cmdline", "parents")
"""What comes out of the memory of processes: for root, and members of control.group whose verbs say so."""
EVIDENCE = "evidence"
"""Of control.verbs: no verb of its own."""


class WhyCommand:
    """Answers `why`.

    Args:
        history: What reads the past.
        blocks: What is active for whom.
        engine: How full the windows are.
        accounts: Who is who.
        guard: The configuration in force.
        overview: Whether the guard sees.
        watches: Whom people keep an eye on.
        now: CLOCK_BOOTTIME in nanoseconds.
    """

    def __init__(
        self,
        history: HistoryCommand,
        blocks: BlockList,
        engine: Engine,
        accounts: AccountDirectory,
        guard: Guard,
        overview: Status,
        *,
        watches: Watches,
        now: ClockNs,
    ) -> None:
        self._history = history
        self._blocks = blocks
        self._engine = engine
        self._accounts = accounts
        self._guard = guard
        self._overview = overview
        self._watches = watches
        self._now = now

    def __call__(self, request: WhyRequest, asker: Asker) -> Answer:
        """What is known now, and what was until then; of several, what is known now, from memory alone."""
        if request.uids:
            return Pages(head={}, items=[self._show_briefly(uid) for uid in request.uids])
        if not request.user:
            raise GuardError("whom is it about?", fix="smtpguard why USER")
        account, name = find_past(self._accounts, request.user)
        is_now = request.at_ns is None
        live = self._show_live(account) if account is not None and is_now else None
        shows_memory = not asker.is_member or EVIDENCE in self._guard.settings.control_verbs
        at_ns = time.time_ns() if request.at_ns is None else request.at_ns

        def look(history: "History") -> dict[str, Any]:
            from smtpguard.state.history_page import unknown_user
            from smtpguard.state.user_history import collect_user

            uid, names = (None, ()) if account is None else (account.uid, account.names)
            rules = [] if live is None else live["rules"]
            past = collect_user(history, uid=uid, name=name, now_ns=at_ns, names=names, rules=rules, is_past=not is_now)
            if name is not None and past["uid"] is None:
                raise unknown_user(name)
            told: dict[str, Any] = {"live": live, "past": past if shows_memory else _without_memory(past)}
            if account is None:
                return told | {"name": name, "standing": None}
            return told | {"name": account.name, "standing": account.standing}

        return self._history.ask(look)

    def _show_briefly(self, uid: int) -> dict[str, Any]:
        account = self._accounts.account(uid)
        fills, _ = self._engine.memory.fills(account, self._now())
        return {
            "user": render_user(uid, account.name),
            "uid": uid,
            "standing": account.standing,
            "watch": self._watches.find(uid),
            "rules": [_show_fill(fill) for fill in fills],
        }

    def _show_live(self, account: Account) -> dict[str, Any]:
        fills, why = self._engine.memory.fills(account, self._now())
        settings, watch = self._guard.settings, self._watches.find(account.uid)
        return {
            "user": render_user(account.uid, account.name),
            "uid": account.uid,
            "standing": account.standing,
            "standing_why": account.reason,
            "account": None if account.customer is None else _show_customer(account.customer),
            "notice": self._show_notice(account.customer),
            "why_dry": why,
            "watch": watch,
            "mode": "off" if self._engine.is_off else "dry-run" if settings.dry_run else "enforce",
            "is_seeing": self._overview.is_seeing(),
            "blocks": [row for row in self._blocks.collect() if row["uid"] == account.uid and row["netns"] is None],
            "rules": [_show_fill(fill) | {"limit_by": self._find_limit_by(fill, account, watch)} for fill in fills],
        }

    def _show_notice(self, customer: Customer | None) -> dict[str, Any]:
        """What a text for the customer needs besides, see notify.customers."""
        wanted = self._guard.settings.notify.customers
        reseller = None if customer is None else self._accounts.find_reseller(customer)
        return {
            "template": wanted.template,
            "language": wanted.language,
            "reseller_contact": None if reseller is None else reseller.contact,
        }

    def _find_limit_by(self, fill: RuleFill, account: Account, watch: dict[str, Any] | None) -> str:
        """Where a limit comes from: the rule itself, an entry of `users`, an allowance, or a watch that halves it."""
        settings = self._guard.settings
        index = override_index(settings, account)
        changed = {} if index is None else settings.overrides[index].rules
        by = {rule.name: ("rule", rule.limit) for rule in settings.rules}
        by |= {name: (f"users[{index}]", rule.limit) for name, rule in changed.items()}
        own = "watch" if watch is not None and watch["allowed_until"] is None else "allowance"
        place, limit = by.get(fill.rule.name, (own, None))
        return place if fill.rule.limit == limit else own


def _show_customer(customer: Customer) -> dict[str, Any]:
    return {
        "domain": customer.domain,
        "domains": list(customer.domains),
        "reseller": customer.reseller,
        "package": customer.package,
        "contact": customer.contact,
        "language": customer.language,
    }


def _show_fill(fill: RuleFill) -> dict[str, Any]:
    return show_rule(fill.rule) | {"mode": fill.mode, "now": fill.now}


def _without_memory(past: dict[str, Any]) -> dict[str, Any]:
    evidence = {name: value for name, value in past["evidence"].items() if name not in _OF_MEMORY}
    scripts = [script | {"stack": [], "drivers": []} for script in past["scripts"]]
    return past | {"evidence": evidence, "scripts": scripts}
