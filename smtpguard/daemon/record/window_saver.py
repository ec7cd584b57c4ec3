"""Keeps what must survive a restart in step: windows once a second, and ends when somebody sets the wall clock."""

import logging
from collections.abc import Iterable

from smtpguard.clock import WallMap
from smtpguard.hooks import ClockNs
from smtpguard.model import Subject
from smtpguard.policy.engine import Engine
from smtpguard.policy.window_export import WindowPart
from smtpguard.policy.window_restore import StoredPart
from smtpguard.state.rows import AllowanceRow, BlockRow, WindowRow
from smtpguard.state.writer import StateWriter

log = logging.getLogger(__name__)


class Keeping:
    """The engine's memory on its way to state and back.

    Args:
        engine: Whose windows, blocks and allowances.
        state: Where they are kept.
        wall: Event time to wall time.
        now: CLOCK_BOOTTIME in nanoseconds.
    """

    def __init__(self, engine: Engine, state: StateWriter, wall: WallMap, now: ClockNs) -> None:
        self._engine = engine
        self._state = state
        self._wall = wall
        self._now = now
        self._fresh = 0

    def save_windows(self) -> None:
        """Once a second: what has changed in the windows goes to state, so that a restart loses no more counting."""
        fresh = self._state.stats().fresh
        parts = self._engine.memory.export(full=fresh != self._fresh)
        self._fresh = fresh
        offset_ns = self._wall.offset_ns
        self._state.put_windows(
            WindowRow(uid=p.subject.id, netns=p.subject.scope, rule=p.part, data=p.data, offset_ns=offset_ns)
            for p in parts
        )

    def restore_windows(self, rows: Iterable[WindowRow]) -> None:
        """Windows from before this run."""
        offset_ns = self._wall.offset_ns
        stored = [
            StoredPart(
                part=WindowPart(subject=Subject(id=row.uid, scope=row.netns), part=row.rule, data=row.data),
                shift_ns=row.offset_ns - offset_ns,
            )
            for row in rows
        ]
        bad = self._engine.memory.restore_windows(stored, self._now())
        if bad:
            log.warning("%d parts of stored windows were no good and are left out", bad)

    def clock_was_set(self) -> None:
        """Somebody set the wall clock: what is stored as wall time is stored again, so that it ends when it should."""
        for block in self._engine.blocks():
            if not block.renewed:
                self._state.put(BlockRow.of(block, self._wall.offset_ns))
        for allowance in self._engine.allowances():
            self._state.put(AllowanceRow.of(allowance, self._wall.offset_ns))
