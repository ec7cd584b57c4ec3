"""What time alone brings to an engine: ends of blocks and of what people said, longer blocks, a calm breaker."""

from smtpguard.model import NS, Decision, Extended
from smtpguard.policy.commands import Commands
from smtpguard.policy.engine_core import EngineCore
from smtpguard.policy.windows import NEVER

SWEEP_NS = 10 * NS


class Timekeeper:
    """Does what is due.

    Args:
        core: Shared with the engine.
        commands: What ends allowances and watches.
    """

    __slots__ = ("_commands", "_core", "_sweep_ns")

    def __init__(self, core: EngineCore, commands: Commands) -> None:
        self._core = core
        self._commands = commands
        self._sweep_ns = NEVER

    def tick(self, now_ns: int) -> list[Decision]:
        """What time alone brings: ends of blocks, a breaker that is calm again.

        Args:
            now_ns: The time now, on the events' timeline. Never turns back.
        """
        self._core.now_ns = now_ns = max(now_ns, self._core.now_ns)
        out: list[Decision] = [
            *self._extend(now_ns),
            *self._core.blocks.expire(now_ns),
            *self._core.verdicts.calm(now_ns),
        ]
        for allowance in list(self._core.roster.allowances.values()):
            if allowance.until_ns <= now_ns:
                out += self._commands.end_allowance(allowance.subject, by="time", now_ns=allowance.until_ns)
        for watch in list(self._core.roster.own.watches.values()):
            if watch.until_ns <= now_ns:
                out += self._commands.end_watch(watch.subject, by="time", now_ns=watch.until_ns)
        if now_ns >= self._sweep_ns:
            self._sweep_ns = now_ns + SWEEP_NS
            self._core.roster.sweep(now_ns)
            self._core.blocks.drop_idle(now_ns)
        return out

    def _extend(self, now_ns: int) -> list[Extended]:
        """Blocks whose users have not stopped trying; while the guard is off nobody is refused, and none is."""
        escalation = self._core.settings.escalation
        may = escalation.still_trying == "extend" and not self._core.roster.off
        extended = self._core.blocks.extend(now_ns, escalation.max_ns if may else 0)
        for decision in extended:
            block = decision.block
            watched = self._core.roster.of(block.subject)
            record = watched.records.get(block.mode)
            if record is not None:
                longer = record._replace(until_ns=max(record.until_ns, block.until_ns))
                watched.records = {**watched.records, block.mode: longer}
                watched.changes += 1
            self._core.settle(watched)
        return extended

    def next_deadline(self) -> int | None:
        """When `tick` is due; None if nothing is to come."""
        own = self._core.roster.own
        ends = [*(held.until_ns for held in own.allowances.values()), *(held.until_ns for held in own.watches.values())]
        said = min(ends, default=None)
        deadlines = (self._core.blocks.next_deadline(), self._core.verdicts.next_deadline(), said)
        return min((deadline for deadline in deadlines if deadline is not None), default=None)
