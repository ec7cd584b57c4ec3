"""Feeds the history: figures of who connected where, and every change with who made it. Decides nothing.

Attempts are summed up in memory and go to the state once a second; the state's thread writes. A change goes there at
once, so that a SIGKILL loses no more than the last second.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from smtpguard.clock import WallMap
from smtpguard.hooks import ClockNs
from smtpguard.model import NS, Account, Block, Connect, SocketReport, Subject, Verdict
from smtpguard.settings import HOUR_NS
from smtpguard.state import statements
from smtpguard.state.activity import Tally
from smtpguard.state.columns import MARK, Statement
from smtpguard.state.rows import ChangeRow
from smtpguard.state.writer import StateWriter

if TYPE_CHECKING:
    from smtpguard.daemon.record.learning_period import IsSeeing

WATCHED_NS = 10 * NS
"""How often it is written down that a source sees: after a SIGKILL so much is taken for blind at most."""
_ERRORS = {"refused": "refused by the other side", "timeout": "timed out", "gave-up": "given up"}
"""How a connection failed, in words."""


class HearVerdict(Protocol):
    """Tells of whom people keep an eye on: daemon/watches.py."""

    def hear(self, verdict: Verdict) -> None:
        """Take a verdict."""


class CountLosses(Protocol):
    """Counts what was lost on its way to the record."""

    def __call__(self) -> Mapping[str, int]:
        """How much since the start, by what lost it."""
        ...


class Recorder:
    """The record, as far as the daemon writes it.

    Args:
        state: What keeps it.
        wall: Event time to wall time.
        now: CLOCK_BOOTTIME in nanoseconds.

    Attributes:
        asker: The person for whom something is done just now; None for nobody.
        is_seeing: Says whether connections are seen; None for never.
        count_losses: Says what was lost; None for nothing.
        foreign: Attempts in other network namespaces of nobody on this host: told and logged, kept in no figures.
    """

    def __init__(self, state: StateWriter, wall: WallMap, now: ClockNs) -> None:
        self._state = state
        self._wall = wall
        self._now = now
        self._tally = Tally()
        self.asker: str | None = None
        self._since_ns: int | None = None
        self._written_ns = 0
        self.is_seeing: IsSeeing | None = None
        self.count_losses: CountLosses | None = None
        self._lost: dict[str, int] = {}
        self._marked: int | None = None
        self.foreign = 0

    @property
    def dropped(self) -> int:
        """Places that had no room."""
        return self._tally.dropped

    def attempt(self, subject: Subject, connect: Connect, wall_ns: int, *, refused: bool, is_counted: bool) -> None:
        """An attempt was seen, and all that is to be known of it is."""
        if subject.scope is not None:
            self.foreign += 1
            return
        self._tally.add_connect(
            subject.id,
            wall_ns=wall_ns,
            address=connect.address,
            port=connect.port,
            script=connect.script,
            refused=refused,
            is_counted=is_counted,
        )
        if self._tally.held >= self._tally.many:
            self._state.add_activity(self._tally.take_early())

    def outcome(self, subject: Subject, report: SocketReport) -> None:
        """It is known what became of an attempt that was let through."""
        error = _ERRORS.get(report.kind)
        if subject.scope is not None or (error is None and report.kind != "established"):
            return
        self._tally.add_outcome(
            subject.id,
            wall_ns=self._wall.to_wall_ns(report.time_ns),
            address=report.address,
            port=report.port,
            own=report.own,
            error=error,
        )
        if self._tally.held >= self._tally.many:
            self._state.add_activity(self._tally.take_early())

    def change(
        self,
        event: str,
        account: Account | None = None,
        *,
        by: str,
        until_wall_ns: int | None = None,
        reason: str = "",
        wall_ns: int | None = None,
        **details: Any,  # noqa: ANN401 - JSON values
    ) -> None:
        """Something was done.

        Args:
            event: See ChangeRow.
            account: To whom; None for all.
            by: "admin", "time", the name of another program.
            until_wall_ns: Until when it lasts.
            reason: Free text, untrusted.
            wall_ns: When; None for now.
            details: What else is known.
        """
        if self.asker is not None and by == "admin":
            details["who"] = self.asker
        self._state.add(
            ChangeRow(
                time_ns=self._wall.to_wall_ns(self._now()) if wall_ns is None else wall_ns,
                uid=None if account is None else account.uid,
                name=None if account is None else account.name,
                event=event,
                by=by,
                until_ns=until_wall_ns,
                reason=reason,
                details=details,
            )
        )

    def change_block(
        self, event: str, account: Account, block: Block, *, by: str, reason: str, wall_ns: int, is_end: bool = False
    ) -> None:
        """A block began, goes on or ended."""
        self.change(
            event,
            account,
            by=by,
            until_wall_ns=None if is_end else block.until_ns + self._wall.offset_ns,
            reason=reason,
            wall_ns=wall_ns,
            source=block.source,
            rule=block.rule,
            mode=block.mode,
            block_kind=block.kind,
            ports=None if block.ports is None else list(block.ports),
        )

    def on_time(self, now_ns: int) -> None:
        """Once a second: hand over what was summed up."""
        rows = [*self._take_losses(self._wall.to_wall_ns(now_ns)), *self._tally.take()]
        if rows:
            self._state.add_activity(rows)
        if self.is_seeing is None or not self.is_seeing():
            if self._since_ns is not None:
                self._write_watched(now_ns)
                self._since_ns = None
        elif self._since_ns is None:
            self._since_ns = self._wall.to_wall_ns(now_ns)
            self._write_watched(now_ns)
        elif now_ns - self._written_ns >= WATCHED_NS:
            self._write_watched(now_ns)

    def clock_was_set(self, now_ns: int) -> None:
        """Somebody set the wall clock: a new span begins, in the time that counts from now."""
        if self._since_ns is not None:
            self._since_ns = self._wall.to_wall_ns(now_ns)

    def close(self) -> None:
        """Hand over what is left."""
        self.on_time(self._now())
        if self._since_ns is not None:
            self._write_watched(self._now())

    def _take_losses(self, wall_ns: int) -> list[Statement]:
        """What was lost since the last time; and once an hour, that it is written down."""
        if self.count_losses is None:
            return []
        lost = {"history: places": self.dropped, **self.count_losses()}
        more = {kind: count - self._lost.get(kind, 0) for kind, count in lost.items()}
        more = {kind: count for kind, count in more.items() if count > 0}
        self._lost = lost
        if self._marked != wall_ns // HOUR_NS:
            self._marked = wall_ns // HOUR_NS
            more[MARK] = 0
        return [statements.add_loss(wall_ns, kind, count) for kind, count in more.items()]

    def _write_watched(self, now_ns: int) -> None:
        if self._since_ns is not None:
            self._written_ns = now_ns
            until_ns = max(self._since_ns, self._wall.to_wall_ns(now_ns))
            self._state.add_activity([statements.put_watched(self._since_ns, until_ns)])
