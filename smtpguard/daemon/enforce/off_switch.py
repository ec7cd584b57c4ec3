"""The panic switch: lifts everything and stops responding and healing, while watching goes on. Survives a restart.

Windows and blocks stay and time goes on for them: what is left of a block holds again when it is switched on.
"""

import logging
from dataclasses import replace
from typing import Protocol

from smtpguard.clock import WallMap
from smtpguard.daemon.enforce.neighbours import Reason
from smtpguard.hooks import ClockNs
from smtpguard.policy.engine import Engine
from smtpguard.state.rows import ChangeRow, SwitchRow
from smtpguard.state.statements import switch_key
from smtpguard.state.writer import StateWriter

log = logging.getLogger(__name__)

NAME = "off"


class Follower(Protocol):
    """What follows the engine."""

    def refresh(self, reason: Reason) -> bool:
        """Put everything in step with the engine."""
        ...


class OffSwitch:
    """Switches the guard off and on.

    Args:
        engine: Which knows from it that nothing is carried out.
        enforcement: What follows the engine.
        state: Where it survives.
        wall: Event time to wall time.
        now: CLOCK_BOOTTIME in nanoseconds.

    Attributes:
        was_switched: Whether it was switched since the start: what an earlier run has kept is older.

    It lasts as long as was asked for, whoever sets the wall clock meanwhile; only what is stored is wall time.
    """

    def __init__(self, engine: Engine, enforcement: Follower, state: StateWriter, wall: WallMap, now: ClockNs) -> None:
        self._engine = engine
        self._enforcement = enforcement
        self._state = state
        self._wall = wall
        self._now = now
        self._row: SwitchRow | None = None
        self._end_ns: int | None = None
        self._since_ns = 0
        self.was_switched = False

    @property
    def is_known(self) -> bool:
        """Whether the state has said how an earlier run has left it."""
        return self._state.is_read

    @property
    def is_off(self) -> bool:
        """Whether nothing is refused now."""
        return self._engine.is_off

    @property
    def until_ns(self) -> int | None:
        """Wall time at which it switches itself on; None while it is on, or for until somebody says so."""
        return None if self._end_ns is None else self._end_ns + self._wall.offset_ns

    def switch_off(self, span_ns: int | None, *, by: str) -> bool:
        """Lift everything.

        Args:
            span_ns: For how long; None for until `switch_on`.
            by: Who wants it.

        Returns:
            Whether the table is gone.
        """
        now_ns, self.was_switched = self._now(), True
        self._since_ns = now_ns
        self._row = SwitchRow(name=NAME, since_ns=self._wall.to_wall_ns(now_ns), until_ns=None, by=by)
        self._end_ns = None if span_ns is None else now_ns + span_ns
        self._store()
        self._note("off", by)
        lifted = self._apply(off=True)
        log.warning("OFF by %s: nobody is refused. Switch on: smtpguard on", by)
        return lifted

    def switch_on(self, *, by: str) -> bool:
        """Respond again; what is left of every block holds again. Whether the table is as it ought to be."""
        self._state.delete(switch_key(NAME))
        self._row, self._end_ns, self.was_switched = None, None, True
        self._note("on", by)
        done = self._apply(off=False)
        log.warning("ON again by %s: blocks are in force for the rest of their time", by)
        return done

    def restore(self, row: SwitchRow) -> None:
        """It was off before this run; a refresh has to follow."""
        end_ns, now_ns = None, self._now()
        if row.until_ns is not None:
            end_ns = self._wall.to_deadline_ns(row.until_ns)
            if row.since_ns < row.until_ns:  # no longer than it was meant to be, though the clock is years behind
                end_ns = min(end_ns, now_ns + row.until_ns - row.since_ns)
        if end_ns is not None and end_ns <= now_ns:
            self._state.delete(switch_key(NAME))
            return
        self._row, self._end_ns = row, end_ns
        self._since_ns = min(now_ns, self._wall.to_deadline_ns(row.since_ns))
        self._engine.commands.set_off(off=True)
        log.warning("OFF since before this start, by %s: nobody is refused. Switch on: smtpguard on", row.by)

    def on_time(self, now_ns: int) -> None:
        """Switch on when its time is over."""
        if self.is_off and self._end_ns is not None and now_ns >= self._end_ns:
            self.switch_on(by="time")

    def clock_was_set(self) -> None:
        """Somebody set the wall clock: the end is stored again, so that a restart ends it when it should."""
        if self._row is not None:
            self._store()

    def _store(self) -> None:
        if self._row is not None:
            since_ns = self._since_ns + self._wall.offset_ns  # as the end: its length is what bounds it
            self._state.put(replace(self._row, since_ns=since_ns, until_ns=self.until_ns))

    def _note(self, event: str, by: str) -> None:
        self._state.add(
            ChangeRow(
                time_ns=self._wall.to_wall_ns(self._now()),
                uid=None,
                name=None,
                event=event,
                by="time" if by == "time" else "admin",
                until_ns=self.until_ns,
                details={} if by == "time" else {"who": by.partition(" ")[0]},  # without the pid: names have no spaces
            )
        )

    def _apply(self, *, off: bool) -> bool:
        self._engine.commands.set_off(off=off)
        return self._enforcement.refresh("off")
