"""The panic switch: lifts everything and stops responding and healing, while watching goes on. Survives a restart.

Windows and blocks stay and time goes on for them: what is left of a block holds again when it is switched on.
"""

import logging
from collections.abc import Callable

from smtpguard.daemon.clock import WallMap
from smtpguard.daemon.guard import Guard
from smtpguard.state.rows import SwitchRow
from smtpguard.state.writer import StateWriter

log = logging.getLogger(__name__)

NAME = "off"


class OffSwitch:
    """Switches the guard off and on.

    Args:
        guard: Whose engine, kernel means and credits.
        state: Where it survives.
        wall: Event time to wall time.
        now: CLOCK_BOOTTIME in nanoseconds.

    Attributes:
        until_ns: Wall time at which it switches itself on; None while it is on, or for until somebody says so.
    """

    def __init__(self, guard: Guard, state: StateWriter, wall: WallMap, now: Callable[[], int]) -> None:
        self._guard = guard
        self._state = state
        self._wall = wall
        self._now = now
        self.until_ns: int | None = None

    @property
    def is_off(self) -> bool:
        """Whether nothing is refused now."""
        return self._guard.engine.is_off

    def switch_off(self, span_ns: int | None, *, by: str) -> None:
        """Lift everything.

        Args:
            span_ns: For how long; None for until `switch_on`.
            by: Who wants it.
        """
        now_ns = self._wall.to_wall_ns(self._now())
        until_ns = None if span_ns is None else now_ns + span_ns
        self._state.put_switch(SwitchRow(name=NAME, since_ns=now_ns, until_ns=until_ns, by=by))
        self._apply(off=True, until_ns=until_ns)
        log.warning("OFF, by %s: nobody is refused", by)

    def switch_on(self, *, by: str) -> None:
        """Respond again; what is left of every block holds again."""
        self._state.delete_switch(NAME)
        self._apply(off=False, until_ns=None)
        log.warning("on again, by %s", by)

    def restore(self, row: SwitchRow) -> None:
        """It was off before this run."""
        if row.until_ns is not None and row.until_ns <= self._wall.to_wall_ns(self._now()):
            self._state.delete_switch(NAME)
            return
        self._apply(off=True, until_ns=row.until_ns)
        log.warning("OFF since before this start, by %s: nobody is refused; `smtpguard on` ends it", row.by)

    def on_time(self, now_ns: int) -> None:
        """Switch on when its time is over."""
        if self.is_off and self.until_ns is not None and self._wall.to_wall_ns(now_ns) >= self.until_ns:
            self.switch_on(by="time")

    def _apply(self, *, off: bool, until_ns: int | None) -> None:
        guard = self._guard
        self.until_ns = until_ns
        guard.engine.set_off(off=off)
        guard.responder.paused = off
        guard.arms.off = off
        if off:
            guard.responder.apply_all()
        guard.arms.sync()
        guard.crediting.off = off
        guard.crediting.restart()
        if not off:
            guard.responder.apply_all(forget=True)
