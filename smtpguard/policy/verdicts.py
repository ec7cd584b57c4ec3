"""What follows when rules are exceeded: verdicts, blocks and throttles, how long, and in which mode."""

from dataclasses import dataclass

from smtpguard.model import NS, Action, Block, BreakerChange, Connect, Decision, Mode, Verdict
from smtpguard.policy.blocks import BlockTable
from smtpguard.policy.breaker import Breaker
from smtpguard.policy.container_verdicts import ContainerVerdicts
from smtpguard.policy.counters import Excess
from smtpguard.policy.escalation import Record, block_ns, level_of
from smtpguard.policy.subject_state import CONTAINER, HEARD, MODES, SHARED, SubjectState
from smtpguard.policy.windows import NEVER
from smtpguard.settings import Rule, Settings
from smtpguard.text import render_duration, render_ports

FAIL2BAN_GRACE_NS = 10 * NS
"""With `block.by: fail2ban`: how long after a verdict attempts are not judged, so that fail2ban can do its part (0.1 to
0.5 s as measured). After it counting goes on: a dead fail2ban means another verdict, not silence."""
SOURCE = "guard"


@dataclass(frozen=True, slots=True)
class _Case:
    """One attempt that exceeds rules, with what holds for all of them.

    Attributes:
        watched: Whose attempt.
        mode: Of the windows that were exceeded.
        connect: The attempt.
        at_ns: When it was judged.
        now_ns: The time now.
        level: How many blocks came before.
        softened: Whether the breaker makes its blocks throttles.
    """

    watched: SubjectState
    mode: Mode
    connect: Connect
    at_ns: int
    now_ns: int
    level: int
    softened: bool


class Verdicts:
    """Decides on attempts that exceed rules.

    Args:
        settings: The configuration.
        blocks: Where blocks are kept.

    Attributes:
        containers: How many verdicts about containers are told.
    """

    def __init__(self, settings: Settings, blocks: BlockTable) -> None:
        self._settings = settings
        self._blocks = blocks
        self.containers = ContainerVerdicts()
        self._breakers: dict[Mode, Breaker] = {mode: Breaker(settings.breaker) for mode in MODES}

    def reconfigure(self, settings: Settings) -> None:
        """Take a new configuration; breakers go on."""
        self._settings = settings
        for breaker in self._breakers.values():
            breaker.limits = settings.breaker

    def decide(
        self, watched: SubjectState, mode: Mode, found: list[Excess], connect: Connect, *, at_ns: int, now_ns: int
    ) -> list[Decision]:
        """What follows from the rules that one attempt exceeds, in their order.

        Args:
            watched: Whose attempt.
            mode: Of the windows that were exceeded.
            found: The rules.
            connect: The attempt.
            at_ns: When it was judged: its own time, or that of the newest attempt if it came late.
            now_ns: The time now. What would be over by then is told, not carried out.
        """
        if watched.why == CONTAINER and not self._may_tell(watched.subject.id, found, at_ns):
            return []
        out: list[Decision] = []
        level = level_of(watched.records.get(mode), self._settings.escalation, at_ns)
        blocks = [excess.counter.rule for excess in found if excess.action == "block"]
        until_ns = max((self._block_end(rule, level, at_ns) for rule in blocks), default=NEVER)
        # One attempt is one block to the level and to the breaker, whatever number of rules ask for it; and none if
        # each of them would be over by now.
        counts = until_ns > now_ns
        softened = counts and not self._may_block(watched, mode, at_ns, out)
        case = _Case(watched, mode, connect, at_ns, now_ns, level, softened)
        for excess in found:
            self._sentence(case, excess, out)
        if counts and not softened:
            self._raise_level(watched, mode, level, until_ns)
        return out

    def _sentence(self, case: _Case, excess: Excess, out: list[Decision]) -> None:
        """What follows from one rule: its verdict, which stands before the block that comes of it."""
        counter, rule = excess.counter, excess.counter.rule
        action: Action = "throttle" if case.softened and rule.action == "block" else rule.action
        until_ns = self._end_of(case, excess, action)
        repeated = self._is_repeated(excess, action, case.at_ns)
        is_over = until_ns is not None and until_ns <= case.now_ns
        mode: Mode = "dry-run" if is_over else case.mode
        if not repeated:
            counter.told_ns = case.at_ns
            out.append(self._verdict(case, excess, action, until_ns, mode))
        if action == "block":
            counter.empty(case.at_ns)  # the count of the verdict is of before
            if self._settings.block_by == "fail2ban" and mode == "enforce":
                end_ns = case.at_ns + FAIL2BAN_GRACE_NS
                self._blocks.hide(case.watched.subject, case.at_ns, end_ns, ports=rule.refused_ports)
                return
        if until_ns is not None:
            block = self._block(case, excess, action, until_ns, mode, renewed=repeated)
            # Hidden from enforced rules is what they ask for themselves, also where it is over by now.
            ended = self._blocks.put(block, hides=case.mode == "enforce")
            if ended is not None:
                out += [*ended, block]

    def _block_end(self, rule: Rule, level: int, at_ns: int) -> int:
        return at_ns + block_ns(rule, self._settings.escalation, level)

    def _end_of(self, case: _Case, excess: Excess, action: Action) -> int | None:
        """Until when what a rule asks for holds; None for a warning."""
        if action == "warn":
            return None
        if action == "block":
            return self._block_end(excess.counter.rule, case.level, case.at_ns)
        return excess.counter.release_ns(case.at_ns)

    @staticmethod
    def _is_repeated(excess: Excess, action: Action, at_ns: int) -> bool:
        """Whether a verdict is not told: a throttle or warning was within this window. Each block is told."""
        if action == "block":
            return False
        just_told = at_ns < excess.counter.told_ns + excess.counter.rule.window_ns
        return just_told or (action == "warn" and not excess.rises)

    @staticmethod
    def _raise_level(watched: SubjectState, mode: Mode, level: int, until_ns: int) -> None:
        before = watched.records.get(mode)
        record = Record(level + 1, max(until_ns, before.until_ns if before else NEVER))
        watched.records = {**watched.records, mode: record}

    def _verdict(self, case: _Case, excess: Excess, action: Action, until_ns: int | None, mode: Mode) -> Verdict:
        rule = excess.counter.rule
        return Verdict(
            time_ns=case.connect.time_ns,
            subject=case.watched.subject,
            account=case.watched.account,
            rule=rule.name,
            count=excess.count,
            limit=rule.limit,
            window_ns=rule.window_ns,
            action=action,
            until_ns=until_ns,
            mode=mode,
            connect=case.connect,
            why_dry=self._why_dry(case.watched, case.mode, is_over=mode != case.mode),
            ports=rule.refused_ports,
            counted=rule.count,
        )

    @staticmethod
    def _block(case: _Case, excess: Excess, action: Action, until_ns: int, mode: Mode, *, renewed: bool) -> Block:
        rule, account = excess.counter.rule, case.watched.account
        return Block(
            subject=case.watched.subject,
            name=account.name,
            source=SOURCE,
            kind="block" if action == "block" else "throttle",
            since_ns=case.at_ns,
            until_ns=until_ns,
            mode=mode,
            rule=rule.name,
            reason=_render_reason(excess, softened=action != rule.action),
            level=case.level if action == "block" else 0,
            ranges=account.ranges,
            address=None if renewed else case.connect.address,
            renewed=renewed,
            ports=rule.refused_ports,
        )

    @staticmethod
    def forget(watched: SubjectState, block: Block, now_ns: int) -> None:
        """Undo what a block left behind: the window is empty, and the next one is no second one.

        Args:
            watched: Whose.
            block: The guard's, ended.
            now_ns: Event time now.
        """
        for book in watched.windows():
            for counter in book.counters:
                if counter.rule.name == block.rule:
                    counter.empty(now_ns)
                    counter.told_ns = NEVER
        for attempts in watched.books:
            attempts.distrust()
        mode: Mode = block.mode
        if block.kind == "block" and mode in watched.records:
            kept = {mode: Record(block.level, block.since_ns)} if block.level else {}
            watched.records = {other: record for other, record in watched.records.items() if other != mode} | kept
        watched.changes += 1

    def calm(self, now_ns: int) -> list[Decision]:
        """Clear the breakers that are calm again."""
        return [
            BreakerChange(time_ns=now_ns, tripped=False, blocks=0, mode=mode)
            for mode, breaker in self._breakers.items()
            if breaker.calm(now_ns)
        ]

    def next_deadline(self) -> int | None:
        """When a breaker may be calm."""
        deadlines = [breaker.next_deadline() for breaker in self._breakers.values()]
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    def tripped(self, mode: Mode) -> bool:
        """Whether blocks of a mode are throttles now."""
        return self._breakers[mode].tripped

    def _may_tell(self, uid: int, found: list[Excess], at_ns: int) -> bool:
        """Whether a container's verdict is told; if not, its rules begin anew as if it were."""
        news = [excess for excess in found if not self._is_repeated(excess, excess.action, at_ns)]
        if not news or self.containers.admit(uid, at_ns):
            return True
        for excess in news:
            excess.counter.told_ns = at_ns
            if excess.action == "block":
                excess.counter.empty(at_ns)
        return False

    def _may_block(self, watched: SubjectState, mode: Mode, at_ns: int, out: list[Decision]) -> bool:
        """Ask the breaker. Users who are report-only whatever the configuration says are no sign of a fault of ours."""
        if watched.why in {CONTAINER, HEARD, SHARED}:
            return True
        breaker = self._breakers[mode]
        if breaker.calm(at_ns):
            out.append(BreakerChange(time_ns=at_ns, tripped=False, blocks=0, mode=mode))
        before = breaker.tripped
        admitted = breaker.admit(at_ns)
        if breaker.tripped and not before:
            out.append(BreakerChange(time_ns=at_ns, tripped=True, blocks=breaker.recent, mode=mode))
        return admitted

    @staticmethod
    def _why_dry(watched: SubjectState, mode: Mode, *, is_over: bool) -> str:
        if mode == "dry-run":
            return watched.why or "rule is dry_run"
        return "already over" if is_over else ""


def _render_reason(excess: Excess, *, softened: bool) -> str:
    """Why somebody is refused: `11 networks in 10 min (limit 10), port 25`."""
    rule = excess.counter.rule
    where = "" if rule.ports is None else f",{render_ports(sorted(rule.ports), before='')}"
    brake = " (throttled, not blocked: safety brake)" if softened else ""
    return f"{excess.count} {rule.count} in {render_duration(rule.window_ns / NS)} (limit {rule.limit}){where}{brake}"
