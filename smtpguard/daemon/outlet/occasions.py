"""What is worth telling, as it happens: incidents, the safety brake, blindness, a lost state. It decides nothing.

Whom it is told to, when, and whether at all, the notifying process decides (smtpguard/notify). Hostile text is escaped
here already, as in the history.
"""

from collections.abc import Sequence
from typing import Any, Protocol

from smtpguard.clock import WallMap
from smtpguard.daemon.outlet.messenger import Messenger
from smtpguard.daemon.record.enrichment_queue import Entry
from smtpguard.hooks import ClockNs, YesNo
from smtpguard.logline import render_time
from smtpguard.model import NS, Account, BreakerChange, Verdict
from smtpguard.settings import BreakerLimits
from smtpguard.state.event_query import show_incident
from smtpguard.state.incident_row import IncidentRow
from smtpguard.text import render_escaped, render_words, to_bytes

BLIND_NS = 5 * NS
"""So long it has to last: a source that dies has a successor within one."""


_DAY_NS = 86_400 * NS
_MAX_NOTE = 200
HEALTH_NS = 10 * NS
"""How often it is said that all is well."""


class Condition(Protocol):
    """How the guard fares, see Status."""

    def is_seeing(self) -> bool:
        """Whether a source works, or none is wanted."""
        ...

    def is_acting(self) -> bool:
        """Whether enforcement is in place where it is wanted."""
        ...

    def is_well(self) -> bool:
        """Whether it guards, and the kernel holds what it ought to."""
        ...

    def headline(self) -> str:
        """How the guard fares, in one line."""
        ...


class Occasions:
    """Hands over what has happened.

    Args:
        messenger: What takes it.
        wall: Event time to wall time.
        now: CLOCK_BOOTTIME in nanoseconds.
        is_off: Whether somebody has switched the guard off.
    """

    def __init__(self, messenger: Messenger, wall: WallMap, now: ClockNs, *, is_off: YesNo) -> None:
        self._messenger = messenger
        self._wall = wall
        self._now = now
        self._is_off = is_off
        self._since_ns: dict[str, int] = {}
        self._told: dict[str, bool] = {}
        self._days: dict[str, int] = {}
        self._health: tuple[bool, int] = (False, -HEALTH_NS)
        self.condition: Condition | None = None

    def incident_begins(self, row: IncidentRow, verdict: Verdict, entry: Entry, *, is_left: bool) -> None:
        """An incident began, or has grown worse: warned, throttled, blocked.

        Args:
            row: The incident as it stands.
            verdict: The gravest of an attempt.
            entry: The attempt, with what is known of its script.
            is_left: Whether the block is fail2ban's to make.
        """
        if not self._messenger.is_used:
            return
        offset_ns = self._wall.offset_ns
        until = None if verdict.until_ns is None else render_time(verdict.until_ns + offset_ns)
        since = render_time(verdict.time_ns + offset_ns)
        ports = None if verdict.ports is None else list(verdict.ports)
        block = {"kind": verdict.action, "ports": ports, "since": since, "until": until, "by": "guard"}
        is_refused = verdict.mode == "enforce" and verdict.action != "warn" and not is_left
        self._tell(
            "incident-begins",
            f"{row.id}-{verdict.action}-{verdict.mode}",
            row,
            verdict={
                "rule": verdict.rule,
                "count": verdict.count,
                "counted": verdict.counted,
                "limit": verdict.limit,
                "window": verdict.window_ns // NS,
                "action": verdict.action,
                "mode": verdict.mode,
                "why_dry": verdict.why_dry,
                "ports": ports,
                "until": until,
                "left_to_fail2ban": is_left,
                "script": None if entry.connect.script is None else render_escaped(entry.connect.script),
            },
            blocks=[block | {"rule": verdict.rule, "mode": verdict.mode, "suspended": False}] if is_refused else [],
            domain=_find_domain(entry.account),
        )

    def incident_over(self, row: IncidentRow) -> None:
        """An incident is over."""
        self._days.pop(row.id, None)
        if self._messenger.is_used:
            self._tell("incident-over", f"{row.id}-over", row)

    def incident_lasts(self, row: IncidentRow) -> None:
        """An incident goes on: told for each day that it has."""
        days = (row.last_ns - row.first_ns) // _DAY_NS
        if self._messenger.is_used and days > self._days.get(row.id, 0):
            self._days[row.id] = days
            self._tell("incident-begins", f"{row.id}-day-{days}", row, days=days)

    def brake(self, change: BreakerChange, limits: BreakerLimits) -> None:
        """The safety brake has taken hold or let go."""
        details = {"tripped": change.tripped, "blocks": change.blocks, "mode": change.mode}
        limit = {"limit": limits.blocks, "per": limits.per_ns // NS}
        self._tell("breaker", f"breaker-{self._stamp()}", brake=details | limit)

    def noted(self, user: str, uid: int, *, by: str, text: str) -> None:
        """A person has noted something about a user: for the summary."""
        note = render_words(text, max_bytes=_MAX_NOTE)
        self._tell("note", f"note-{self._stamp()}", user=user, uid=uid, by=by, note=note)

    def state_lost(self, notes: Sequence[str]) -> None:
        """What was known before this start is lost, wholly or in part."""
        for number, note in enumerate(notes):
            self._tell("state", f"state-{self._stamp()}-{number}", what=note)

    def on_time(self, now_ns: int) -> None:
        """Once a second: tell that the guard is blind, no longer enforces, or does again.

        What is told stays told: the process knows what it has told before this start.
        """
        if self.condition is None or not self._messenger.is_used:
            return
        self._tell_health(now_ns, self.condition)
        facts = {
            "blind": not self.condition.is_seeing(),
            "not-enforcing": not self.condition.is_acting(),
            "off": self._is_off(),
        }
        for name, holds in facts.items():
            if holds == self._told.get(name):
                self._since_ns.pop(name, None)
            elif now_ns - self._since_ns.setdefault(name, now_ns) >= BLIND_NS:
                del self._since_ns[name]
                self._told[name] = holds
                headline = self.condition.headline()
                self._tell("blind", f"{name}-{self._stamp()}", condition=name, holds=holds, what=headline)

    def _tell_health(self, now_ns: int, condition: Condition) -> None:
        is_well, (before, told_ns) = condition.is_well(), self._health
        if is_well != before or now_ns - told_ns >= HEALTH_NS:
            self._health = (is_well, now_ns)
            self._messenger.send_health(is_well=is_well, why=condition.headline())

    def _tell(self, kind: str, name: str, row: IncidentRow | None = None, /, **details: Any) -> None:  # noqa: ANN401 - JSON
        occasion: dict[str, Any] = {"id": name, "kind": kind, "time": render_time(self._wall.to_wall_ns(self._now()))}
        if row is not None:
            shown = _show(row)
            is_ours = row.netns is None or row.name is not None
            occasion |= {"key": row.id, "user": shown.pop("user"), "uid": row.uid if is_ours else None}
            occasion["incident"] = shown
        self._messenger.tell(occasion | details)

    def _stamp(self) -> int:
        return self._wall.to_wall_ns(self._now())


def _show(row: IncidentRow) -> dict[str, Any]:
    """An incident as `incidents --json` has it, without what only a list needs."""
    shown = show_incident(row, None, row.last_ns)
    return {name: value for name, value in shown.items() if name not in ("last_ns", "closed", "uid")} | {
        "over": row.is_over
    }


def _find_domain(account: Account) -> str | None:
    """The account's first domain, as its panel says; customers choose some of them."""
    domain = None if account.customer is None else account.customer.domain
    return None if domain is None else render_escaped(to_bytes(domain))
