"""Writes what happened: to the event log, to the history in state, and to whoever watches.

Lines keep the order of what happened; those about attempts come from the waiting line, complete.
"""

import logging
from collections.abc import Iterable
from functools import partial
from typing import Protocol

from smtpguard.actions.eventlog import EventLog
from smtpguard.clock import WallMap
from smtpguard.daemon.loop import TimedPart
from smtpguard.daemon.record.enrichment_queue import Entry, Waiting
from smtpguard.daemon.record.notices import HIGHEST_GRAVITY, find_gravest, gravity_of, render_over, render_verdict
from smtpguard.enrich.looker import Looker, render_evidence
from smtpguard.enrich.reverse_dns import ReverseDns
from smtpguard.hooks import ClockNs
from smtpguard.model import Account, Block, Subject, Verdict
from smtpguard.policy.incidents import Incident, Incidents
from smtpguard.state.rows import IncidentRow, VerdictRow
from smtpguard.state.writer import StateWriter

log = logging.getLogger(__name__)


class Publish(Protocol):
    """Shows attempts to whoever watches."""

    def __call__(self, entry: Entry, wall_ns: int) -> None:
        """Take an attempt and its wall time."""


class AccountOf(Protocol):
    """Knows accounts."""

    def __call__(self, subject: Subject) -> Account:
        """The account of a subject."""
        ...


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
        self._gathering: dict[int, Verdict] = {}
        self._incidents = Incidents()
        self._said: dict[Subject, int] = {}
        self.waiting = Waiting(now, self._write, looker=looker, rdns=rdns)
        self.publish: Publish | None = None

    def add(self, entry: Entry) -> None:
        """An attempt was seen and judged; of an incident's first verdict the evidence is gathered at once."""
        self.waiting.add(entry)
        for verdict in entry.verdicts:
            begun = self._incidents.feed(verdict)
            if begun is not None:
                self._gather(verdict)
                self._keep_incident(begun)
                self._said[verdict.subject] = -1

    def restore_incidents(self, rows: Iterable[IncidentRow], account_of: AccountOf) -> None:
        """Go on with incidents from before this run: nobody is told of them again."""
        offset_ns = self._wall.offset_ns
        rows = list(rows)
        self._said.update((Subject(id=row.uid, scope=row.netns), HIGHEST_GRAVITY) for row in rows)
        self._incidents.restore(
            Incident(
                subject=(subject := Subject(id=row.uid, scope=row.netns)),
                account=account_of(subject),
                mode="dry-run",
                first_ns=row.first_ns - offset_ns,
                last_ns=row.last_ns - offset_ns,
                verdicts=row.verdicts,
                rules=row.rules,
                connects=row.connects,
                refused=row.refused,
                peak_per_minute=row.peak_per_minute,
                destinations=row.destinations,
                top_destinations=(),
                top_scripts=(),
                over=False,
            )
            for row in rows
        )

    def add_block(self, account: Account, block: Block) -> None:
        """A person or another program began a block."""
        wall_ns = self._wall.to_wall_ns(self._now())
        self.waiting.add_call(partial(self._write_block, account, block, wall_ns))

    def add_extended(self, account: Account, block: Block) -> None:
        """A block goes on."""
        wall_ns = self._wall.to_wall_ns(self._now())
        until_wall_ns = block.until_ns + self._wall.offset_ns
        write = partial(self._events.write_extended, block, account, wall_ns=wall_ns, until_wall_ns=until_wall_ns)
        self.waiting.add_call(write)

    def add_unblock(self, account: Account, block: Block, *, by: str, reason: str) -> None:
        """A block ended."""
        wall_ns = self._wall.to_wall_ns(self._now())
        write = self._events.write_unblock
        self.waiting.add_call(partial(write, block, account, wall_ns=wall_ns, by=by, reason=reason))

    def add_allow(self, account: Account, *, until_wall_ns: int, by: str, reason: str) -> None:
        """Somebody was given an allowance."""
        wall_ns = self._wall.to_wall_ns(self._now())
        write = partial(self._events.write_allow, account, wall_ns=wall_ns, until_wall_ns=until_wall_ns)
        self.waiting.add_call(partial(write, by=by, reason=reason))

    def _gather(self, verdict: Verdict) -> None:
        if self._looker is None:
            return
        ticket = self._looker.gather(verdict.connect, self._now(), owner=verdict.account.share)
        if ticket is not None:
            self._gathering[ticket] = verdict

    def _tell(self, entry: Entry) -> None:
        """Tell people once that an incident began, and again only where it grows worse: warned, throttled, blocked."""
        verdict = find_gravest(entry.verdicts)
        if verdict is None or gravity_of(verdict) <= self._said.get(verdict.subject, HIGHEST_GRAVITY):
            return
        self._said[verdict.subject] = gravity_of(verdict)
        is_left = verdict.action == "block" and not any(block.kind == "block" for block in entry.blocks)
        text = render_verdict(
            verdict,
            entry.connect,
            entry.account,
            offset_ns=self._wall.offset_ns,
            now_ns=self._now(),
            is_left=is_left,
        )
        log.warning("%s", text)

    def _keep_incident(self, incident: Incident) -> None:
        offset_ns = self._wall.offset_ns
        self._state.put(
            IncidentRow(
                uid=incident.subject.id,
                netns=incident.subject.scope,
                name=incident.account.name,
                first_ns=incident.first_ns + offset_ns,
                last_ns=incident.last_ns + offset_ns,
                verdicts=incident.verdicts,
                connects=incident.connects,
                refused=incident.refused,
                peak_per_minute=incident.peak_per_minute,
                destinations=incident.destinations,
                rules=incident.rules,
                told_ns=self._now() + offset_ns,
            )
        )

    def next_deadline(self) -> int | None:
        """When the event log wants to write what it held back, or an incident is over."""
        times = (self._events.next_deadline(), self._incidents.next_deadline())
        return min((time for time in times if time is not None), default=None)

    def on_time(self, now_ns: int) -> None:
        """Write what was held back and is due."""
        for incident in self._incidents.tick(now_ns):
            self._said.pop(incident.subject, None)
            log.warning("%s", render_over(incident))
            self._keep_incident(incident)
        self._events.tick(now_ns=now_ns, wall_ns=self._wall.to_wall_ns(now_ns))
        if self._gathering and self._looker is not None:
            for ticket, evidence in self._looker.read_evidence():
                verdict = self._gathering.pop(ticket, None)
                if verdict is not None:
                    row = VerdictRow.of(verdict, self._wall.offset_ns, render_evidence(evidence))
                    self._state.add(row)

    def _write(self, entry: Entry) -> None:
        connect = entry.connect
        if entry.is_new:
            self._incidents.attempt(entry.subject, connect, refused=entry.refused)
        wall_ns = self._wall.to_wall_ns(connect.time_ns)
        self._tell(entry)
        if entry.is_new:
            self._events.write_connect(
                connect, entry.account, wall_ns=wall_ns, now_ns=self._now(), highest_limit=entry.highest_limit
            )
        waiting = {verdict.connect.time_ns for verdict in self._gathering.values()}
        for verdict in entry.verdicts:
            self._events.write_exceeded(verdict, wall_ns=wall_ns)
            if verdict.time_ns not in waiting:  # else its row is written with the evidence
                self._state.add(VerdictRow.of(verdict, self._wall.offset_ns))
        for block in entry.blocks:
            self._write_block(entry.account, block, wall_ns)
        if self.publish is not None and entry.is_new:
            self.publish(entry, wall_ns)

    def _write_block(self, account: Account, block: Block, wall_ns: int) -> None:
        until_wall_ns = block.until_ns + self._wall.offset_ns
        self._events.write_block(block, account, wall_ns=wall_ns, until_wall_ns=until_wall_ns)
