"""What is written about events: lines wait a little for what enrichers find out, then leave in order.

The kernel was told long before: nothing here is on the verdict path. One item a connect, so that CONNECT, EXCEEDED and
BLOCK of the same attempt stand together and say the same.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from smtpguard.actions.eventlog import EventLog
from smtpguard.daemon.clock import WallMap
from smtpguard.enrich.looker import Attribution, Looker
from smtpguard.enrich.pending import Pending
from smtpguard.enrich.rdns import ReverseDns
from smtpguard.model import Account, Block, Connect, Verdict

log = logging.getLogger(__name__)

Found = Attribution | bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """Something that happened, to be written when its time has come.

    Attributes:
        time_ns: Event time.
        account: Whose it is.
        connect: The attempt; None for what a person did.
        highest_limit: The highest limit of this user's rules; None writes no CONNECT line.
        verdicts: Rules it exceeded.
        blocks: Blocks and throttles that began with it.
        write: What to write when it is not about an attempt.
    """

    time_ns: int
    account: Account
    connect: Connect | None = None
    highest_limit: int | None = None
    verdicts: Sequence[Verdict] = ()
    blocks: Sequence[Block] = ()
    write: Callable[[], None] | None = None


class Journal:
    """The waiting line before the event log, as a part of the loop.

    Args:
        events: The event log.
        wall: Event time to wall time.
        now: CLOCK_BOOTTIME in nanoseconds.
        looker: Looks at processes; None if `attribution.process` is off.
        rdns: Asks for names; None if `attribution.rdns` is off.
        on_written: Called with each connect and its verdicts once they are complete (state, live watchers).
    """

    def __init__(
        self,
        events: EventLog,
        wall: WallMap,
        now: Callable[[], int],
        *,
        looker: Looker | None,
        rdns: ReverseDns | None,
        on_written: Callable[[Entry], None],
    ) -> None:
        self._events = events
        self._wall = wall
        self._now = now
        self._looker = looker
        self._rdns = rdns
        self._on_written = on_written
        self._pending: Pending[tuple[Entry, int | None, int | None], Found] = Pending()

    def add(self, entry: Entry) -> None:
        """Put something at the end of the line, and ask about it."""
        look = name = None
        connect = entry.connect
        if connect is not None:
            if self._looker is not None and connect.pid is not None:
                look = self._looker.ask(connect, self._now(), owner=entry.account.uid)
            if self._rdns is not None and connect.rdns is None:
                answer = self._rdns.ask(connect.address, entry.account.uid, self._now())
                if isinstance(answer, int):
                    name = answer
                elif answer is not None:
                    entry = replace(entry, connect=replace(connect, rdns=answer))
        self._pending.add((entry, look, name), [t for t in (look, name) if t is not None], self._now())

    def add_block(self, account: Account, block: Block) -> None:
        """A block that a person or another program began."""
        wall_ns = self._wall.to_wall_ns(self._now())
        self._add_line(account, partial(self._write_block, account, block, wall_ns))

    def add_unblock(self, account: Account, *, by: str, reason: str) -> None:
        """The end of a block."""
        wall_ns = self._wall.to_wall_ns(self._now())
        self._add_line(account, partial(self._events.write_unblock, account, wall_ns=wall_ns, by=by, reason=reason))

    def _add_line(self, account: Account, write: Callable[[], None]) -> None:
        """Put a line that is about no attempt into the order."""
        self._pending.add((Entry(time_ns=self._now(), account=account, write=write), None, None), (), self._now())

    def _write_block(self, account: Account, block: Block, wall_ns: int) -> None:
        until_wall_ns = block.until_ns + self._wall.offset_ns
        self._events.write_block(block, account, wall_ns=wall_ns, until_wall_ns=until_wall_ns)

    def filenos(self) -> Sequence[int]:
        """Descriptors of the enrichers."""
        return [fileno for part in (self._looker, self._rdns) if part is not None for fileno in part.filenos()]

    def writers(self) -> Sequence[int]:
        """Nothing here waits to write."""
        return ()

    def on_ready(self, fileno: int) -> None:
        """Answers have come: `on_time` takes them."""

    def next_deadline(self) -> int | None:
        """When a line leaves, or an enricher or the log wants its turn."""
        parts = (self._pending, self._looker, self._events)
        times = [deadline for part in parts if part is not None and (deadline := part.next_deadline()) is not None]
        return min(times, default=None)

    def on_time(self, now_ns: int) -> None:
        """Take answers, write what is ready."""
        if self._looker is not None:
            self._looker.tick(now_ns)
            for ticket, attribution in self._looker.read(now_ns):
                self._pending.resolve(ticket, attribution)
        if self._rdns is not None:
            for ticket, found in self._rdns.read(now_ns):
                self._pending.resolve(ticket, found)
        for ready in self._pending.due(now_ns):
            self._write(*ready.item, ready.values)
        self._events.tick(now_ns=now_ns, wall_ns=self._wall.to_wall_ns(now_ns))

    def close(self) -> None:
        """Write what waits, without its answers if they have not come."""
        for ready in self._pending.flush():
            self._write(*ready.item, ready.values)

    def stats(self) -> dict[str, int]:
        """Figures for `status`."""
        return {"waiting": len(self._pending), "early": self._pending.early, "late": self._pending.late}

    def _write(self, entry: Entry, look: int | None, name: int | None, values: dict[int, Found]) -> None:
        if entry.write is not None:
            entry.write()
            return
        if entry.connect is None:
            return
        connect = entry.connect
        attribution = values.get(look) if look is not None else None
        if isinstance(attribution, Attribution):
            connect = describe(connect, attribution)
        rdns = values.get(name) if name is not None else None
        if isinstance(rdns, bytes):
            connect = replace(connect, rdns=rdns)
        verdicts = [replace(verdict, connect=connect) for verdict in entry.verdicts]
        entry = replace(entry, connect=connect, verdicts=verdicts)
        wall_ns = self._wall.to_wall_ns(entry.time_ns)
        if entry.highest_limit is not None:
            self._events.write_connect(
                connect, entry.account, wall_ns=wall_ns, now_ns=self._now(), highest_limit=entry.highest_limit
            )
        for verdict in verdicts:
            self._events.write_exceeded(verdict, wall_ns=wall_ns)
        for block in entry.blocks:
            self._write_block(entry.account, block, wall_ns)
        self._on_written(entry)


def describe(connect: Connect, attribution: Attribution) -> Connect:
    """A Connect with what was found out about its process; what the sensor itself told stays."""
    return replace(
        connect,
        attr=attribution.attr,
        proc=attribution.proc if attribution.proc is not None else connect.proc,
        exe=attribution.exe if attribution.exe is not None else connect.exe,
        cwd=attribution.cwd if attribution.cwd is not None else connect.cwd,
        script=attribution.script if attribution.script is not None else connect.script,
    )
