"""Attempts wait a little for what enrichers find out about them, then go on in order. Decides and writes nothing.

The kernel was told long before: nothing here is on the verdict path. The daemon's journal and `watch` use it alike.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from smtpguard.enrich.looker import Attribution, Looker
from smtpguard.enrich.ordered_wait import OrderedWait, Ready
from smtpguard.enrich.reverse_dns import ReverseDns
from smtpguard.hooks import ClockNs, Task
from smtpguard.model import Account, Block, Connect, RefusedBy, Subject, Verdict

Found = Attribution | bytes | None
AT_ONCE = 256
"""Attempts that leave in one turn of the loop, in 10 ms; of very many a quarter, so that they never pile up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """An attempt and what came of it.

    Attributes:
        connect: The attempt.
        account: Whose it is.
        subject: Whose windows it concerns.
        refused_by: Which of our means refused it; None if none did.
        is_new: Whether the attempt was just made; else it is only what a later report is about, and was told before.
        is_counted: Whether its destination is one that the rules count.
        highest_limit: The highest limit of this user's rules.
        verdicts: Rules it exceeded.
        blocks: Blocks and throttles that began with it.
    """

    connect: Connect
    account: Account
    subject: Subject
    refused_by: RefusedBy | None = None
    is_new: bool = True
    is_counted: bool = True
    highest_limit: int = 0
    verdicts: Sequence[Verdict] = ()
    blocks: Sequence[Block] = ()


@dataclass(frozen=True, slots=True)
class _Asked:
    """An item of the line, with the tickets of what was asked for it."""

    item: Entry | Task
    look: int | None = None
    name: int | None = None


class Deliver(Protocol):
    """Takes entries that have waited."""

    def __call__(self, entry: Entry, /) -> None:
        """Take one, in its turn."""


class Waiting:
    """The line, as a part of the loop.

    Args:
        now: CLOCK_BOOTTIME in nanoseconds.
        deliver: Takes each attempt when it is complete, or its time is over.
        looker: Looks at processes; None if nobody does.
        rdns: Asks for names of destinations; None if nobody does.
    """

    def __init__(
        self,
        now: ClockNs,
        deliver: Deliver,
        *,
        looker: Looker | None,
        rdns: ReverseDns | None,
    ) -> None:
        self._now = now
        self._deliver = deliver
        self._looker = looker
        self._rdns = rdns
        self._pending: OrderedWait[_Asked, Found] = OrderedWait()
        self._leaving: deque[Ready[_Asked, Found]] = deque()

    def add(self, entry: Entry) -> None:
        """Put an attempt at the end of the line, and ask about it."""
        look = name = None
        connect = entry.connect
        if self._looker is not None and (connect.pid is not None or connect.inode is not None):
            look = self._looker.ask(connect, self._now(), owner=entry.account.share)
        if self._rdns is not None and connect.rdns is None:
            answer = self._rdns.ask(connect.address, entry.account.share, self._now())
            if isinstance(answer, int):
                name = answer
            elif answer is not None:
                entry = replace(entry, connect=replace(connect, rdns=answer))
        tickets = [ticket for ticket in (look, name) if ticket is not None]
        self._pending.add(_Asked(entry, look, name), tickets, self._now())

    def add_call(self, call: Task) -> None:
        """Call something when all that came before it has left: a line that is about no attempt keeps its place."""
        self._pending.add(_Asked(call), (), self._now())

    def filenos(self) -> Sequence[int]:
        """Descriptors of the enrichers."""
        return [fileno for part in (self._looker, self._rdns) if part is not None for fileno in part.filenos()]

    def on_ready(self, fileno: int) -> None:
        """Answers have come: `on_time` takes them."""

    def next_deadline(self) -> int | None:
        """When something leaves, or the looker wants its turn."""
        if self._leaving:
            return 0
        parts = (self._pending, self._looker)
        times = [deadline for part in parts if part is not None and (deadline := part.next_deadline()) is not None]
        return min(times, default=None)

    def on_time(self, now_ns: int) -> None:
        """Take answers, let go what is ready."""
        if self._looker is not None:
            self._looker.tick(now_ns)
            for ticket, attribution in self._looker.read(now_ns):
                self._pending.resolve(ticket, attribution)
        if self._rdns is not None:
            for ticket, found in self._rdns.read(now_ns):
                self._pending.resolve(ticket, found)
        self._leaving.extend(self._pending.due(now_ns))
        self._let_go_some(max(AT_ONCE, len(self._leaving) // 4))

    def close(self) -> None:
        """Let everything go, without its answers if they have not come."""
        self._leaving.extend(self._pending.flush())
        self._let_go_some(len(self._leaving))

    def stats(self) -> dict[str, int]:
        """Figures for `status`."""
        return {"waiting": len(self._pending), "early": self._pending.early, "late": self._pending.late}

    def _let_go_some(self, most: int) -> None:
        for _ in range(
            min(most, len(self._leaving))
        ):  # one that meets a mistake of ours takes none of those behind it with it
            ready = self._leaving.popleft()
            self._let_go(ready.item, ready.values)

    def _let_go(self, asked: _Asked, values: dict[int, Found]) -> None:
        if not isinstance(asked.item, Entry):
            asked.item()
            return
        entry = asked.item
        connect = entry.connect
        attribution = values.get(asked.look) if asked.look is not None else None
        if isinstance(attribution, Attribution):
            connect = describe(connect, attribution)
        name = values.get(asked.name) if asked.name is not None else None
        if isinstance(name, bytes):
            connect = replace(connect, rdns=name)
        verdicts = [replace(verdict, connect=connect) for verdict in entry.verdicts]
        self._deliver(replace(entry, connect=connect, verdicts=verdicts))


def describe(connect: Connect, attribution: Attribution) -> Connect:
    """A Connect with what was found out about its process; what the sensor itself told stays."""
    return replace(
        connect,
        pid=connect.pid if connect.pid is not None else attribution.pid,
        attr=attribution.attr,
        proc=attribution.proc if attribution.proc is not None else connect.proc,
        exe=attribution.exe if attribution.exe is not None else connect.exe,
        cwd=attribution.cwd if attribution.cwd is not None else connect.cwd,
        script=attribution.script if attribution.script is not None else connect.script,
    )
