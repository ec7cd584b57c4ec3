"""What people and other programs ask of the engine: blocks, ends, allowances, the panic switch, a new configuration."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from smtpguard.errors import PolicyError
from smtpguard.model import Allowance, AllowanceEnded, Block, Connect, Decision, Ended, Mode, Named, Subject
from smtpguard.policy.blocks import BlockTable
from smtpguard.policy.directory import Directory
from smtpguard.policy.escalation import Record
from smtpguard.policy.roster import Limits, Roster
from smtpguard.policy.rules import check_rules
from smtpguard.policy.subject_state import NEVER_REFUSED, SubjectState
from smtpguard.policy.verdicts import Verdicts
from smtpguard.policy.window_export import StoredPart, WindowPart, export_parts, restore_parts
from smtpguard.policy.windows import NEVER
from smtpguard.settings import Settings

IDLE_EXPORTS = 60
"""After so many exports without a change a subject is not looked at by further ones until it is seen again."""
MAX_EXPORT = 20_000
"""Parts in one export, about 0.1 s of work; the rest comes with the next one."""


class Commands:
    """The part of the engine that does not judge.

    Args:
        settings: The configuration.
        directory: Accounts.
        limits: How much may be held.

    Raises:
        ConfigError: A rule counts what can't be counted.
    """

    def __init__(self, settings: Settings, directory: Directory, limits: Limits) -> None:
        check_rules(settings)
        self._settings = settings
        self._blocks = BlockTable()
        self._roster = Roster(settings, directory, limits, lambda subject: bool(self._blocks.of(subject)))
        self._verdicts = Verdicts(settings, self._blocks)
        self._now_ns = NEVER

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
        allowance = self._roster.allowances.get(block.subject)
        allowed = allowance is not None and allowance.limit is None and self._settings.block_by != "fail2ban"
        hidden = watched.why != "" or account.standing in NEVER_REFUSED or (allowed and block.source != "guard")
        told = block.source != "admin" and hidden
        mode: Mode = "dry-run" if told or (block.source == "guard" and block.mode == "dry-run") else "enforce"
        ranges = () if block.subject.scope is not None else account.ranges
        name = block.name or account.name
        if (block.mode, block.ranges, block.name) != (mode, ranges, name):
            block = replace(block, mode=mode, ranges=ranges, name=name)
        out: list[Decision] = []
        if not account.may_be(block.name):
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

    def forgive(self, subject: Subject, address: bytes, *, now_ns: int, reason: str) -> list[Ended]:
        """End the blocks over an attempt at an address that turned out not to count, as if it had not been made.

        Args:
            subject: Whose attempt it was.
            address: Where it went, packed.
            now_ns: Event time now.
            reason: Free text for people.
        """
        ended = self._blocks.end(subject, source="guard", by="exempt", reason=reason, now_ns=now_ns, address=address)
        if ended:
            watched = self._roster.of(subject)
            for end in ended:
                self._verdicts.forget(watched, end.block, now_ns)
            self._roster.active[watched] = 0
            self._settle(watched)
        return ended

    def judge_again(self, subject: Subject, now_ns: int) -> None:
        """Judge a subject's attempts at once again, though a verdict of a moment ago was left to fail2ban."""
        self._blocks.unhide(subject, now_ns)
        self._settle(self._roster.of(subject))

    def reset(self, subject: Subject, now_ns: int) -> None:
        """Empty a subject's windows and forget how often it was blocked."""
        watched = self._roster.of(subject)
        self._roster.reset(watched, now_ns)
        self._roster.active[watched] = 0

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

    @property
    def changed_blocks(self) -> set[Subject]:
        """Whose blocks have begun, changed or ended; whoever carries them out takes these out."""
        return self._blocks.changed

    def blocked_subjects(self) -> list[Subject]:
        """Who has blocks or throttles."""
        return self._blocks.subjects()

    def reconfigure(self, settings: Settings, directory: Directory, now_ns: int) -> list[Decision]:
        """Take a new configuration or new accounts; windows of rules that stay what they were go on.

        Raises:
            ConfigError: A rule counts what can't be counted; nothing has changed then.

        Returns:
            The blocks that ended by it: of whom is exempt or only told now, of uids given to another name; and those
            of uids whose name came, which take it.
        """
        check_rules(settings)
        exempt_before = {s for s in self._blocks.subjects() if self._roster.of(s).account.standing in NEVER_REFUSED}
        self._settings = settings
        self._roster.reconfigure(settings, directory)
        self._verdicts.reconfigure(settings)
        ended: list[Decision] = []
        for subject in self._blocks.subjects():
            watched = self._roster.of(subject)
            account = watched.account
            self._blocks.update_ranges(subject, () if subject.scope is not None else account.ranges)
            if account.standing in NEVER_REFUSED and subject not in exempt_before:
                ended += self.end(subject, by="exempt", now_ns=now_ns, reason=account.reason)
            told = {counter.rule.name for book in watched.books if book.mode != "enforce" for counter in book.counters}
            for block in self._blocks.of(subject):
                if not account.may_be(block.name):
                    reason = f"uid is {account.name}'s now"
                    ended += self.end(subject, source=block.source, by="name", now_ns=now_ns, reason=reason)
                    continue
                if block.name is None and account.name is not None:
                    ended.append(Named(before=block, after=self._blocks.bind(block, account.name)))
                if block.mode == "enforce" and block.source != "admin" and (watched.why or block.rule in told):
                    reason = watched.why or "rule is dry_run"
                    ended += self.end(subject, source=block.source, by="reload", now_ns=now_ns, reason=reason)
            self._settle(watched)
        for allowance in self.allowances():
            account = self._roster.of(allowance.subject).account
            if allowance.name is None and account.name is not None:
                named = replace(allowance, name=account.name)
                self._roster.allowances[allowance.subject] = named
                ended.append(Named(before=allowance, after=named))
            elif not account.may_be(allowance.name):
                reason = f"uid is {account.name}'s now"
                ended += self.end_allowance(allowance.subject, by="name", now_ns=now_ns, reason=reason)
        return ended

    def restore_seen(self, subject: Subject, port: int, last_ns: int) -> None:
        """Tell when a subject was last seen on a port, from before this run: `novel` rules ask."""
        seen = self._roster.of(subject).seen
        seen[port] = max(last_ns, seen.get(port, NEVER))

    def know_since(self, since_ns: int) -> None:
        """Tell since when it is known who sends: rules with `novel` say nothing until that is as long as their span."""
        self._roster.bounds.known_ns = since_ns

    def is_tripped(self, mode: Mode) -> bool:
        """Whether the breaker makes blocks of a mode throttles now."""
        return self._verdicts.tripped(mode)

    def allow(self, allowance: Allowance) -> list[Decision]:
        """Give an allowance: what stands against the account ends, and its rules do not hold while the allowance does.

        A block that a person sets later stands in spite of it. Give a restored one before restored blocks.

        Returns:
            What ended by it.
        """
        subject, since_ns = allowance.subject, allowance.since_ns
        out: list[Decision] = []
        if old := self._roster.allowances.get(subject):
            out.append(AllowanceEnded(time_ns=since_ns, allowance=old, by="allow"))
        account = self._roster.of(subject).account
        allowance = replace(allowance, name=allowance.name or account.name)
        if not account.may_be(allowance.name):
            reason = f"uid is {account.name}'s now"
            return [AllowanceEnded(time_ns=since_ns, allowance=allowance, by="name", reason=reason)]
        self._roster.allow(allowance, subject)
        out += self.unblock(subject, by=allowance.by, now_ns=since_ns, reason="allowed")
        return out

    def end_allowance(self, subject: Subject, *, by: str, now_ns: int, reason: str = "") -> list[Decision]:
        """End an allowance; the rules hold again, from empty windows. Nothing to end is fine."""
        allowance = self._roster.allowances.get(subject)
        if allowance is None:
            return []
        self._roster.allow(None, subject)
        return [AllowanceEnded(time_ns=now_ns, allowance=allowance, by=by, reason=reason)]

    def allowances(self) -> list[Allowance]:
        """All allowances that hold."""
        return list(self._roster.allowances.values())

    @property
    def is_off(self) -> bool:
        """Whether a person switched the guard off: everything is told, nothing carried out."""
        return self._roster.off

    def set_off(self, *, off: bool) -> None:
        """The panic switch. Verdicts are told only while it is off, and so is what follows from them.

        Windows and blocks stay, and time goes on for them: what is left of a block holds again when it is on.
        """
        if off != self._roster.off:
            self._roster.off = off
            self._roster.refresh()

    def escalation(self, subject: Subject) -> Record | None:
        """How often a subject was blocked in earnest, and when the last of these blocks ends; None if never."""
        return self._roster.of(subject).records.get("enforce")

    def restore_escalation(self, subject: Subject, blocks: int, until_ns: int) -> None:
        """Tell how often a subject was blocked before this run, and when the last of these blocks ended."""
        watched = self._roster.of(subject)
        watched.records["enforce"] = Record(blocks, until_ns)
        watched.changes += 1

    def windows(self) -> Iterator[tuple[int, str, list[int]]]:
        """What connections rules that are carried out have in their windows: (uid, rule, event times).

        Of who has not been seen since a switch was turned, the windows from before go on: it may be told rules' only.
        """
        for watched in self._roster:
            books = watched.books if watched.subject.scope is None else ()
            carried = [book for book in books if book.mode == "enforce"]
            for book in carried or (books if self._roster.is_outdated(watched) else ()):
                for counter in book.counters:
                    if counter.rule.count == "connections" and counter.rule.action != "warn":
                        yield watched.subject.id, counter.rule.name, counter.times()

    def key_windows(self) -> Iterator[tuple[int, str, dict[bytes, int], int]]:
        """The same of rules that count destinations or networks: (uid, rule, keys, up to when it was emptied)."""
        for watched in self._roster:
            books = watched.books if watched.subject.scope is None else ()
            carried = [book for book in books if book.mode == "enforce"]
            for book in carried or (books if self._roster.is_outdated(watched) else ()):
                for counter in book.counters:
                    if counter.table is not None and counter.rule.action != "warn":
                        yield watched.subject.id, counter.rule.name, counter.table.keys, counter.floor_ns

    def would_refuse(self, subject: Subject, connect: Connect) -> bool:
        """Whether an attempt is inside a block, or exceeds a rule that is carried out and refuses."""
        watched = self._roster.of(subject)
        if self._blocks.cover(subject, connect.time_ns, connect.port) is not None:
            return True
        books = [book for book in watched.books if book.mode == "enforce"]
        found = [book.judge(connect.time_ns, connect.port, connect.address) for book in books]
        return any(excess.action != "warn" for excesses in found for excess in excesses)

    def catch_up(self, subject: Subject, rule: str, connect: Connect, *, keys: Mapping[bytes, int], lost: int) -> None:
        """Take in what the kernel knows and nobody reported, before an attempt that it refused is judged.

        Args:
            subject: Whose attempt.
            rule: By which rule it was refused.
            connect: The attempt.
            keys: Destinations or networks that the kernel has in the window of that rule.
            lost: Attempts that it let through and nobody told of: they count as if they had come with this one.
        """
        watched = self._roster.of(subject)
        for book in watched.books:
            lane = book.open_lane(connect.port)
            for _ in range(lost):
                book.put_back(lane, max(connect.time_ns, book.newest_ns()))
            for counter in lane.counters:
                if counter.rule.name == rule and counter.table is not None:
                    for key, last_ns in keys.items():
                        book.put_back_key(counter.table, key, last_ns)
            book.distrust()
        watched.changes += 1
        self._roster.active[watched] = 0
        self._settle(watched)

    def export(self, *, full: bool = False) -> list[WindowPart]:
        """What has changed in the windows since the last call; cheap enough for once a second.

        Args:
            full: Everything, because what was stored is lost.
        """
        roster = self._roster
        if full:
            for watched in roster:
                watched.saved.clear()
                watched.exported = -1
                roster.active[watched] = 0
        parts = [WindowPart(subject=subject, part=part, data=None) for subject, part in roster.gone]
        roster.gone.clear()
        for watched, idle in list(roster.active.items()):
            version = watched.version()
            if version != watched.exported:
                watched.exported = version
                parts += export_parts(watched)
                roster.active[watched] = 0
                if len(parts) > MAX_EXPORT:
                    break
            elif idle < IDLE_EXPORTS:
                roster.active[watched] = idle + 1
            else:
                del roster.active[watched]
                for book in watched.books:
                    book.distrust()  # its next attempt is looked at, and makes it active again
        return parts

    def restore_windows(self, parts: Iterable[StoredPart], now_ns: int) -> int:
        """Put back what an earlier run exported, before anything is fed.

        Args:
            parts: All of it, in any order.
            now_ns: Event time now.

        Returns:
            How many parts were no good.
        """
        bad = 0
        of: dict[Subject, list[StoredPart]] = {}
        for item in parts:
            of.setdefault(item.part.subject, []).append(item)
        for subject, items in of.items():
            watched = self._roster.of(subject)
            wrong, useless = restore_parts(watched, items, now_ns)
            bad += wrong
            self._roster.gone += [(subject, name) for name in useless]
            self._roster.active[watched] = 0
            self._settle(watched)
        return bad

    def _settle(self, watched: SubjectState) -> None:
        """Tell the fast path from when on the subject's attempts are neither late nor inside a block."""
        clear_ns = self._blocks.clear_ns(watched.subject)
        for book in watched.books:
            book.ready_ns = book.newest_ns()
            book.clear_ns = clear_ns
            book.ahead = {}
