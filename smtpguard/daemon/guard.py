"""The guard: the one consumer of what sources see. Each attempt goes through the engine at once, then what follows.

It holds no policy of its own, hands out none of its parts, and does nothing slow.
"""

from collections.abc import Iterable

from smtpguard.actions.suppression import highest_limit
from smtpguard.daemon.enforce.enforcement import Enforcement
from smtpguard.daemon.execution import Execution
from smtpguard.daemon.loop import TimedPart
from smtpguard.daemon.record.enrichment_queue import Entry
from smtpguard.daemon.record.journal import Journal
from smtpguard.enrich.accounts.directory import AccountDirectory
from smtpguard.hooks import ClockNs
from smtpguard.model import Account, Block, Connect, Decision, Refusal, RefusedBy, SocketReport, Subject, Verdict
from smtpguard.policy.destinations import Destinations
from smtpguard.policy.engine import Engine
from smtpguard.policy.rules import compile_terms, override_index
from smtpguard.policy.subjects import account_of, subject_of
from smtpguard.settings import Settings

OUTCOMES = frozenset({"established", "refused", "timeout", "gave-up"})
"""What becomes of a connection, once."""


class Guard(TimedPart):
    """What happens when something is seen, and when time passes; a part of the loop.

    Args:
        settings: The configuration in force.
        engine: Decides.
        execution: Carries out what was decided.
        enforcement: Knows what the kernel refused by itself.
        journal: Writes.
        accounts: Who is who.
        destinations: What never counts.
        now: CLOCK_BOOTTIME in nanoseconds.

    Attributes:
        settings: The configuration in force.
        seen: Connects taken since the start.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        engine: Engine,
        execution: Execution,
        enforcement: Enforcement,
        journal: Journal,
        accounts: AccountDirectory,
        destinations: Destinations,
        now: ClockNs,
    ) -> None:
        self.settings = settings
        self.seen = 0
        self._engine = engine
        self._execution = execution
        self._enforcement = enforcement
        self._cap, self._limits = enforcement.cap, enforcement.credits
        self._journal = journal
        self._accounts = accounts
        self._destinations = destinations
        self._now = now
        self._highest: dict[int | None, int] = {}

    # -- what sources saw --------------------------------------------------------------------------------------------

    def take(self, connects: Iterable[Connect], *, early: bool = False) -> None:
        """Judge what a source saw, respond, and note it: all are judged before the first is noted.

        Args:
            connects: The attempts.
            early: They were found in the kernel's verdicts: the source may tell of them later, or not at all.
        """
        judged: list[tuple[Connect, Subject, list[Decision]]] = []
        try:
            for seen in connects:
                self._judge(self._cap.mark(seen), judged, early=early)
        finally:  # an attempt that meets a mistake of ours takes none of those before it with it
            self._note(judged)

    def hear(self, connects: Iterable[Connect]) -> None:
        """Judge what `proc` was alone to see, beside a better source: it is told and logged, and nobody is stopped."""
        judged: list[tuple[Connect, Subject, list[Decision]]] = []
        try:
            for connect in connects:
                decisions = self._engine.hear(connect)
                self._execution.act(decisions)
                if connect.uid is not None:
                    judged.append((connect, subject_of(self._accounts, connect.uid), decisions))
        finally:
            self._note(judged)

    def take_reports(self, reports: Iterable[SocketReport]) -> None:
        """Judge what became of connections (rules that count failures or bytes)."""
        for report in reports:
            if report.kind in OUTCOMES and report.uid is not None:
                self._take_outcome(report, subject_of(self._accounts, report.uid, report.netns))
            decisions = self._engine.report(report)
            if not decisions:
                continue
            self._execution.act(decisions)
            verdicts = [decision for decision in decisions if isinstance(decision, Verdict)]
            if verdicts:
                self._journal.add(
                    Entry(
                        connect=verdicts[0].connect,
                        account=verdicts[0].account,
                        subject=verdicts[0].subject,
                        is_new=False,
                        verdicts=verdicts,
                        blocks=[d for d in decisions if isinstance(d, Block) and not d.renewed],
                    )
                )

    def _take_outcome(self, report: SocketReport, subject: Subject) -> None:
        exempt = self._destinations.why_exempt(report.address)
        if report.kind == "established" and report.uid and exempt is None:
            self._enforcement.end_late(subject, report.port)
        if exempt != "loopback" or self.settings.loopback == "count":
            self._journal.recorder.outcome(subject, report)

    def _judge(self, connect: Connect, judged: list[tuple[Connect, Subject, list[Decision]]], *, early: bool) -> None:
        limits = self._limits
        if connect.refused_by == "credit" and connect.uid is not None:
            if not early and limits.is_known(connect):
                return
            missed = limits.prepare(connect, subject_of(self._accounts, connect.uid, connect.netns))
            if missed is not None:
                self._judge(missed, judged, early=True)
        decisions = self._engine.feed(connect)
        self._execution.act(decisions, settle=connect.refused_by == "credit")
        if connect.uid is None:
            return
        subject = subject_of(self._accounts, connect.uid, connect.netns)
        limits.note(connect, subject, decisions)
        judged.append((connect, subject, decisions))

    def _note(self, judged: list[tuple[Connect, Subject, list[Decision]]]) -> None:
        self.seen += len(judged)
        for connect, subject, decisions in judged:
            exempt = self._destinations.why_exempt(connect.address)
            if exempt == "loopback" and self.settings.loopback == "ignore":
                continue
            account = account_of(self._accounts, subject)
            refused_by = _find_means(decisions)
            # Of the attempt that exceeds an exact limit no Refusal comes: the kernel refused it, and it is a verdict.
            if refused_by is not None or (connect.result == "refused" and connect.refused_by is not None):
                self._execution.count_refused(subject)
            self._journal.add(
                Entry(
                    connect=connect,
                    account=account,
                    subject=subject,
                    refused_by=refused_by,
                    is_counted=exempt is None or exempt == "loopback",
                    highest_limit=self._highest_limit(account),
                    verdicts=[d for d in decisions if isinstance(d, Verdict)],
                    blocks=[d for d in decisions if isinstance(d, Block) and not d.renewed],
                )
            )

    def _highest_limit(self, account: Account) -> int:
        """The highest limit of a user's rules: so many CONNECT lines are always written."""
        index = override_index(self.settings, account)
        known = self._highest.get(index)
        if known is None:
            rules = compile_terms(self.settings, index, "").of("enforce")
            known = self._highest[index] = highest_limit(rules)
        return known

    # -- time, and what changes around it ----------------------------------------------------------------------------

    def next_deadline(self) -> int | None:
        """When the engine wants its turn."""
        return self._engine.next_deadline()

    def on_time(self, now_ns: int) -> None:
        """Let time pass."""
        self._execution.act(self._engine.tick(now_ns))
        overdue = self._limits.take_overdue(now_ns)
        if overdue:
            self.take(overdue, early=True)

    def reconfigure(self, settings: Settings) -> None:
        """Take a new configuration: windows go on; who is exempt now is free."""
        self.settings = settings
        self._highest.clear()
        self._execution.reconfigure(settings)
        self._execution.act(self._engine.reconfigure(settings, self._accounts, self._now()))
        self._journal.end_incidents_of_others(self._execution.account_of)


def _find_means(decisions: Iterable[Decision]) -> RefusedBy | None:
    """What refused an attempt; in dry run nobody did, and what slipped through before the kernel knew was not."""
    found = (d for d in decisions if isinstance(d, Refusal) and d.mode == "enforce" and d.connect.result != "allowed")
    return next((refusal.by for refusal in found), None)
