"""The engine: Connects in, decisions out. No clock, no socket, no file; docs/architecture.md has its semantics.

`feed` uses the event's own time; `tick` is told the time and says what has ended; `next_deadline` says when it wants
to be called. One caller, one thread.
"""

from dataclasses import dataclass
from typing import Protocol

from smtpguard.fast_dataclass import quick_maker
from smtpguard.model import NS, Connect, Decision, Extended, Mode, Refusal, SocketReport
from smtpguard.policy.byte_windows import CountedSessions
from smtpguard.policy.commands import Commands
from smtpguard.policy.directory import Directory
from smtpguard.policy.networks import network_of
from smtpguard.policy.roster import Limits
from smtpguard.policy.rules import OUTCOMES
from smtpguard.policy.subject_state import SubjectState
from smtpguard.policy.subjects import HEARSAY
from smtpguard.policy.windows import NEVER, note_keys
from smtpguard.settings import Settings

SWEEP_NS = 10 * NS
FAILED = frozenset({"refused", "timeout", "gave-up"})
HIDING = frozenset({"untracked", "unfollowed"})
"""A socket with no room for what is kept of it: a failure where bytes count; unfollowed, all the bytes there may be."""
_refusal = quick_maker(Refusal, "time_ns", "subject", "account", "connect", "by", "mode")
MAX_NETWORKS = 65_536
"""Destinations remembered as counting, with their networks; all are asked about anew when there are more."""


class WhyExempt(Protocol):
    """Knows which destinations never count."""

    def __call__(self, address: bytes, /) -> str | None:
        """Why a destination, 4 or 16 bytes, does not count; None if it does."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStats:
    """What the engine holds and what it left out; shown by `status`.

    Attributes:
        subjects: Subjects known.
        times, keys: Attempts, and addresses and networks, in windows that are large; the others' are bounded by the
            number of subjects.
        dropped: Of these, how many were dropped because the bound was met.
        evicted: Subjects that were forgotten because their pool was full.
        no_uid: Connects without a uid, or on a port that is not guarded: counted for nobody.
        blocks: Blocks and throttles held, also those that are only told.
    """

    subjects: int
    times: int
    keys: int
    dropped: int
    evicted: int
    no_uid: int
    blocks: int


class Engine(Commands):
    """Judges attempts; and does what people and other programs ask, see Commands.

    Args:
        settings: The configuration.
        directory: Accounts, as a snapshot; give a new one to `reconfigure` when they change.
        why_exempt: What kind of destination an address is that never counts; None if it counts. It must answer from
            memory, and its answers are remembered: call `forget_destinations` when they change. None: all count.
        limits: How much may be held.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        directory: Directory,
        why_exempt: WhyExempt | None,
        limits: Limits | None = None,
    ) -> None:
        super().__init__(settings, directory, limits or Limits())
        self._why_exempt = why_exempt
        self._fast = self._roster.fast
        self._networks: dict[bytes, bytes] = {}
        self._sweep_ns = NEVER
        self._no_uid = 0
        self._sessions = CountedSessions()
        self._counts_outcomes = any(rule.count in OUTCOMES for rule in settings.rules)

    def feed(self, connect: Connect) -> list[Decision]:
        """Judge one attempt.

        Most attempts are in order, of a known user who is far from every limit, or who is blocked: they take the short
        way here, which decides nothing else than that nothing is to be decided, or that this one is refused.
        """
        address = connect.address
        try:
            book, times, table, more, watched = self._fast[connect.port][connect.uid]
        except KeyError:
            return self._meet(connect)
        if connect.netns is not None:
            return self._meet(connect)
        network = self._networks.get(address)
        if network is None:
            if self._why_exempt is not None and not self.counts(address):
                return []
            network = network_of(address)
        time_ns = connect.time_ns
        if connect.result == "refused":
            return self._consider(connect, watched)
        if time_ns < book.clear_ns:
            port = connect.port
            ahead = book.ahead.get(port)
            if ahead is None:
                ahead = book.ahead[port] = self._blocks.outlook(watched.subject, port)
            clear_ns, shut = ahead
            if shut is not None and shut.since_ns <= time_ns < shut.until_ns:
                shut.tries.append(time_ns)
                mode = "dry-run" if self._roster.off else shut.mode
                return [_refusal(time_ns, watched.subject, watched.account, connect, shut.kind, mode)]
            if time_ns < clear_ns:
                return self._consider(connect, watched)
        if time_ns < book.ready_ns:
            return self._consider(connect, watched)
        if book.room > 0 and time_ns < book.recheck_ns:
            if table is None:
                fine = not more or note_keys(more, address, time_ns)
            else:
                last_ns = table.keys.get(network, NEVER)
                fine = last_ns > time_ns - table.shortest_ns and last_ns > table.floor_ns
                if not fine and table.room > 0 and time_ns < table.recheck_ns:
                    table.room -= 1
                    fine = True
                if fine:
                    table.keys[network] = time_ns
            if fine:
                times.append(time_ns)
                book.room -= 1
                book.ready_ns = time_ns
                return []
        if book.judge(time_ns, connect.port, address):
            return self._consider(connect, watched)
        book.enter(time_ns, connect.port, address)
        self._roster.active[watched] = 0
        return []

    def hear(self, connect: Connect) -> list[Decision]:
        """Count an attempt that a sensor which can be fooled was alone to see: in windows that are report-only."""
        if connect.uid is None or connect.port not in self._settings.ports:
            self._no_uid += 1
            return []
        if not self.counts(connect.address):
            return []
        return self._consider(connect, self._roster.find(connect.uid, HEARSAY))

    def _meet(self, connect: Connect) -> list[Decision]:
        """Find out whose attempt it is, the long way."""
        uid = connect.uid
        if uid is None or connect.port not in self._settings.ports:
            self._no_uid += 1
            return []
        if not self.counts(connect.address):
            return []
        watched = self._roster.find(uid, connect.netns)
        if uid == watched.subject.id and connect.result != "refused" and self._roster.begin(watched, connect.port):
            self._settle(watched)
            return self.feed(connect)
        return self._consider(connect, watched)

    def counts(self, address: bytes) -> bool:
        """Whether a destination counts; remembered if it does."""
        if self._why_exempt is None or address in self._networks:
            return True
        exempt = self._why_exempt(address)
        if exempt is not None and (exempt != "loopback" or self._settings.loopback != "count"):
            return False
        if len(self._networks) >= MAX_NETWORKS:
            self._networks.clear()
        self._networks[address] = network_of(address)
        return True

    def _consider(self, connect: Connect, watched: SubjectState) -> list[Decision]:
        """Judge an attempt at a destination that counts, the long way."""
        subject = watched.subject
        refused_by = connect.refused_by if connect.result == "refused" else None
        if refused_by is not None and refused_by != "credit":
            self._blocks.note_refused(subject, connect.time_ns, connect.port)
            return [_refusal(connect.time_ns, subject, watched.account, connect, refused_by, "enforce")]
        out: list[Decision] = []
        span = self._blocks.cover(subject, connect.time_ns, connect.port)
        if span is not None:
            span.tries.append(connect.time_ns)
            mode: Mode = "dry-run" if self.is_off else span.mode
            out.append(_refusal(connect.time_ns, subject, watched.account, connect, span.kind, mode))
            if span.hides:
                if connect.uid == subject.id:
                    self._roster.register(watched, connect.port)
                return out  # from every book
        books = [book for book in watched.books if span is None or (book.mode == "enforce" and not span.hides)]
        judged = [(book, book.judge(connect.time_ns, connect.port, connect.address)) for book in books]
        stopped = {book.mode for book, found in judged if any(excess.action != "warn" for excess in found)}
        if refused_by == "credit":
            if not stopped:
                return out or [_refusal(connect.time_ns, subject, watched.account, connect, "credit", "enforce")]
        elif "enforce" not in stopped:
            for book in books:
                if book.mode not in stopped:
                    book.enter(connect.time_ns, connect.port, connect.address)
        for book, found in judged:
            if found:
                watched.changes += 1
                at_ns = max(connect.time_ns, book.newest_ns())
                out += self._verdicts.decide(watched, book.mode, found, connect, at_ns=at_ns, now_ns=self._now_ns)
        if books:
            self._settle(watched)
            if connect.uid == subject.id:
                self._roster.register(watched, connect.port)
            self._roster.active[watched] = 0
        return out

    def report(self, report: SocketReport) -> list[Decision]:
        """Count what became of a connection: failures, and bytes sent. Judged after the fact, in the report's order."""
        if not self._counts_outcomes or report.uid is None or report.port not in self._settings.ports:
            return []
        hides = report.kind in HIDING
        amount = 0 if hides else self._sessions.news(report)
        failed = report.kind in FAILED
        if not (failed or amount or hides) or not self.counts(report.address):
            return []
        watched = self._roster.find(report.uid, report.netns)
        if hides:  # whose bytes are not counted loses nothing by it
            failed = any(report.port in volume.ports for book in watched.volumes for volume in book.counters)
        span = self._blocks.cover(watched.subject, report.time_ns, report.port)
        found = []
        for book in watched.failures if failed else ():
            if span is None or (book.mode == "enforce" and not span.hides):
                excesses = book.judge(report.time_ns, report.port, report.address)
                if all(excess.action == "warn" for excess in excesses):
                    book.enter(report.time_ns, report.port, report.address)
                found.append((book.mode, excesses, max(report.time_ns, book.newest_ns())))
        for volume in watched.volumes if amount or report.kind == "unfollowed" else ():
            # Open sessions live on in a throttle, and may have to be ended by a block: it alone stops the judging.
            hidden = span is not None and span.kind == "block" and (span.hides or volume.mode == "dry-run")
            if hides:
                excesses = volume.fill(report.time_ns, report.port)
            else:
                excesses = volume.enter(report.time_ns, report.port, amount)
            if not hidden:
                found.append((volume.mode, excesses, report.time_ns))
        out: list[Decision] = []
        for mode, excesses, at_ns in found:
            if excesses:
                watched.changes += 1
                connect = _connect_of(report)
                out += self._verdicts.decide(watched, mode, excesses, connect, at_ns=at_ns, now_ns=self._now_ns)
        self._settle(watched)
        self._roster.active[watched] = 0
        return out

    def tick(self, now_ns: int) -> list[Decision]:
        """What time alone brings: ends of blocks, a breaker that is calm again.

        Args:
            now_ns: The time now, on the events' timeline. Never turns back.
        """
        self._now_ns = now_ns = max(now_ns, self._now_ns)
        out: list[Decision] = [*self._extend(now_ns), *self._blocks.expire(now_ns), *self._verdicts.calm(now_ns)]
        for allowance in self.allowances():
            if allowance.until_ns <= now_ns:
                out += self.end_allowance(allowance.subject, by="time", now_ns=allowance.until_ns)
        if now_ns >= self._sweep_ns:
            self._sweep_ns = now_ns + SWEEP_NS
            self._roster.sweep(now_ns)
            self._blocks.drop_idle(now_ns)
        return out

    def _extend(self, now_ns: int) -> list[Extended]:
        """Blocks whose users have not stopped trying; while the guard is off nobody is refused, and none is."""
        escalation = self._settings.escalation
        may = escalation.still_trying == "extend" and not self.is_off
        extended = self._blocks.extend(now_ns, escalation.max_ns if may else 0)
        for decision in extended:
            block = decision.block
            watched = self._roster.of(block.subject)
            record = watched.records.get(block.mode)
            if record is not None:
                watched.records[block.mode] = record._replace(until_ns=max(record.until_ns, block.until_ns))
                watched.changes += 1
            self._settle(watched)
        return extended

    def next_deadline(self) -> int | None:
        """When `tick` is due; None if nothing is to come."""
        allowed = min((allowance.until_ns for allowance in self.allowances()), default=None)
        deadlines = (self._blocks.next_deadline(), self._verdicts.next_deadline(), allowed)
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    def forget_destinations(self) -> None:
        """Ask about every destination anew: the exempt ones or the host's own addresses have changed."""
        self._networks.clear()

    def stats(self) -> EngineStats:
        """What is held now."""
        bounds = self._roster.bounds
        return EngineStats(
            subjects=len(self._roster),
            times=bounds.times,
            keys=bounds.keys,
            dropped=bounds.dropped,
            evicted=self._roster.evicted,
            no_uid=self._no_uid,
            blocks=len(self.blocks()),
        )

    def reconfigure(self, settings: Settings, directory: Directory, now_ns: int) -> list[Decision]:
        """As in Commands; destinations are asked about anew, too."""
        ended = super().reconfigure(settings, directory, now_ns)
        self._counts_outcomes = any(rule.count in OUTCOMES for rule in settings.rules)
        self.forget_destinations()
        return ended


def _connect_of(report: SocketReport) -> Connect:
    """The attempt behind a report, as far as the report tells."""
    return Connect(
        time_ns=report.time_ns,
        uid=report.uid,
        netns=report.netns,
        port=report.port,
        address=report.address,
        sensor="bpf",
        result="allowed",
        cookie=report.cookie,
    )
