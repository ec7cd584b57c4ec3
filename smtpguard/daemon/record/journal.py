"""Writes what happened: to the event log, to the history in state, and to whoever watches.

Lines keep the order of what happened; those about attempts come from the waiting line, complete.
"""

import logging
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Protocol

from smtpguard.actions.eventlog import EventLog
from smtpguard.clock import WallMap
from smtpguard.daemon.loop import TimedPart
from smtpguard.daemon.record.block_notices import BlockNotices
from smtpguard.daemon.record.enrichment_queue import Entry, Waiting
from smtpguard.daemon.record.evidence_keeper import EvidenceKeeper
from smtpguard.daemon.record.notices import HIGHEST_GRAVITY, find_gravest, gravity_of, render_over, render_verdict
from smtpguard.daemon.record.recorder import HearVerdict, Recorder
from smtpguard.enrich.looker import Looker, render_evidence
from smtpguard.enrich.reverse_dns import ReverseDns
from smtpguard.hooks import ClockNs
from smtpguard.model import Account, Block, Subject, Verdict
from smtpguard.policy.incidents import AccountOf, Incident, Incidents
from smtpguard.state.incident_row import IncidentRow
from smtpguard.state.rows import VerdictRow
from smtpguard.state.writer import StateWriter

if TYPE_CHECKING:
    from smtpguard.daemon.record.metric_totals import MetricTotals

log = logging.getLogger(__name__)


class Publish(Protocol):
    """Shows attempts to whoever watches."""

    def __call__(self, entry: Entry, wall_ns: int) -> None:
        """Take an attempt and its wall time."""


class Herald(Protocol):
    """Has others told of incidents, see daemon/outlet/occasions.py."""

    def incident_begins(self, row: IncidentRow, verdict: Verdict, entry: Entry, *, is_left: bool) -> None:
        """One began, or has grown worse; `is_left` says whether the block is fail2ban's to make."""

    def incident_lasts(self, row: IncidentRow) -> None:
        """One goes on."""

    def incident_over(self, row: IncidentRow) -> None:
        """One is over."""


class Journal(TimedPart):
    """What is written about events, as a part of the loop.

    Args:
        events: The event log.
        state: The history.
        wall: Event time to wall time.
        now: CLOCK_BOOTTIME in nanoseconds.
        looker, rdns: Enrichers; None for those that are off.

    Attributes:
        waiting: The line in which attempts wait; a part of the loop.
        publish: Called with each complete attempt and its wall time, for live watchers.
        notices: What tells people of blocks.
        recorder: What feeds the history with figures and changes.
        totals: What metrics count; None where nobody wants them.
        herald: Has others told; None where nobody is.
        watches: Whom people keep an eye on; None where nobody knows.
    """

    def __init__(
        self,
        events: EventLog,
        state: StateWriter,
        wall: WallMap,
        now: ClockNs,
        *,
        looker: Looker | None,
        rdns: ReverseDns | None,
    ) -> None:
        self._events = events
        self._state = state
        self._wall = wall
        self._now = now
        self._looker = looker
        self._evidence = EvidenceKeeper(state)
        self._incidents = Incidents()
        self._said: dict[Subject, int] = {}
        self.notices = BlockNotices(wall, now)
        self.recorder = Recorder(state, wall, now)
        self.waiting = Waiting(now, self._write, looker=looker, rdns=rdns)
        self.publish: Publish | None = None
        self.totals: MetricTotals | None = None
        self.herald: Herald | None = None
        self.watches: HearVerdict | None = None

    def add(self, entry: Entry) -> None:
        """An attempt was seen and judged; of an incident's first verdict the evidence is gathered at once."""
        self.waiting.add(entry)
        for verdict in entry.verdicts:
            begun = self._incidents.feed(verdict)
            if begun is not None:
                self._gather(verdict)
                self._state.put(self._make_row(begun))
                self._said[verdict.subject] = -1

    def restore_incidents(self, rows: Iterable[IncidentRow], account_of: AccountOf) -> None:
        """Go on with incidents from before this run: nobody is told of them again."""
        offset_ns = self._wall.offset_ns
        rows = [row for row in rows if account_of(Subject(id=row.uid, scope=row.netns)).may_be(row.name)]
        self._said.update((Subject(id=row.uid, scope=row.netns), HIGHEST_GRAVITY) for row in rows)
        self._incidents.restore(
            row.to_incident(account_of(Subject(id=row.uid, scope=row.netns)), offset_ns) for row in rows
        )

    def add_block(self, account: Account, block: Block) -> None:
        """A person or another program began a block."""
        wall_ns = self._wall.to_wall_ns(self._now())
        self.waiting.add_call(partial(self._write_block, account, block, wall_ns))
        self.recorder.change_block("block", account, block, by=block.source, reason=block.reason, wall_ns=wall_ns)

    def add_extended(self, account: Account, block: Block) -> None:
        """A block goes on."""
        wall_ns = self._wall.to_wall_ns(self._now())
        until_wall_ns = block.until_ns + self._wall.offset_ns
        write = partial(self._events.write_extended, block, account, wall_ns=wall_ns, until_wall_ns=until_wall_ns)
        self.waiting.add_call(write)
        self.recorder.change_block("extended", account, block, by=block.source, reason=block.reason, wall_ns=wall_ns)

    def add_unblock(self, account: Account, block: Block, *, by: str, reason: str) -> None:
        """A block ended."""
        wall_ns = self._wall.to_wall_ns(self._now())
        write = self._events.write_unblock
        self.waiting.add_call(partial(write, block, account, wall_ns=wall_ns, by=by, reason=reason))
        refused = self.notices.refused[block.subject]
        self.waiting.add_call(partial(self.notices.end, block, account, by=by, reason=reason, refused=refused))
        self.recorder.change_block("unblock", account, block, by=by, reason=reason, wall_ns=wall_ns, is_end=True)

    def add_allow(self, account: Account, *, until_wall_ns: int, by: str, reason: str) -> None:
        """Somebody was given an allowance."""
        wall_ns = self._wall.to_wall_ns(self._now())
        write = partial(self._events.write_allow, account, wall_ns=wall_ns, until_wall_ns=until_wall_ns)
        self.waiting.add_call(partial(write, by=by, reason=reason))
        self.recorder.change("allow", account, by=by, until_wall_ns=until_wall_ns, reason=reason, wall_ns=wall_ns)

    def _gather(self, verdict: Verdict) -> None:
        if self._looker is None:
            return
        ticket = self._looker.gather(verdict.connect, self._now(), owner=verdict.account.share)
        if ticket is not None:
            self._evidence.expect(ticket, verdict)

    def _tell(self, entry: Entry) -> None:
        """Tell people once that an incident began, and again only where it grows worse: warned, throttled, blocked."""
        if self.watches is not None:
            for first in entry.verdicts[:1]:
                self.watches.hear(first)
        begun = self.notices.begin(entry)
        self._herald(entry, is_worse=bool(begun))
        if begun:
            self._said[entry.subject] = max(self._said.get(entry.subject, 0), begun)
            return
        verdict = find_gravest(entry.verdicts)
        if verdict is None or gravity_of(verdict) <= self._said.get(verdict.subject, HIGHEST_GRAVITY):
            return
        self._said[verdict.subject] = gravity_of(verdict)
        text = render_verdict(
            verdict,
            entry.connect,
            entry.account,
            offset_ns=self._wall.offset_ns,
            now_ns=self._now(),
            is_left=_is_left(verdict, entry),
        )
        log.warning("%s", text)

    def _herald(self, entry: Entry, *, is_worse: bool) -> None:
        """Have others told where an incident began or grew worse; what they know already, they are not told again."""
        verdict = find_gravest(entry.verdicts)
        if self.herald is None or verdict is None:
            return
        incident = self._incidents.find(verdict.subject)
        if incident is None or not (is_worse or gravity_of(verdict) > self._said.get(verdict.subject, HIGHEST_GRAVITY)):
            return
        self.herald.incident_begins(self._make_row(incident), verdict, entry, is_left=_is_left(verdict, entry))

    def _make_row(self, incident: Incident) -> IncidentRow:
        return IncidentRow.of(incident, self._wall.offset_ns)

    def next_deadline(self) -> int | None:
        """When the event log wants to write what it held back, or an incident is over."""
        times = (self._events.next_deadline(), self._incidents.next_deadline(), self.notices.next_deadline())
        return min((time for time in times if time is not None), default=None)

    def end_incidents_of_others(self, account_of: AccountOf) -> None:
        """Accounts have changed: what the next owner of a uid does is no part of the former one's incident."""
        self._end(self._incidents.end_others(account_of))

    def _end(self, incidents: Iterable[Incident]) -> None:
        for incident in incidents:
            self._said.pop(incident.subject, None)
            log.warning("%s", render_over(incident))
            row = self._make_row(incident)
            self._state.put(row)
            if self.herald is not None:
                self.herald.incident_over(row)

    def on_time(self, now_ns: int) -> None:
        """Write what was held back and is due."""
        self._end(self._incidents.tick(now_ns))
        self.notices.on_time(now_ns)
        self._events.tick(now_ns=now_ns, wall_ns=self._wall.to_wall_ns(now_ns))
        if self._evidence.is_expected and self._looker is not None:
            for ticket, evidence in self._looker.read_evidence():
                self._evidence.take(ticket, render_evidence(evidence))

    def keep_incidents(self) -> None:
        """Once a second: what has changed in incidents that go on goes to the history."""
        for incident in self._incidents.take_changed():
            row = self._make_row(incident)
            self._state.put(row)
            if self.herald is not None:
                self.herald.incident_lasts(row)

    def _write(self, entry: Entry) -> None:
        connect = entry.connect
        wall_ns = self._wall.to_wall_ns(connect.time_ns)
        self._tell(entry)
        if entry.is_new:
            # As the log's RESULT: of the attempt that exceeded a rule, which bpf refuses itself, no Refusal comes.
            refused = entry.refused_by is not None or connect.result == "refused"
            if self.totals is not None:
                self.totals.add_attempt(entry, wall_ns, refused=refused)
            self._incidents.attempt(entry.subject, connect, refused=refused)
            self.recorder.attempt(entry.subject, connect, wall_ns, refused=refused, is_counted=entry.is_counted)
            self._events.write_connect(
                connect, entry.account, wall_ns=wall_ns, now_ns=self._now(), highest_limit=entry.highest_limit
            )
        for verdict in entry.verdicts:
            if self.totals is not None:
                self.totals.add_verdict(verdict)
            self._events.write_exceeded(verdict, wall_ns=wall_ns)
            self._evidence.add(verdict, VerdictRow.of(verdict, self._wall.offset_ns))
        for block in entry.blocks:
            self._write_block(entry.account, block, wall_ns)
            self.recorder.change_block(
                "block", entry.account, block, by=block.source, reason=block.reason, wall_ns=wall_ns
            )
        if self.publish is not None and entry.is_new:
            self.publish(entry, wall_ns)

    def _write_block(self, account: Account, block: Block, wall_ns: int) -> None:
        until_wall_ns = block.until_ns + self._wall.offset_ns
        self._events.write_block(block, account, wall_ns=wall_ns, until_wall_ns=until_wall_ns)


def _is_left(verdict: Verdict, entry: Entry) -> bool:
    """Whether the block over a verdict is fail2ban's to make: the guard has made none."""
    return verdict.action == "block" and not any(block.kind == "block" for block in entry.blocks)
