"""What the guard does once a second beside its parts: it follows the wall clock, and keeps the state in step."""

import logging

from smtpguard.clock import WallMap
from smtpguard.daemon.enforce.off_switch import OffSwitch
from smtpguard.daemon.guard import Guard
from smtpguard.daemon.record.journal import Journal
from smtpguard.daemon.record.learning_period import LearningPeriod
from smtpguard.daemon.record.window_saver import Keeping
from smtpguard.daemon.startup.restore import Restore
from smtpguard.daemon.watches import Watches
from smtpguard.hooks import ClockNs
from smtpguard.model import NS
from smtpguard.state.enforcing_since import EnforcingSince
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
        learning_period: What is known of who has sent.
        journal: Keeps the history.
        watches: Whom people keep an eye on.
        enforcing_since: Since when users are refused.
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
        learning_period: LearningPeriod,
        journal: Journal,
        watches: Watches,
        enforcing_since: EnforcingSince,
        wall: WallMap,
        now: ClockNs,
    ) -> None:
        self._guard = guard
        self._state = state
        self._restore = restore
        self._keeping = keeping
        self._switch = switch
        self._learning_period = learning_period
        self._journal = journal
        self._watches = watches
        self._enforcing_since = enforcing_since
        self._wall = wall
        self._now = now

    def follow_clock(self, now_ns: int) -> None:
        """What is stored as wall time is stored again when somebody has set the clock."""
        step_ns = self._wall.refresh()
        if step_ns:
            log.warning("the clock was set by %+.1f s; blocks keep their length", step_ns / NS)
            self._keeping.clock_was_set()
            self._switch.clock_was_set()
            self._watches.clock_was_set()
            self._learning_period.clock_was_set(step_ns)
            self._journal.recorder.clock_was_set(now_ns)

    def keep_state(self, now_ns: int) -> None:
        """Take what could not be read at the start, and save windows and figures."""
        late = self._state.take_late()
        if late is not None:
            self._restore.take_late(late, self._switch, dry_run=self._guard.settings.dry_run)
            self._watches.restore(late.facts)
            self._enforcing_since.restore(late.facts)
            self._learning_period.restore(late.facts, late.seen, self._now())
        self._keeping.save_windows()
        self._journal.keep_incidents()
        self._journal.recorder.on_time(now_ns)

    def stop(self) -> None:
        """A clean stop loses nothing: what was taken in and is on its way to the state goes there."""
        self._journal.waiting.close()
        self._journal.recorder.change("stop", by="guard")
        self._keeping.save_windows()
        self._journal.keep_incidents()
        self._journal.recorder.close()
