"""The parts that see: sources, the pairing of several, and what a BPF program brings with it."""

import contextlib

from smtpguard.daemon.bpf_lifecycle import BpfLifecycle
from smtpguard.daemon.core import Core
from smtpguard.daemon.explanation import Explanation
from smtpguard.daemon.intake.sensor_pairing import SensorPairing
from smtpguard.daemon.intake.source_supervisor import SourceSupervisor
from smtpguard.daemon.loop import Loop
from smtpguard.settings import Settings


class Inlet:
    """All that brings attempts to the guard.

    Args:
        settings: The configuration.
        core: The parts that decide, act and write.
        loop: What they live in.
        stack: What has to be undone at the end, in reverse order.
    """

    def __init__(self, settings: Settings, core: Core, loop: Loop, stack: contextlib.ExitStack) -> None:
        guard = core.guard
        names = settings.sources if isinstance(settings.sources, tuple) else ()
        self.pairing = SensorPairing(names, guard.take, guard.hear) if len(names) > 1 else None
        explanation = Explanation(core.engine, core.around.accounts, core.wall, core.now)
        self.program = BpfLifecycle(settings, core.enforcement, explanation.explain, loop, core.now, stack)
        self.sensing = SourceSupervisor(
            settings,
            self.pairing.lead if self.pairing else guard.take,
            self.program.source_opened,
            self.program.source_closed,
            core.now,
            reports=guard.take_reports,
            beside=self.pairing.beside if self.pairing else None,
            supervision=loop.supervision,
        )
        stack.callback(self.sensing.close)
        core.enforcement.credits.judge_unread = self.sensing.catch_up
        core.journal.recorder.count_losses = self._count_losses
        self._core = core

    def _count_losses(self) -> dict[str, int]:
        """What sources lost, and what was dropped further on, since the start."""
        events, state = self._core.events.stats(), self._core.state.stats()
        found = {"event log: lines": events.dropped, "history: rows": sum(state.dropped.values())}
        for sensor in self.sensing.sensors:
            found |= {f"{sensor.name}: {kind}": count for kind, count in sensor.totals().items()}
        return found

    def is_seeing(self) -> bool:
        """Whether a source works."""
        return self.sensing.leader() is not None
