"""The daemon's side of the looker: asks about processes, waits for nobody, counts what it could not learn.

Bounds (THREATS 10, 12): an answer has DEADLINE_NS; a helper that is late is abandoned; two abandoned ones for one
user end deep looks at his processes, eight in all end them for everybody, until some come back. What such a process
can't hang (name, binary, directory) is still read. 50 questions a second for one user, 200 in all; one under way for
one user at a time. Everything here is in one thread, and nothing here blocks.
"""

from collections import Counter
from dataclasses import dataclass, replace

from smtpguard.enrich.fair import Budget, FairQueue
from smtpguard.enrich.looker.crew import Crew, Helper
from smtpguard.enrich.looker.look import Answerer
from smtpguard.enrich.looker.protocol import Attribution, Question, parse_answer, render_question
from smtpguard.enrich.looker.worker import LIMIT_S
from smtpguard.enrich.pending import next_ticket
from smtpguard.errors import DecodeError
from smtpguard.model import Connect

DEADLINE_NS = 50_000_000
"""How long an answer may take: from the question for the asker, from its dispatch for a helper."""
WORKERS = 3
"""Helpers that take questions. One user holds one at most, so two users who hang theirs leave one for the rest."""
ABANDONED_PER_USER = 2
ABANDONED = 8
PER_USER_PER_S = 50
PER_S = 200
WAITING_PER_USER = 8
WAITING = 64

Found = list[tuple[int, Attribution]]


@dataclass(frozen=True, slots=True, kw_only=True)
class LookerStats:
    """Totals since the start, and what is the case now; shown by `status`.

    Attributes:
        asked: Questions taken.
        answered: Whole answers in time.
        late: Questions whose time was over; name and binary may have been told all the same.
        over_budget: Questions refused: 50 a second for a user, 200 in all.
        crowded: Questions refused because too many were waiting.
        shallow: Questions about users whose processes are not looked at deeply.
        died: Helpers that ended while they were looking.
        garbled: Answers that were none.
        abandoned: Helpers ever abandoned.
        hanging: Helpers abandoned and not back yet.
        helpers: Helpers that take questions.
        off_users: Uids that are not looked at deeply now.
        off: Why nothing is looked at, or nobody deeply; "" if that is not so.
    """

    asked: int = 0
    answered: int = 0
    late: int = 0
    over_budget: int = 0
    crowded: int = 0
    shallow: int = 0
    died: int = 0
    garbled: int = 0
    abandoned: int = 0
    hanging: int = 0
    helpers: int = 0
    off_users: tuple[int, ...] = ()
    off: str = ""


@dataclass(slots=True)
class _Asked:
    """A question nobody has answered yet."""

    owner: int
    question: Question
    due_ns: int
    known: Attribution | None = None


class Looker:
    """Asks helper processes about the processes behind Connects.

    Args:
        php: Whether PHP's own memory may be read.
        deadline_ns: See DEADLINE_NS.
        crew: The helpers, if not the usual ones.
    """

    def __init__(
        self,
        *,
        php: bool = True,
        deadline_ns: int = DEADLINE_NS,
        crew: Crew | None = None,
    ) -> None:
        self._php = php
        self._deadline_ns = deadline_ns
        self._crew = crew or Crew(Answerer(), limit_s=LIMIT_S)
        self._budget = Budget(per_key=PER_USER_PER_S, total=PER_S)
        self._queue: FairQueue[int] = FairQueue(per_key=WAITING_PER_USER, total=WAITING)
        self._asked: dict[int, _Asked] = {}
        self._hanging: Counter[int] = Counter()
        self._counts: Counter[str] = Counter()
        self._found: Found = []

    def start(self) -> None:
        """Fork the fork-server. Call it early, from the main thread, before there are others.

        Raises:
            SourceError: The kernel refuses the fork or the sockets.
        """
        self._crew.start()
        self._crew.add()

    def close(self) -> None:
        """End the helpers without waiting for any that hangs; may be called twice."""
        self._crew.close()
        self._asked.clear()
        self._found.clear()

    def filenos(self) -> list[int]:
        """One descriptor, always the same, readable when `read` has something to do."""
        return [self._crew.fileno()]

    def ask(self, connect: Connect, now_ns: int, *, owner: int | None = None) -> int | None:
        """Ask who is behind an event; at once when the event comes, for he may be gone soon.

        Args:
            connect: The event; its pid, uids and time are what matters.
            now_ns: Any clock that does not go back, the same in all calls.
            owner: Uid that is charged for it; the event's own uid if not given. For a subordinate uid it must be
                given, or one tenant has as many budgets as uids.

        Returns:
            A ticket, which `read` will return once; None if nobody will be asked (counted).
        """
        if self._crew.off or connect.pid is None or connect.uid is None:
            return None
        owner = connect.uid if owner is None else owner
        if not self._budget.grant(owner, now_ns):
            self._counts["over_budget"] += 1
            return None
        ticket = next_ticket()
        if not self._queue.push(owner, ticket):
            self._counts["crowded"] += 1
            return None
        self._counts["asked"] += 1
        uids = (connect.uid,) if connect.euid is None else (connect.uid, connect.euid)
        question = Question(pid=connect.pid, uids=uids, time_ns=connect.time_ns, php=self._php)
        self._asked[ticket] = _Asked(owner, question, now_ns + self._deadline_ns)
        self._dispatch(now_ns)
        return ticket

    def read(self, now_ns: int) -> Found:
        """The answers there are, without waiting: those that have come, and those that `tick` has given up.

        Args:
            now_ns: The clock of `ask`.
        """
        self._take(now_ns)
        found, self._found = self._found, []
        return found

    def tick(self, now_ns: int) -> None:
        """Give up what is late, the questions and the helpers that hang; `read` then returns what is known.

        Args:
            now_ns: The clock of `ask`.
        """
        if any(helper.late(now_ns) for helper in self._helpers):
            self._take(now_ns)  # we may be the late ones: what has come by now counts
        for helper in self._helpers:
            if helper.late(now_ns):
                helper.abandoned = True
                self._hanging[helper.owner] += 1
                self._counts["abandoned"] += 1
        while self._asked:
            ticket, asked = next(iter(self._asked.items()))
            if asked.due_ns > now_ns:
                break
            self._counts["late"] += 1
            self._queue.discard(asked.owner, ticket)
            self._finish(ticket, asked.known or Attribution(why="late"))
        self._dispatch(now_ns)

    def next_deadline(self) -> int | None:
        """When `tick` has something to do even if nothing comes; None for never."""
        dues = [helper.due_ns for helper in self._helpers if helper.ticket and not helper.abandoned]
        if self._asked:
            dues.append(next(iter(self._asked.values())).due_ns)  # all wait equally long: the first ends first
        return min(dues, default=None)

    def stats(self) -> LookerStats:
        """Totals and state, for `status` and metrics."""
        hanging = self._hanging.total()
        off = self._crew.off or (
            "too many helpers hang: processes are told by name only" if hanging >= ABANDONED else ""
        )
        return LookerStats(
            **self._counts,
            hanging=hanging,
            helpers=len(self._helpers) - hanging,
            off_users=tuple(sorted(uid for uid, count in self._hanging.items() if count >= ABANDONED_PER_USER)),
            off=off,
        )

    @property
    def _helpers(self) -> list[Helper]:
        return list(self._crew.helpers.values())

    def _take(self, now_ns: int) -> None:
        for helper in self._crew.ready():
            self._receive(helper)
        self._dispatch(now_ns)

    def _dispatch(self, now_ns: int) -> None:
        """Hand waiting questions to idle helpers, adding helpers while they are few."""
        busy = {helper.owner for helper in self._helpers if helper.ticket and not helper.abandoned}
        while len(self._queue):
            idle = next((helper for helper in self._helpers if helper.idle), None)
            if idle is None and not self._room:
                return
            turn = self._queue.pop(may=lambda owner: owner not in busy)
            helper = idle or (self._crew.add() if turn is not None else None)
            if turn is None or helper is None:  # without a fork-server the question will be late
                return
            owner, ticket = turn
            deep = self._hanging[owner] < ABANDONED_PER_USER and self._hanging.total() < ABANDONED
            if not deep:
                self._counts["shallow"] += 1
            helper.owner, helper.ticket, helper.due_ns = owner, ticket, now_ns + self._deadline_ns
            busy.add(owner)
            helper.send(render_question(replace(self._asked[ticket].question, deep=deep)))

    @property
    def _room(self) -> bool:
        """Whether there may be one more helper: not if enough work, or too many hang."""
        there = len(self._crew.helpers)
        return there - self._hanging.total() < WORKERS and there < WORKERS + ABANDONED

    def _receive(self, helper: Helper) -> None:
        """Take what one helper has sent."""
        while (packet := helper.receive()) is not None:
            try:
                answer, final = parse_answer(packet) if packet else (Attribution(why="died"), True)
            except DecodeError:
                self._counts["garbled"] += 1
                answer, final, packet = Attribution(why="died"), True, b""
            asked = self._asked.get(helper.ticket)
            if asked is not None and not final:
                asked.known = answer
            if final:
                if asked is not None:
                    self._counts["answered" if packet else "died"] += 1
                    self._finish(helper.ticket, answer if packet else asked.known or answer)
                self._rest(helper, ended=not packet)
                return

    def _rest(self, helper: Helper, *, ended: bool) -> None:
        """A helper has finished, late or not, or has ended: it takes questions again, or goes."""
        helper.ticket = 0
        if helper.abandoned:
            helper.abandoned = False
            self._hanging[helper.owner] -= 1
            self._hanging += Counter()  # forgets the zeros
        if ended or len(self._crew.helpers) - self._hanging.total() > WORKERS:
            self._crew.remove(helper)

    def _finish(self, ticket: int, answer: Attribution) -> None:
        del self._asked[ticket]
        self._found.append((ticket, answer))
