"""What the guard does once a second beside its parts: it follows the wall clock, and keeps the state in step."""

import logging

from smtpguard.clock import WallMap
from smtpguard.daemon.enforce.off_switch import OffSwitch
from smtpguard.daemon.guard import Guard
from smtpguard.daemon.record.learning import Learning
from smtpguard.daemon.record.window_saver import Keeping
from smtpguard.daemon.startup.restore import Restore
from smtpguard.hooks import ClockNs
from smtpguard.model import NS
from smtpguard.state.writer import StateWriter

log = logging.getLogger(__name__)


class Chores:
    """Does them; `Ticker` calls each.

    Args:
        guard: The configuration in force.
        state: What may be read late.
        restore: Takes what was read late.
        keeping: Saves windows.
        switch: The panic switch.
        learning: What is known of who has sent.
        wall: Event time to wall time.
        now: CLOCK_BOOTTIME in nanoseconds.
    """

    def __init__(
        self,
        guard: Guard,
        state: StateWriter,
        restore: Restore,
        keeping: Keeping,
        *,
        switch: OffSwitch,
        learning: Learning,
        wall: WallMap,
        now: ClockNs,
    ) -> None:
        self._guard = guard
        self._state = state
        self._restore = restore
        self._keeping = keeping
        self._switch = switch
        self._learning = learning
        self._wall = wall
        self._now = now

    def follow_clock(self, now_ns: int) -> None:
        """What is stored as wall time is stored again when somebody has set the clock."""
        del now_ns
        step_ns = self._wall.refresh()
        if step_ns:
            log.warning("the clock was set by %+.1f s; blocks keep their length", step_ns / NS)
            self._keeping.clock_was_set()
            self._switch.clock_was_set()
            self._learning.clock_was_set(step_ns)

    def keep_state(self, now_ns: int) -> None:
        """Take what could not be read at the start, and save the windows."""
        del now_ns
        late = self._state.take_late()
        if late is not None:
            self._restore.take_late(late, self._switch, dry_run=self._guard.settings.dry_run)
            self._learning.restore(late.facts, late.seen, self._now())
        self._keeping.save_windows()
