"""What metrics count since the start of the guard: a few steps in dictionaries for each event, bounded, no more.

It is fed where the event log is written, so that both count the same. MetricTotals only grow; a new run begins at zero.
"""

from bisect import bisect_left
from collections import Counter

from smtpguard.daemon.record.enrichment_queue import Entry
from smtpguard.daemon.record.user_totals import UserTotals
from smtpguard.model import NS, Block, Verdict

MAX_SERIES = 400
"""Series of one name: 16 ports, 7 sensors and 3 results are 336. What comes beyond is counted as OTHER."""
OTHER = "other"
BUCKETS_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
"""Upper ends of what `response_seconds` tells apart; a verdict takes some 0.2 ms."""
_NO_FINDING = frozenset({"root", "mta", "exempt"})
"""Standings whose connections to mail servers are as they have to be."""

Labels = tuple[str, ...]


class MetricTotals:
    """Counts.

    Args:
        users: Whether users are counted one by one, too.

    Attributes:
        connects: Attempts by sensor, port and result; `-` where the sensor does not know the result.
        findings: Attempts of users by sensor: neither root's, nor a mail server's, nor of who is exempt.
        verdicts: By rule, action and mode.
        refusals: Attempts refused, by the means that did it; OTHER if it was none of the guard's.
        responses: How many blocks and throttles took how long to be in the kernel, by BUCKETS_S and one beyond.
        response_ns: How long all of them took together.
        last_event_ns: When the newest attempt was (wall time); 0 if there was none.
        users: Attempts of each user; None where nobody wants to know.
    """

    def __init__(self, *, users: bool) -> None:
        self.connects: Counter[Labels] = Counter()
        self.findings: Counter[Labels] = Counter()
        self.verdicts: Counter[Labels] = Counter()
        self.refusals: Counter[Labels] = Counter()
        self.responses = [0] * (len(BUCKETS_S) + 1)
        self.response_ns = 0
        self.last_event_ns = 0
        self.users = UserTotals() if users else None

    def add_attempt(self, entry: Entry, wall_ns: int, *, refused: bool) -> None:
        """An attempt that has a CONNECT line, or would have one if all were written."""
        connect = entry.connect
        result = "refused" if refused else connect.result or "-"
        _add(self.connects, (connect.sensor, str(connect.port), result))
        if entry.account.standing not in _NO_FINDING:
            _add(self.findings, (connect.sensor,))
        if refused:
            _add(self.refusals, (connect.refused_by or entry.refused_by or OTHER,))
        self.last_event_ns = max(self.last_event_ns, wall_ns)
        if self.users is not None:
            self.users.add(entry.account, entry.subject)

    def add_verdict(self, verdict: Verdict) -> None:
        """A rule was exceeded, as an EXCEEDED line says."""
        _add(self.verdicts, (verdict.rule, verdict.action, verdict.mode))

    def add_response(self, block: Block, now_ns: int) -> None:
        """The kernel has just been told of a block or throttle; only those that the guard made of an attempt count."""
        if block.mode == "enforce" and block.source == "guard" and not block.renewed:
            took_ns = max(0, now_ns - block.since_ns)
            self.responses[bisect_left(BUCKETS_S, took_ns / NS)] += 1
            self.response_ns += took_ns


def _add(counts: Counter[Labels], labels: Labels) -> None:
    if labels not in counts and len(counts) >= MAX_SERIES:
        labels = (OTHER,) * len(labels)
    counts[labels] += 1
