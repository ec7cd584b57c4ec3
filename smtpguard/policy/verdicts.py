"""What follows when rules are exceeded: verdicts, blocks and throttles, how long, and in which mode."""

from smtpguard.model import NS, Action, Block, BreakerChange, Connect, Decision, Mode, Verdict
from smtpguard.policy.blocks import BlockTable
from smtpguard.policy.breaker import Breaker
from smtpguard.policy.counters import Excess
from smtpguard.policy.escalation import Record, block_ns, level_of
from smtpguard.policy.subject_state import CONTAINER, HEARD, MODES, SHARED, SubjectState
from smtpguard.policy.windows import NEVER
from smtpguard.settings import Settings
from smtpguard.text import render_duration, render_ports

FAIL2BAN_GRACE_NS = 10 * NS
"""With `block.by: fail2ban`: how long after a verdict attempts are not judged, so that fail2ban can do its part (0.1 to
0.5 s as measured). After it counting goes on: a dead fail2ban means another verdict, not silence."""
SOURCE = "guard"


class Verdicts:
    """Passes sentence on attempts that exceed rules.

    Args:
        settings: The configuration.
        blocks: Where blocks are kept.
    """

    def __init__(self, settings: Settings, blocks: BlockTable) -> None:
        self._settings = settings
        self._blocks = blocks
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
        out: list[Decision] = []
        escalation = self._settings.escalation
        level = level_of(watched.records.get(mode), escalation, at_ns)
        lengths = {
            id(excess): block_ns(excess.counter.rule, escalation, level)
            for excess in found
            if excess.counter.rule.action == "block"
        }
        live = any(at_ns + length > now_ns for length in lengths.values())
        softened = live and not self._may_block(watched, mode, at_ns, out)
        for excess in found:
            counter, rule = excess.counter, excess.counter.rule
            action: Action = "throttle" if softened and rule.action == "block" else rule.action
            if action == "warn":
                until_ns = None
            else:
                until_ns = at_ns + lengths[id(excess)] if action == "block" else counter.release_ns(at_ns)
            told = action != "block" and (
                at_ns < counter.told_ns + rule.window_ns or (action == "warn" and not excess.rises)
            )
            stale = until_ns is not None and until_ns <= now_ns
            carried: Mode = "dry-run" if stale else mode
            if not told:
                counter.told_ns = at_ns
                out.append(
                    Verdict(
                        time_ns=connect.time_ns,
                        subject=watched.subject,
                        account=watched.account,
                        rule=rule.name,
                        count=excess.count,
                        limit=rule.limit,
                        window_ns=rule.window_ns,
                        action=action,
                        until_ns=until_ns,
                        mode=carried,
                        connect=connect,
                        why_dry=self._why_dry(watched, mode, stale=stale),
                        ports=rule.refused_ports,
                        counted=rule.count,
                    )
                )
            if action == "block":
                counter.empty(at_ns)
                if self._settings.block_by == "fail2ban" and carried == "enforce":
                    self._blocks.hide(watched.subject, at_ns, at_ns + FAIL2BAN_GRACE_NS, ports=rule.refused_ports)
                    continue
            if until_ns is not None:
                block = Block(
                    subject=watched.subject,
                    name=watched.account.name,
                    source=SOURCE,
                    kind="block" if action == "block" else "throttle",
                    since_ns=at_ns,
                    until_ns=until_ns,
                    mode=carried,
                    rule=rule.name,
                    reason=_render_reason(excess, softened=action != rule.action),
                    level=level if action == "block" else 0,
                    ranges=watched.account.ranges,
                    address=None if told else connect.address,
                    renewed=told,
                    ports=rule.refused_ports,
                )
                ended = self._blocks.put(block, hides=mode == "enforce")
                if ended is not None:
                    out += [*ended, block]
        if live and not softened:
            before = watched.records.get(mode)
            until_ns = at_ns + max(lengths.values())
            watched.records[mode] = Record(level + 1, max(until_ns, before.until_ns if before else NEVER))
        return out

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
            if block.level:
                watched.records[mode] = Record(block.level, block.since_ns)
            else:
                del watched.records[mode]
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

    def _may_block(self, watched: SubjectState, mode: Mode, at_ns: int, out: list[Decision]) -> bool:
        """Ask the breaker. Users who are only told whatever the configuration says are no sign of a fault of ours."""
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
    def _why_dry(watched: SubjectState, mode: Mode, *, stale: bool) -> str:
        if mode == "dry-run":
            return watched.why or "rule is dry_run"
        return "already over" if stale else ""


def _render_reason(excess: Excess, *, softened: bool) -> str:
    """Why somebody is refused: `11 networks in 10 min (limit 10), port 25`."""
    rule = excess.counter.rule
    where = "" if rule.ports is None else f",{render_ports(sorted(rule.ports), before='')}"
    brake = " (throttled, not blocked: safety brake)" if softened else ""
    return f"{excess.count} {rule.count} in {render_duration(rule.window_ns / NS)} (limit {rule.limit}){where}{brake}"
