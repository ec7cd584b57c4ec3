"""One kind of question and the helpers that answer it: queue, budget, deadlines, and what happens to those who hang.

Two lanes share a crew: one for log lines (50 ms), one for evidence (2 s), so that the slow one never holds up the
fast. What hangs in either counts against the same user and the same total.
"""

from collections import Counter
from dataclasses import dataclass, replace
from typing import Generic, Protocol, TypeVar

from smtpguard.enrich.fair_queue import Budget, FairQueue
from smtpguard.enrich.looker.pool import Helper, HelperPool
from smtpguard.enrich.looker.protocol import Question, Why, render_question
from smtpguard.enrich.ordered_wait import next_ticket
from smtpguard.errors import DecodeError

Found = TypeVar("Found")
Found_co = TypeVar("Found_co", covariant=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueTerms:
    """What a lane is allowed.

    Attributes:
        name: To know its helpers by.
        deadline_ns: How long an answer may take: from the question for the asker, from its dispatch for a helper.
        workers: Helpers that take questions. One user holds one at most.
        waiting_per_user: Questions waiting for one user.
        waiting: Questions waiting in all.
    """

    name: str
    deadline_ns: int
    workers: int
    waiting_per_user: int
    waiting: int


@dataclass(slots=True)
class Hanging:
    """Abandoned helpers that have not come back, by the user whose process hangs them.

    Attributes:
        per_user: So many for one user end deep looks at their processes; once half of `total` hang, the first one does,
            so that a few users who work together leave the others a share.
        total: So many end them for everybody.
        counts: The present state.
    """

    per_user: int
    total: int
    counts: Counter[int]

    def all(self) -> int:
        """How many there are."""
        return self.counts.total()

    def allow(self, owner: int) -> bool:
        """Whether this user's processes may be looked at deeply."""
        return self.counts[owner] < self._limit() and self.all() < self.total

    def off_users(self) -> tuple[int, ...]:
        """At whose processes nobody looks deeply because of what they hang."""
        return tuple(sorted(owner for owner, count in self.counts.items() if count >= self._limit()))

    def add(self, owner: int) -> None:
        """One more hangs."""
        self.counts[owner] += 1

    def _limit(self) -> int:
        return self.per_user if self.all() < self.total // 2 else 1

    def forget(self, owner: int) -> None:
        """One has come back, or has ended."""
        self.counts[owner] -= 1
        if self.counts[owner] <= 0:
            del self.counts[owner]


@dataclass(slots=True)
class _OpenQuestion(Generic[Found]):
    """A question nobody has answered yet."""

    owner: int
    question: Question
    due_ns: int
    known: Found | None = None


class ParseAnswer(Protocol[Found_co]):
    """Reads a packet of a helper's."""

    def __call__(self, packet: bytes, /) -> tuple[Found_co, bool]:
        """The answer, and whether it is the last one. Raises DecodeError."""
        ...


class Nothing(Protocol[Found_co]):
    """Knows what to answer when nothing is known."""

    def __call__(self, why: Why, /) -> Found_co:
        """The answer."""
        ...


class QuestionQueue(Generic[Found]):
    """Questions of one kind.

    Args:
        crew: The helpers.
        terms: What is allowed.
        budget: How often one may ask.
        hanging: Shared by all lanes of the crew.
        parse: A packet to an answer and whether it is the last one; raises DecodeError.
        nothing: The answer when nothing is known, and why.

    Attributes:
        counts: Totals by name: asked, answered, late, over_budget, crowded, shallow, died, garbled, abandoned.
    """

    def __init__(
        self,
        crew: HelperPool,
        terms: QueueTerms,
        *,
        budget: Budget,
        hanging: Hanging,
        parse: ParseAnswer[Found],
        nothing: Nothing[Found],
    ) -> None:
        self.counts: Counter[str] = Counter()
        self._crew = crew
        self._terms = terms
        self._budget = budget
        self._hanging = hanging
        self._parse = parse
        self._nothing = nothing
        self._queue: FairQueue[int] = FairQueue(per_key=terms.waiting_per_user, total=terms.waiting)
        self._asked: dict[int, _OpenQuestion[Found]] = {}
        self._found: list[tuple[int, Found]] = []

    @property
    def helpers(self) -> list[Helper]:
        """The helpers of this lane."""
        return [helper for helper in self._crew.helpers.values() if helper.lane == self._terms.name]

    def clear(self) -> None:
        """Forget all questions and answers."""
        self._asked.clear()
        self._found.clear()

    def take_found(self) -> list[tuple[int, Found]]:
        """The answers there are; each is handed out once."""
        found, self._found = self._found, []
        return found

    def ask(self, question: Question, owner: int, now_ns: int) -> int | None:
        """Put a question; its ticket, or None if it is refused (counted)."""
        if not self._budget.grant(owner, now_ns):
            self.counts["over_budget"] += 1
            return None
        ticket = next_ticket()
        if not self._queue.push(owner, ticket):
            self.counts["crowded"] += 1
            displaced = self._queue.make_room(owner)
            if displaced is None or not self._queue.push(owner, ticket):
                return None
            self._finish(displaced[1], self._nothing("late"))
        self.counts["asked"] += 1
        self._asked[ticket] = _OpenQuestion(owner, question, now_ns + self._terms.deadline_ns)
        self.dispatch(now_ns)
        return ticket

    def dispatch(self, now_ns: int) -> None:
        """Hand waiting questions to idle helpers, adding helpers while they are few."""
        busy = {helper.owner for helper in self.helpers if helper.ticket and not helper.abandoned}
        while len(self._queue):
            idle = next((helper for helper in self.helpers if helper.idle), None)
            if idle is None and not self._room:
                return
            turn = self._queue.pop(may=lambda owner: owner not in busy)
            helper = idle or (self._crew.add(self._terms.name) if turn is not None else None)
            if turn is None or helper is None:  # without a fork-server the question will be late
                return
            owner, ticket = turn
            deep = self._hanging.allow(owner)
            if not deep:
                self.counts["shallow"] += 1
            helper.owner, helper.ticket, helper.due_ns = owner, ticket, now_ns + self._terms.deadline_ns
            busy.add(owner)
            helper.send(render_question(replace(self._asked[ticket].question, deep=deep)))

    def receive(self, helper: Helper) -> None:
        """Take what one helper of this lane has sent."""
        while (packet := helper.receive()) is not None:
            try:
                answer, final = self._parse(packet) if packet else (self._nothing("died"), True)
            except DecodeError:
                self.counts["garbled"] += 1
                answer, final, packet = self._nothing("died"), True, b""
            asked = self._asked.get(helper.ticket)
            if asked is not None and not final:
                asked.known = answer
            if final:
                if asked is not None:
                    self.counts["answered" if packet else "died"] += 1
                    self._finish(helper.ticket, answer if packet else asked.known or answer)
                self._rest(helper, ended=not packet)
                return

    def any_late(self, now_ns: int) -> bool:
        """Whether a helper is to be abandoned."""
        return any(helper.late(now_ns) for helper in self.helpers)

    def give_up(self, now_ns: int) -> None:
        """Give up what is late: helpers that hang, questions nobody has answered."""
        for helper in self.helpers:
            if helper.late(now_ns):
                helper.abandoned = True
                self._hanging.add(helper.owner)
                self.counts["abandoned"] += 1
        while self._asked:
            ticket, asked = next(iter(self._asked.items()))
            if asked.due_ns > now_ns:
                break
            self.counts["late"] += 1
            self._queue.discard(asked.owner, ticket)
            self._finish(ticket, asked.known or self._nothing("late"))
        self.dispatch(now_ns)

    def next_deadline(self) -> int | None:
        """When `give_up` has something to do; None for never."""
        dues = [helper.due_ns for helper in self.helpers if helper.ticket and not helper.abandoned]
        if self._asked:
            dues.append(next(iter(self._asked.values())).due_ns)  # all wait equally long: the first ends first
        return min(dues, default=None)

    @property
    def _working(self) -> int:
        return sum(not helper.abandoned for helper in self.helpers)

    @property
    def _room(self) -> bool:
        """Whether there may be one more helper: not if enough work, or even those that only look shallowly hang."""
        workers = self._terms.workers
        return self._working < workers and self._hanging.all() < self._hanging.total + workers

    def _rest(self, helper: Helper, *, ended: bool) -> None:
        """A helper has finished, late or not, or has ended: it takes questions again, or goes."""
        helper.ticket = 0
        if helper.abandoned:
            helper.abandoned = False
            self._hanging.forget(helper.owner)
        if ended or self._working > self._terms.workers:
            self._crew.remove(helper)

    def _finish(self, ticket: int, answer: Found) -> None:
        del self._asked[ticket]
        self._found.append((ticket, answer))
