"""What people and other programs ask of the engine: blocks, ends, allowances, the panic switch, a new configuration."""

from dataclasses import replace

from smtpguard.errors import PolicyError
from smtpguard.model import (
    Allowance,
    AllowanceEnded,
    Block,
    Decision,
    Ended,
    Mode,
    Named,
    Subject,
    Watch,
    WatchEnded,
)
from smtpguard.policy.directory import Directory
from smtpguard.policy.engine_core import EngineCore
from smtpguard.policy.rules import check_rules
from smtpguard.policy.subject_state import NEVER_REFUSED
from smtpguard.settings import Settings


class Commands:
    """Changes what the engine holds by somebody's word.

    Args:
        core: Shared with the engine.
    """

    __slots__ = ("_core",)

    def __init__(self, core: EngineCore) -> None:
        self._core = core

    def add_block(self, block: Block, *, force: bool = False) -> list[Decision]:
        """Take in a block that the engine did not decide: a person's, fail2ban's, or one restored from state.

        Args:
            block: The block; its mode is decided here, but a guard's block that was report-only stays so.
            force: Also for an exempt account, if a person asks.

        Returns:
            The block as it stands now, after what it ended.

        Raises:
            PolicyError: Root, or without force an exempt account, was to be blocked by a person.
        """
        watched = self._core.roster.of(block.subject)
        account = watched.account
        if block.source == "admin":
            if account.standing == "root":
                raise PolicyError("root is never blocked")
            if account.standing in NEVER_REFUSED and not force:
                raise PolicyError(
                    f"{account.name or account.uid} is exempt: {account.reason or account.standing}", fix="--force"
                )
        allowance = self._core.roster.allowances.get(block.subject)
        allowed = allowance is not None and allowance.limit is None and self._core.settings.block_by != "fail2ban"
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
        ended = self._core.blocks.put(block, hides=mode == "enforce")
        if ended is not None:
            out += [*ended, block]
        self._core.settle(watched)
        return out

    def end(
        self, subject: Subject, *, by: str, now_ns: int, source: str | None = None, reason: str = ""
    ) -> list[Ended]:
        """End a subject's blocks: of one source, or all. Windows stay as they are."""
        ended = self._core.blocks.end(subject, source=source, by=by, reason=reason, now_ns=now_ns)
        self._core.settle(self._core.roster.of(subject))
        return ended

    def forgive(self, subject: Subject, address: bytes, *, now_ns: int, reason: str) -> list[Ended]:
        """End the blocks over an attempt at an address that turned out not to count, as if it had not been made.

        Args:
            subject: Whose attempt it was.
            address: Where it went, packed.
            now_ns: Event time now.
            reason: Free text for people.
        """
        ended = self._core.blocks.end(
            subject, source="guard", by="exempt", reason=reason, now_ns=now_ns, address=address
        )
        if ended:
            watched = self._core.roster.of(subject)
            for end in ended:
                self._core.verdicts.forget(watched, end.block, now_ns)
            self._core.roster.active[watched] = 0
            self._core.settle(watched)
        return ended

    def judge_again(self, subject: Subject, now_ns: int) -> None:
        """Judge a subject's attempts at once again, though a verdict of a moment ago was left to fail2ban."""
        self._core.blocks.unhide(subject, now_ns)
        self._core.settle(self._core.roster.of(subject))

    def reset(self, subject: Subject, now_ns: int) -> None:
        """Empty a subject's windows and forget how often it was blocked."""
        watched = self._core.roster.of(subject)
        self._core.roster.reset(watched, now_ns)
        self._core.roster.active[watched] = 0

    def unblock(self, subject: Subject, *, by: str, now_ns: int, reason: str = "") -> list[Ended]:
        """A person's unblock: ends all sources, empties the windows, forgets the escalation."""
        ended = self.end(subject, by=by, now_ns=now_ns, reason=reason)
        self.reset(subject, now_ns)
        return ended

    def reconfigure(self, settings: Settings, directory: Directory, now_ns: int) -> list[Decision]:
        """Take a new configuration or new accounts; windows of rules that stay what they were go on.

        Raises:
            ConfigError: A rule counts what can't be counted; nothing has changed then.

        Returns:
            The blocks that ended by it: of whom is exempt or report-only now, of uids given to another name; and those
            of uids whose name came, which take it.
        """
        check_rules(settings)
        exempt_before = {
            s for s in self._core.blocks.subjects() if self._core.roster.of(s).account.standing in NEVER_REFUSED
        }
        self._core.settings = settings
        self._core.roster.reconfigure(settings, directory)
        self._core.verdicts.reconfigure(settings)
        ended: list[Decision] = []
        for subject in self._core.blocks.subjects():
            watched = self._core.roster.of(subject)
            account = watched.account
            self._core.blocks.update_ranges(subject, () if subject.scope is not None else account.ranges)
            if account.standing in NEVER_REFUSED and subject not in exempt_before:
                ended += self.end(subject, by="exempt", now_ns=now_ns, reason=account.reason)
            told = {counter.rule.name for book in watched.books if book.mode != "enforce" for counter in book.counters}
            for block in self._core.blocks.of(subject):
                if not account.may_be(block.name):
                    reason = f"uid is {account.name}'s now"
                    ended += self.end(subject, source=block.source, by="name", now_ns=now_ns, reason=reason)
                    continue
                if block.name is None and account.name is not None:
                    ended.append(Named(before=block, after=self._core.blocks.bind(block, account.name)))
                if block.mode == "enforce" and block.source != "admin" and (watched.why or block.rule in told):
                    reason = watched.why or "rule is dry_run"
                    ended += self.end(subject, source=block.source, by="reload", now_ns=now_ns, reason=reason)
            self._core.settle(watched)
        for allowance in list(self._core.roster.allowances.values()):
            account = self._core.roster.of(allowance.subject).account
            if allowance.name is None and account.name is not None:
                named = replace(allowance, name=account.name)
                self._core.roster.allowances[allowance.subject] = named
                ended.append(Named(before=allowance, after=named))
            elif not account.may_be(allowance.name):
                reason = f"uid is {account.name}'s now"
                ended += self.end_allowance(allowance.subject, by="name", now_ns=now_ns, reason=reason)
        for watch in list(self._core.roster.own.watches.values()):
            if not self._core.roster.of(watch.subject).account.may_be(watch.name):
                ended += self.end_watch(watch.subject, by="name", now_ns=now_ns)
        return ended

    def allow(self, allowance: Allowance, *, late_ns: int | None = None) -> list[Decision]:
        """Give an allowance: what is active for the account ends, and its rules do not hold while the allowance does.

        A block that a person sets later stands in spite of it. Give a restored one before restored blocks.

        Args:
            allowance: It.
            late_ns: It is an earlier run's, and was read so late only: what a person has blocked meanwhile stands.

        Returns:
            What ended by it.
        """
        subject, since_ns = allowance.subject, allowance.since_ns
        out: list[Decision] = []
        if old := self._core.roster.allowances.get(subject):
            out.append(AllowanceEnded(time_ns=since_ns, allowance=old, by="allow"))
        account = self._core.roster.of(subject).account
        allowance = replace(allowance, name=allowance.name or account.name)
        if not account.may_be(allowance.name):
            reason = f"uid is {account.name}'s now"
            return [AllowanceEnded(time_ns=since_ns, allowance=allowance, by="name", reason=reason)]
        self._core.roster.allow(allowance, subject, since_ns)
        if late_ns is None:
            return out + self.unblock(subject, by=allowance.by, now_ns=since_ns, reason="allowed")
        for source in dict.fromkeys(block.source for block in self._core.blocks.of(subject)):
            if source != "admin":
                out += self.end(subject, source=source, by=allowance.by, now_ns=late_ns, reason="allowed")
        return out

    def end_allowance(self, subject: Subject, *, by: str, now_ns: int, reason: str = "") -> list[Decision]:
        """End an allowance; the rules hold again, with all counters at 0. Nothing to end is fine."""
        allowance = self._core.roster.allowances.get(subject)
        if allowance is None:
            return []
        self._core.roster.allow(None, subject, now_ns)
        return [AllowanceEnded(time_ns=now_ns, allowance=allowance, by=by, reason=reason)]

    def watch(self, watch: Watch) -> list[Decision]:
        """Halve an account's limits for a time; what its windows hold goes on counting, and blocks stay.

        Returns:
            It, as ended, if the uid is somebody else's.
        """
        account = self._core.roster.of(watch.subject).account
        watch = replace(watch, name=watch.name or account.name)
        if not account.may_be(watch.name):
            return [WatchEnded(time_ns=watch.since_ns, watch=watch, by="name")]
        self._core.roster.own.watches[watch.subject] = watch
        self._compile_anew(watch.subject)
        return []

    def end_watch(self, subject: Subject, *, by: str, now_ns: int) -> list[Decision]:
        """End a watch: the limits are what they were. Nothing to end is fine."""
        watch = self._core.roster.own.watches.pop(subject, None)
        if watch is None:
            return []
        self._compile_anew(subject)
        return [WatchEnded(time_ns=now_ns, watch=watch, by=by)]

    def _compile_anew(self, subject: Subject) -> None:
        """Have other limits hold for a subject from now on."""
        self._core.roster.of(subject).generation = -1
        self._core.settle(self._core.roster.of(subject))

    def set_off(self, *, off: bool) -> None:
        """The panic switch. Verdicts are report-only while it is off, and so is what follows from them.

        Windows and blocks stay, and time goes on for them: what is left of a block holds again when it is on.
        """
        if off != self._core.roster.off:
            self._core.roster.off = off
            self._core.roster.refresh()
