"""Incidents: one user's verdicts and refused attempts, merged while the gaps stay under 15 minutes. Pure.

People are told once when an incident begins and once, with its figures, when it is over: not once a verdict. Who
hammers at a block is still the same incident when the block ends and the next verdict comes.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

from smtpguard.model import Account, Connect, Mode, Subject, Verdict
from smtpguard.policy.sketches import Distinct, TopCounts
from smtpguard.settings import MINUTE_NS

GAP_NS = 15 * MINUTE_NS
MAX_INCIDENTS = 4096
"""Open at once; where more users misbehave within 15 minutes there is another problem. What is beyond is counted."""
MAX_FOREIGN = 512
"""Of these in other network namespaces, of which a tenant can make any number."""
MAX_RULES = 64
KEPT = 64
"""Destinations and scripts counted by name for one incident: 15 kB at most; see tally.TopCounts for the others."""
TOP = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Incident:
    """An incident as it stands. Times are event times.

    Attributes:
        subject, account: Whose.
        mode: "enforce" if any of its verdicts was carried out.
        first_ns, last_ns: Of its first verdict, and of its last verdict or refused attempt.
        verdicts: How many.
        rules: Names of the rules exceeded, in the order of the first verdicts.
        connects: Attempts in its time, refused ones included.
        refused: Attempts refused.
        peak_per_minute: Most attempts in one minute of its time.
        destinations: About how many distinct ones; see tally.Distinct.
        top_destinations, top_scripts: The most frequent, with their counts; untrusted.
        over: Whether it has ended.
    """

    subject: Subject
    account: Account
    mode: Mode
    first_ns: int
    last_ns: int
    verdicts: int
    rules: tuple[str, ...]
    connects: int
    refused: int
    peak_per_minute: int
    destinations: int
    top_destinations: tuple[tuple[bytes, int], ...]
    top_scripts: tuple[tuple[bytes, int], ...]
    over: bool


@dataclass(slots=True, kw_only=True)
class _Open:
    """An incident that goes on."""

    subject: Subject
    account: Account
    mode: Mode
    first_ns: int
    last_ns: int
    verdicts: int = 0
    rules: dict[str, None] = field(default_factory=dict)
    connects: int = 0
    refused: int = 0
    minute: int = 0
    in_minute: int = 0
    peak: int = 0
    distinct: Distinct = field(default_factory=Distinct)
    destinations: TopCounts = field(default_factory=lambda: TopCounts(KEPT))
    scripts: TopCounts = field(default_factory=lambda: TopCounts(KEPT))

    def freeze(self, *, over: bool) -> Incident:
        return Incident(
            subject=self.subject,
            account=self.account,
            mode=self.mode,
            first_ns=self.first_ns,
            last_ns=self.last_ns,
            verdicts=self.verdicts,
            rules=tuple(self.rules),
            connects=self.connects,
            refused=self.refused,
            peak_per_minute=self.peak,
            destinations=self.distinct.count(),
            top_destinations=self.destinations.top(TOP),
            top_scripts=self.scripts.top(TOP),
            over=over,
        )


class AccountOf(Protocol):
    """Knows accounts."""

    def __call__(self, subject: Subject) -> Account:
        """Whose a subject is now."""
        ...


class Incidents:
    """All incidents that go on.

    Args:
        gap_ns: How long without a verdict ends one.
        max_incidents: Most that go on at once.

    Attributes:
        dropped: Incidents not begun because too many went on.
    """

    def __init__(self, *, gap_ns: int = GAP_NS, max_incidents: int = MAX_INCIDENTS) -> None:
        self._gap_ns = gap_ns
        self._max = max_incidents
        self._open: dict[Subject, _Open] = {}
        self._foreign = 0
        self._due_ns: int | None = None
        self._changed: dict[Subject, None] = {}
        self.dropped = 0

    def feed(self, verdict: Verdict) -> Incident | None:
        """Take a verdict in; the incident if it begins with this one, which is when people are told."""
        current = self._open.get(verdict.subject)
        begins = current is None
        if current is None:
            foreign = verdict.subject.scope is not None
            if len(self._open) >= self._max or (foreign and self._foreign >= min(MAX_FOREIGN, self._max // 2)):
                self.dropped += 1
                return None
            current = self._begin(verdict.subject, verdict.account, verdict.mode, verdict.time_ns)
        self._changed[verdict.subject] = None
        current.verdicts += 1
        current.last_ns = max(current.last_ns, verdict.time_ns)
        if len(current.rules) < MAX_RULES:
            current.rules[verdict.rule] = None
        if verdict.mode == "enforce":
            current.mode = "enforce"
        return current.freeze(over=False) if begins else None

    def attempt(self, subject: Subject, connect: Connect, *, refused: bool) -> None:
        """Count an attempt of somebody whose incident goes on; of anybody else it is nothing."""
        current = self._open.get(subject)
        if current is None:
            return
        self._changed[subject] = None
        current.connects += 1
        if refused:
            current.refused += 1
            current.last_ns = max(current.last_ns, connect.time_ns)
        minute = connect.time_ns // MINUTE_NS
        if minute > current.minute:
            current.minute, current.in_minute = minute, 0
        if minute == current.minute:  # one that is late by a minute makes no peak
            current.in_minute += 1
            current.peak = max(current.peak, current.in_minute)
        current.distinct.add(connect.address)
        current.destinations.add(connect.address)
        if connect.script is not None:
            current.scripts.add(connect.script)

    def restore(self, incidents: Iterable[Incident]) -> None:
        """Go on with incidents of an earlier run, so that nobody is told of them again."""
        for incident in incidents:
            if incident.over or incident.subject in self._open:
                continue
            current = self._begin(incident.subject, incident.account, incident.mode, incident.first_ns)
            current.last_ns = incident.last_ns
            current.verdicts = incident.verdicts
            current.rules = dict.fromkeys(incident.rules)
            current.connects, current.refused = incident.connects, incident.refused
            current.peak = incident.peak_per_minute
            for address, count in incident.top_destinations:
                current.distinct.add(address)
                current.destinations.add(address, count)
            for script, count in incident.top_scripts:
                current.scripts.add(script, count)

    def tick(self, now_ns: int) -> list[Incident]:
        """The incidents that are over."""
        if self._due_ns is None or now_ns < self._due_ns:
            return []
        ended = [held for held in self._open.values() if held.last_ns + self._gap_ns <= now_ns]
        for held in ended:
            del self._open[held.subject]
            self._foreign -= held.subject.scope is not None
        self._due_ns = min((held.last_ns + self._gap_ns for held in self._open.values()), default=None)
        return [held.freeze(over=True) for held in ended]

    def end_others(self, account_of: AccountOf) -> list[Incident]:
        """End those of uids that are somebody else's now: what the next owner does is none of it.

        Args:
            account_of: Whose a subject is now.
        """
        ended = [h for h in self._open.values() if not account_of(h.subject).may_be(h.account.name)]
        for held in ended:
            del self._open[held.subject]
            self._foreign -= held.subject.scope is not None
        return [held.freeze(over=True) for held in ended]

    def next_deadline(self) -> int | None:
        """When to look whether an incident is over: at the latest when the first is, and seldom for nothing."""
        return self._due_ns

    def _begin(self, subject: Subject, account: Account, mode: Mode, first_ns: int) -> _Open:
        self._open[subject] = current = _Open(
            subject=subject, account=account, mode=mode, first_ns=first_ns, last_ns=first_ns
        )
        self._foreign += subject.scope is not None
        due_ns = first_ns + self._gap_ns
        self._due_ns = due_ns if self._due_ns is None else min(self._due_ns, due_ns)
        return current

    def take_changed(self) -> list[Incident]:
        """Those that go on and are not as they were at the last call, as they stand."""
        changed = [held for subject in self._changed if (held := self._open.get(subject)) is not None]
        self._changed.clear()
        return [held.freeze(over=False) for held in changed]

    def find(self, subject: Subject) -> Incident | None:
        """The incident of a subject that goes on, as it stands."""
        held = self._open.get(subject)
        return None if held is None else held.freeze(over=False)

    def current(self) -> list[Incident]:
        """The incidents that go on, as they stand."""
        return [held.freeze(over=False) for held in self._open.values()]
