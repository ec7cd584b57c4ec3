"""Incidents: one user's verdicts and attempts, merged while the gaps between verdicts stay under 15 minutes. Pure.

People are told once when an incident begins and once, with its figures, when it is over: not once a verdict.
"""

from collections import Counter
from dataclasses import dataclass, field

from smtpguard.model import Account, Connect, Mode, Subject, Verdict
from smtpguard.settings import MINUTE_NS

GAP_NS = 15 * MINUTE_NS
MAX_INCIDENTS = 4096
"""Open at once; where more users misbehave within 15 minutes there is another problem. What is beyond is counted."""
MAX_DESTINATIONS = 1000
"""Distinct destinations and scripts counted by name for one incident; what is beyond is counted only."""
TOP = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Incident:
    """An incident as it stands. Times are event times.

    Attributes:
        subject, account: Whose.
        mode: "enforce" if any of its verdicts was carried out.
        first_ns, last_ns: Of its verdicts.
        verdicts: How many.
        rules: Names of the rules exceeded, in the order of the first verdicts.
        connects: Attempts in its time, refused ones included.
        refused: Attempts refused.
        peak_per_minute: Most attempts in one minute of its time.
        destinations: How many distinct ones.
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
    minute: int = -1
    in_minute: int = 0
    peak: int = 0
    destinations: Counter[bytes] = field(default_factory=Counter)
    scripts: Counter[bytes] = field(default_factory=Counter)
    more_destinations: int = 0

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
            destinations=len(self.destinations) + self.more_destinations,
            top_destinations=tuple(self.destinations.most_common(TOP)),
            top_scripts=tuple(self.scripts.most_common(TOP)),
            over=over,
        )


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
        self.dropped = 0

    def feed(self, verdict: Verdict) -> Incident | None:
        """Take a verdict in; the incident if it begins with this one, which is when people are told."""
        current = self._open.get(verdict.subject)
        begins = current is None
        if current is None:
            if len(self._open) >= self._max:
                self.dropped += 1
                return None
            current = self._open[verdict.subject] = _Open(
                subject=verdict.subject,
                account=verdict.account,
                mode=verdict.mode,
                first_ns=verdict.time_ns,
                last_ns=verdict.time_ns,
            )
        current.verdicts += 1
        current.last_ns = max(current.last_ns, verdict.time_ns)
        current.rules[verdict.rule] = None
        if verdict.mode == "enforce":
            current.mode = "enforce"
        return current.freeze(over=False) if begins else None

    def attempt(self, subject: Subject, connect: Connect, *, refused: bool) -> None:
        """Count an attempt of somebody whose incident goes on; of anybody else it is nothing."""
        current = self._open.get(subject)
        if current is None:
            return
        current.connects += 1
        current.refused += refused
        minute = connect.time_ns // MINUTE_NS
        current.in_minute = current.in_minute + 1 if minute == current.minute else 1
        current.minute = minute
        current.peak = max(current.peak, current.in_minute)
        if connect.address in current.destinations or len(current.destinations) < MAX_DESTINATIONS:
            current.destinations[connect.address] += 1
        else:
            current.more_destinations += 1
        script = connect.script
        if script is not None and (script in current.scripts or len(current.scripts) < MAX_DESTINATIONS):
            current.scripts[script] += 1

    def tick(self, now_ns: int) -> list[Incident]:
        """The incidents that are over."""
        ended = [held for held in self._open.values() if held.last_ns + self._gap_ns <= now_ns]
        for held in ended:
            del self._open[held.subject]
        return [held.freeze(over=True) for held in ended]

    def next_deadline(self) -> int | None:
        """When the next incident is over, if no verdict comes."""
        return min((held.last_ns + self._gap_ns for held in self._open.values()), default=None)

    def current(self) -> list[Incident]:
        """The incidents that go on, as they stand."""
        return [held.freeze(over=False) for held in self._open.values()]
