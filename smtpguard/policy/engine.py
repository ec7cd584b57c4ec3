"""The engine: Connects in, decisions out. No clock, no socket, no file; docs/architecture.md has its semantics.

`feed` uses the event's own time; `tick` is told the time and says what has ended; `next_deadline` says when it wants
to be called. One caller, one thread.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from smtpguard.errors import PolicyError
from smtpguard.model import NS, Block, Connect, Decision, Ended, Mode, Refusal, RefusedBy, Subject
from smtpguard.policy.blocks import BlockTable
from smtpguard.policy.directory import Directory
from smtpguard.policy.roster import Limits, Roster, Watched
from smtpguard.policy.rules import check_rules
from smtpguard.policy.verdicts import Verdicts
from smtpguard.policy.windows import NEVER, network_of, note_keys
from smtpguard.settings import Settings

NEVER_REFUSED = frozenset({"root", "mta", "exempt"})
SWEEP_NS = 10 * NS
MAX_NETWORKS = 65_536
"""Destinations remembered as counting, with their networks; all are asked about anew when there are more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStats:
    """What the engine holds and what it left out; shown by `status`.

    Attributes:
        subjects: Subjects known.
        times, keys: Attempts, and addresses and networks, that windows have room for now.
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


class Engine:
    """Judges attempts.

    Args:
        settings: The configuration.
        directory: Accounts, as a snapshot; give a new one to `reconfigure` when they change.
        passes: What kind of destination an address is that never counts; None if it counts. It must answer from
            memory, and its answers are remembered: call `forget_destinations` when they change.
        limits: How much may be held.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        directory: Directory,
        passes: Callable[[bytes], str | None],
        limits: Limits | None = None,
    ) -> None:
        check_rules(settings)
        self._settings = settings
        self._passes = passes
        self._blocks = BlockTable()
        self._roster = Roster(settings, directory, limits or Limits(), lambda subject: bool(self._blocks.of(subject)))
        self._fast = self._roster.fast
        self._networks: dict[bytes, bytes] = {}
        self._verdicts = Verdicts(settings, self._blocks)
        self._now_ns = NEVER
        self._sweep_ns = NEVER
        self._active: dict[Watched, None] = {}
        self._no_uid = 0

    def feed(self, connect: Connect) -> list[Decision]:
        """Judge one attempt.

        Most attempts are in order, of a known user who is far from every limit: they take the short way here, which
        decides nothing else than that nothing is to be decided.
        """
        address = connect.address
        try:
            book, times, table, more, watched = self._fast[connect.port][connect.uid]
            network = self._networks[address]
        except KeyError:
            return self._meet(connect)
        time_ns = connect.time_ns
        if time_ns < book.ready_ns or connect.netns is not None or connect.result == "refused":
            return self._meet(connect)
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
        return []

    def _meet(self, connect: Connect) -> list[Decision]:
        """Find out who and where to, the long way."""
        uid, address = connect.uid, connect.address
        if uid is None or connect.port not in self._settings.ports:
            self._no_uid += 1
            return []
        if address not in self._networks:
            passed = self._passes(address)
            if passed is not None and (passed != "loopback" or self._settings.loopback != "count"):
                return []
            if len(self._networks) >= MAX_NETWORKS:
                self._networks.clear()
            self._networks[address] = network_of(address)
        return self._consider(connect, self._roster.find(uid, connect.netns))

    def _consider(self, connect: Connect, watched: Watched) -> list[Decision]:
        """Judge an attempt at a destination that counts, the long way."""
        subject = watched.subject
        refused_by = connect.refused_by if connect.result == "refused" else None
        if refused_by is not None and refused_by != "credit":
            return [self._refusal(watched, connect, refused_by, "enforce")]
        out: list[Decision] = []
        span = self._blocks.cover(subject, connect.time_ns)
        if span is not None:
            out.append(self._refusal(watched, connect, span.kind, span.mode))
        books = [book for book in watched.books if span is None or (book.mode == "enforce" and not span.hides)]
        judged = [(book, book.judge(connect.time_ns, connect.port, connect.address)) for book in books]
        stopped = {book.mode for book, found in judged if any(e.counter.rule.action != "warn" for e in found)}
        if refused_by == "credit":
            if not stopped:
                return out or [self._refusal(watched, connect, "credit", "enforce")]
        elif "enforce" not in stopped:
            for book in books:
                if book.mode not in stopped:
                    book.enter(connect.time_ns, connect.port, connect.address)
        for book, found in judged:
            if found:
                at_ns = max(connect.time_ns, book.newest_ns())
                out += self._verdicts.decide(watched, book, found, connect, at_ns=at_ns, now_ns=self._now_ns)
        if books:
            self._settle(watched)
            if connect.uid == subject.uid:
                self._roster.register(watched, connect.port)
            self._active[watched] = None
        return out

    def tick(self, now_ns: int) -> list[Decision]:
        """What time alone brings: ends of blocks, a breaker that is calm again.

        Args:
            now_ns: The time now, on the events' timeline. Never turns back.
        """
        self._now_ns = now_ns = max(now_ns, self._now_ns)
        out: list[Decision] = [*self._blocks.expire(now_ns), *self._verdicts.calm(now_ns)]
        if now_ns >= self._sweep_ns:
            self._sweep_ns = now_ns + SWEEP_NS
            self._roster.sweep(now_ns)
            self._blocks.drop_idle(now_ns)
        return out

    def next_deadline(self) -> int | None:
        """When `tick` is due; None if nothing is to come."""
        deadlines = (self._blocks.next_deadline(), self._verdicts.next_deadline())
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    def add_block(self, block: Block, *, force: bool = False) -> list[Decision]:
        """Take in a block that the engine did not decide: a person's, fail2ban's, or one restored from state.

        Args:
            block: The block; its mode is decided here, but a guard's block that was only told stays so.
            force: Also for an exempt account, if a person asks.

        Returns:
            The block as it stands now, after what it ended.

        Raises:
            PolicyError: Root, or without force an exempt account, was to be blocked by a person.
        """
        watched = self._roster.of(block.subject)
        account = watched.account
        if block.source == "admin":
            if account.standing == "root":
                raise PolicyError("root is never blocked")
            if account.standing in NEVER_REFUSED and not force:
                raise PolicyError(
                    f"{account.name or account.uid} is exempt: {account.reason or account.standing}", fix="--force"
                )
        told = block.source != "admin" and (watched.why != "" or account.standing in NEVER_REFUSED)
        mode: Mode = "dry-run" if told or (block.source == "guard" and block.mode == "dry-run") else "enforce"
        block = replace(block, mode=mode, ranges=() if block.subject.netns is not None else account.ranges)
        out: list[Decision] = []
        if block.name is not None and account.name is not None and block.name != account.name:
            return [Ended(time_ns=block.since_ns, block=block, by="name", reason=f"uid is {account.name}'s now")]
        ended = self._blocks.put(block, hides=mode == "enforce")
        if ended is not None:
            out += [*ended, block]
        self._settle(watched)
        return out

    def end(
        self, subject: Subject, *, by: str, now_ns: int, source: str | None = None, reason: str = ""
    ) -> list[Ended]:
        """End a subject's blocks: of one source, or all. Windows stay as they are."""
        ended = self._blocks.end(subject, source=source, by=by, reason=reason, now_ns=now_ns)
        self._settle(self._roster.of(subject))
        return ended

    def reset(self, subject: Subject, now_ns: int) -> None:
        """Empty a subject's windows and forget how often it was blocked."""
        watched = self._roster.of(subject)
        self._roster.reset(watched, now_ns)
        self._active[watched] = None

    def unblock(self, subject: Subject, *, by: str, now_ns: int, reason: str = "") -> list[Ended]:
        """A person's unblock: ends all sources, empties the windows, forgets the escalation."""
        ended = self.end(subject, by=by, now_ns=now_ns, reason=reason)
        self.reset(subject, now_ns)
        return ended

    def blocks(self) -> list[Block]:
        """All blocks and throttles that stand, told ones too."""
        return list(self._blocks)

    def blocks_of(self, subject: Subject) -> list[Block]:
        """The blocks and throttles of one subject."""
        return self._blocks.of(subject)

    def blocked_subjects(self) -> list[Subject]:
        """Who has blocks or throttles."""
        return self._blocks.subjects()

    def reconfigure(self, settings: Settings, directory: Directory, now_ns: int) -> list[Decision]:
        """Take a new configuration or new accounts; windows of rules that stay what they were go on.

        Raises:
            ConfigError: A rule counts what can't be counted; nothing has changed then.

        Returns:
            The blocks that ended by it: of whom is exempt or only told now, of uids given to another name.
        """
        check_rules(settings)
        exempt_before = {s for s in self._blocks.subjects() if self._roster.of(s).account.standing in NEVER_REFUSED}
        self._settings = settings
        self.forget_destinations()
        self._roster.reconfigure(settings, directory)
        self._verdicts.reconfigure(settings)
        ended: list[Decision] = []
        for subject in self._blocks.subjects():
            watched = self._roster.of(subject)
            account = watched.account
            self._blocks.update_ranges(subject, () if subject.netns is not None else account.ranges)
            if account.standing in NEVER_REFUSED and subject not in exempt_before:
                ended += self.end(subject, by="exempt", now_ns=now_ns, reason=account.reason)
            told = {counter.rule.name for book in watched.books if book.mode != "enforce" for counter in book.counters}
            for block in self._blocks.of(subject):
                if account.name not in {None, block.name}:
                    reason = f"uid is {account.name}'s now"
                    ended += self.end(subject, source=block.source, by="name", now_ns=now_ns, reason=reason)
                elif block.mode == "enforce" and block.source != "admin" and (watched.why or block.rule in told):
                    reason = watched.why or "rule is dry_run"
                    ended += self.end(subject, source=block.source, by="reload", now_ns=now_ns, reason=reason)
            self._settle(watched)
        return ended

    def restore_seen(self, subject: Subject, port: int, last_ns: int) -> None:
        """Tell when a subject was last seen on a port, from before this run: `novel` rules ask."""
        seen = self._roster.of(subject).seen
        seen[port] = max(last_ns, seen.get(port, NEVER))

    def is_tripped(self, mode: Mode) -> bool:
        """Whether the breaker makes blocks of a mode throttles now."""
        return self._verdicts.tripped(mode)

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

    def _settle(self, watched: Watched) -> None:
        """Tell the fast path from when on the subject's attempts are neither late nor inside a block."""
        clear_ns = self._blocks.clear_ns(watched.subject)
        for book in watched.books:
            book.ready_ns = max(clear_ns, book.newest_ns())

    @staticmethod
    def _refusal(watched: Watched, connect: Connect, by: RefusedBy, mode: Mode) -> Refusal:
        return Refusal(
            time_ns=connect.time_ns,
            subject=watched.subject,
            account=watched.account,
            connect=connect,
            by=by,
            mode=mode,
        )
