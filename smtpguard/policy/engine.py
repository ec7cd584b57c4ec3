"""The engine: Connects in, decisions out. No clock, no socket, no file; docs/architecture.md has its semantics.

`feed` uses the event's own time; `tick` is told the time and says what has ended; `next_deadline` says when it wants
to be called. One caller, one thread.
"""

from typing import Protocol

from smtpguard.fast_dataclass import quick_maker
from smtpguard.model import Allowance, Block, Connect, Decision, Mode, Refusal, SocketReport, Subject
from smtpguard.policy.commands import Commands
from smtpguard.policy.directory import Directory
from smtpguard.policy.engine_core import EngineCore
from smtpguard.policy.engine_memory import EngineMemory
from smtpguard.policy.engine_stats import EngineStats
from smtpguard.policy.exact_windows import ExactWindows
from smtpguard.policy.networks import network_of
from smtpguard.policy.outcomes import Outcomes
from smtpguard.policy.roster import Limits
from smtpguard.policy.subject_state import SubjectState
from smtpguard.policy.subjects import HEARSAY
from smtpguard.policy.timekeeper import Timekeeper
from smtpguard.policy.windows import NEVER, note_keys
from smtpguard.settings import Settings

_refusal = quick_maker(Refusal, "time_ns", "subject", "account", "connect", "by", "mode")
_told = quick_maker(Refusal, "time_ns", "subject", "account", "connect", "by", "mode", "counted")
MAX_NETWORKS = 65_536
"""Destinations remembered as counting, with their networks; all are asked about anew when there are more."""


class WhyExempt(Protocol):
    """Knows which destinations never count."""

    def __call__(self, address: bytes, /) -> str | None:
        """Why a destination, 4 or 16 bytes, does not count; None if it does."""
        ...


class Engine:
    """Judges attempts.

    Args:
        settings: The configuration.
        directory: Accounts, as a snapshot; give a new one to `reconfigure` when they change.
        why_exempt: What kind of destination an address is that never counts; None if it counts. It must answer from
            memory, and its answers are remembered: call `forget_destinations` when they change. None: all count.
        limits: How much may be held.

    Attributes:
        commands: What people and other programs ask of it.
        memory: What it remembers over a restart.
        exact: What keeps exact limits in the kernel in step with it.

    Raises:
        ConfigError: A rule counts what can't be counted.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        directory: Directory,
        why_exempt: WhyExempt | None,
        limits: Limits | None = None,
    ) -> None:
        self._core = core = EngineCore(settings, directory, limits or Limits())
        self.own = core.roster.own
        self._roster, self._blocks, self._verdicts = core.roster, core.blocks, core.verdicts
        self.commands = Commands(core)
        self.memory = EngineMemory(core)
        self.exact = ExactWindows(core)
        self._outcomes = Outcomes(core, self.counts)
        self._timekeeper = Timekeeper(core, self.commands)
        self._why_exempt = why_exempt
        self._fast = core.roster.fast
        self._networks: dict[bytes, bytes] = {}
        self._no_uid = 0

    def feed(self, connect: Connect) -> list[Decision]:
        """Judge one attempt.

        Most attempts are in order, of a known user who is far from every limit, or who is blocked: they take the short
        way here, which decides nothing else than that nothing is to be decided, or that this one is refused.
        """
        # What makes the short way safe is left behind by the long one; who changes it goes the long way, or calls
        # `settle` or `distrust`:
        # - An attempt is late only before `ready_ns`, and inside a block only before `clear_ns`.
        # - `room` more attempts exceed no rule before `recheck_ns`, a table's `room` more keys none that counts keys:
        #   as time goes on counts only fall.
        # - `fast` holds nobody with two sets of windows, of another namespace, or seen under a subordinate uid.
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
            outlooks = book.ahead
            if outlooks is None:
                outlooks = book.ahead = {}
            ahead = outlooks.get(port)
            if ahead is None:
                ahead = outlooks[port] = self._blocks.outlook(watched.subject, port)
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
        if connect.uid is None or connect.port not in self._core.settings.ports:
            self._no_uid += 1
            return []
        if not self.counts(connect.address):
            return []
        return self._consider(connect, self._roster.find(connect.uid, HEARSAY))

    def _meet(self, connect: Connect) -> list[Decision]:
        """Find out whose attempt it is, the long way."""
        uid = connect.uid
        if uid is None or connect.port not in self._core.settings.ports:
            self._no_uid += 1
            return []
        if not self.counts(connect.address):
            return []
        watched = self._roster.find(uid, connect.netns)
        if uid == watched.subject.id and connect.result != "refused" and self._roster.begin(watched, connect.port):
            self._core.settle(watched)
            return self.feed(connect)
        return self._consider(connect, watched)

    def counts(self, address: bytes) -> bool:
        """Whether a destination counts; remembered if it does."""
        if self._why_exempt is None or address in self._networks:
            return True
        exempt = self._why_exempt(address)
        if exempt is not None and (exempt != "loopback" or self._core.settings.loopback != "count"):
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
        mode: Mode = "enforce"
        if span is not None:
            span.tries.append(connect.time_ns)
            mode = "dry-run" if self._roster.off else span.mode
            if span.hides:  # from every book
                if connect.uid == subject.id:
                    self._roster.register(watched, connect.port)
                return [_refusal(connect.time_ns, subject, watched.account, connect, span.kind, mode)]
        books = [book for book in watched.books if span is None or (book.mode == "enforce" and not span.hides)]
        judged = [(book, book.judge(connect.time_ns, connect.port, connect.address)) for book in books]
        stopped = {book.mode for book, found in judged if any(excess.action != "warn" for excess in found)}
        enters = refused_by is None and "enforce" not in stopped
        if span is not None:
            counted = enters and bool(books)
            out.append(_told(connect.time_ns, subject, watched.account, connect, span.kind, mode, counted))
        if refused_by == "credit" and not stopped:
            return out or [_refusal(connect.time_ns, subject, watched.account, connect, "credit", "enforce")]
        if enters:
            for book in books:
                if book.mode not in stopped:
                    book.enter(connect.time_ns, connect.port, connect.address)
        for book, found in judged:
            if found:
                watched.changes += 1
                at_ns = max(connect.time_ns, book.newest_ns())
                out += self._verdicts.decide(watched, book.mode, found, connect, at_ns=at_ns, now_ns=self._core.now_ns)
        if books:
            self._core.settle(watched)
            if connect.uid == subject.id:
                self._roster.register(watched, connect.port)
            self._roster.active[watched] = 0
        return out

    def tick(self, now_ns: int) -> list[Decision]:
        """What time alone brings: ends of blocks, a breaker that is calm again.

        Args:
            now_ns: The time now, on the events' timeline. Never turns back.
        """
        return self._timekeeper.tick(now_ns)

    def next_deadline(self) -> int | None:
        """When `tick` is due; None if nothing is to come."""
        return self._timekeeper.next_deadline()

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
            untold=self._verdicts.containers.untold,
        )

    def report(self, report: SocketReport) -> list[Decision]:
        """Count what became of a connection: failures, and bytes sent. Judged after the fact, in the report's order."""
        return self._outcomes.take(report)

    def reconfigure(self, settings: Settings, directory: Directory, now_ns: int) -> list[Decision]:
        """Take a new configuration or new accounts; windows of rules that stay what they were go on.

        Raises:
            ConfigError: A rule counts what can't be counted; nothing has changed then.

        Returns:
            The blocks that ended by it: of whom is exempt or report-only now, of uids given to another name; and those
            of uids whose name came, which take it.
        """
        ended = self.commands.reconfigure(settings, directory, now_ns)
        self._outcomes.reconfigure(settings)
        self.forget_destinations()
        return ended

    def blocks(self) -> list[Block]:
        """All blocks and throttles that are in force, report-only ones too."""
        return list(self._blocks)

    def blocks_of(self, subject: Subject) -> list[Block]:
        """The blocks and throttles of one subject."""
        return self._blocks.of(subject)

    @property
    def changed_blocks(self) -> set[Subject]:
        """Whose blocks have begun, changed or ended; whoever carries them out takes these out."""
        return self._blocks.changed

    def blocked_subjects(self) -> list[Subject]:
        """Who has blocks or throttles."""
        return self._blocks.subjects()

    def allowances(self) -> list[Allowance]:
        """All allowances that hold."""
        return list(self._roster.allowances.values())

    @property
    def is_off(self) -> bool:
        """Whether a person switched the guard off: everything is told, nothing carried out."""
        return self._roster.off

    def is_tripped(self, mode: Mode) -> bool:
        """Whether the breaker makes blocks of a mode throttles now."""
        return self._verdicts.tripped(mode)
