"""The daemon's side of the looker: asks about processes, waits for nobody, counts what it could not learn.

Bounds (THREATS 10, 12): an answer for a log line has 50 ms, evidence 2 s; a helper that is late is abandoned; two
abandoned ones for one user end deep looks at their processes, eight in all end them for everybody, until some are back.
What such a process can't hang (name, binary, directory) is still read. Everything here is in one thread, and nothing
blocks.
"""

from collections import Counter
from dataclasses import dataclass

from smtpguard.enrich.fair_queue import Budget
from smtpguard.enrich.looker.evidence import Evidence, parse_packet
from smtpguard.enrich.looker.pool import HelperPool
from smtpguard.enrich.looker.protocol import Attribution, Question, parse_answer
from smtpguard.enrich.looker.question_queue import Hanging, QuestionQueue, QueueTerms
from smtpguard.enrich.looker.worker import LIMIT_S, AnswerQuestion
from smtpguard.model import NS, Connect

LINES = QueueTerms(name="lines", deadline_ns=50_000_000, workers=3, waiting_per_user=8, waiting=64)
EVIDENCE = QueueTerms(name="evidence", deadline_ns=2 * NS, workers=1, waiting_per_user=1, waiting=16)
ABANDONED_PER_USER = 2
ABANDONED = 8
PER_USER_PER_S = 50
PER_S = 200
EVIDENCE_PER_USER_PER_MIN = 2
EVIDENCE_PER_MIN = 20


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
        died: Questions whose helper ended while it was looking.
        garbled: Answers that were none.
        abandoned: Helpers ever abandoned, evidence's too.
        evidence: Bundles asked for.
        evidence_late: Bundles that came in part.
        evidence_refused: Bundles not gathered: two a minute for a user, twenty in all.
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
    evidence: int = 0
    evidence_late: int = 0
    evidence_refused: int = 0
    hanging: int = 0
    helpers: int = 0
    off_users: tuple[int, ...] = ()
    off: str = ""


class Looker:
    """Asks helper processes about the processes behind Connects.

    Args:
        php: Whether PHP's own memory may be read.
        crew: The helpers, if not the usual ones.
    """

    def __init__(self, *, php: bool = True, crew: HelperPool | None = None) -> None:
        self._php = php
        self._crew = crew or HelperPool(load_answerer, limit_s=LIMIT_S)
        self._hanging = Hanging(per_user=ABANDONED_PER_USER, total=ABANDONED, counts=Counter())
        self._lines: QuestionQueue[Attribution] = QuestionQueue(
            self._crew,
            LINES,
            budget=Budget(per_key=PER_USER_PER_S, total=PER_S, keep_some=True),
            hanging=self._hanging,
            parse=parse_answer,
            nothing=lambda why: Attribution(why=why),
        )
        self._evidence: QuestionQueue[Evidence] = QuestionQueue(
            self._crew,
            EVIDENCE,
            budget=Budget(per_key=EVIDENCE_PER_USER_PER_MIN, total=EVIDENCE_PER_MIN, window_ns=60 * NS, keep_some=True),
            hanging=self._hanging,
            parse=parse_packet,
            nothing=lambda why: Evidence(found=Attribution(why=why)),
        )

    def start(self) -> None:
        """Fork the fork-server. Call it early, from the main thread, before there are others.

        Raises:
            SourceError: The kernel refuses the fork or the sockets.
        """
        self._crew.start()
        self._crew.add(LINES.name)

    def close(self) -> None:
        """End the helpers without waiting for any that hangs; may be called twice."""
        self._crew.close()
        self._lines.clear()
        self._evidence.clear()

    def filenos(self) -> list[int]:
        """One descriptor, always the same, readable when `read` has something to do."""
        return [self._crew.fileno()]

    def ask(self, connect: Connect, now_ns: int, *, owner: int | None = None) -> int | None:
        """Ask who is behind an event; at once when the event comes, for the process may be gone soon.

        Args:
            connect: The event; its pid (or else its inode), uids and time are what matters.
            now_ns: Any clock that does not go back, the same in all calls.
            owner: Whose share of the budget it uses (Account.share); the event's own uid if not given. For a
                subordinate uid it must be given, or one tenant has as many budgets as uids.

        Returns:
            A ticket, which `read` will return once; None if nobody will be asked (counted).
        """
        return self._put(self._lines, connect, now_ns, owner, evidence=False)

    def gather(self, connect: Connect, now_ns: int, *, owner: int | None = None) -> int | None:
        """Ask for an evidence bundle, when a user's first event over a threshold comes. Takes up to two seconds.

        Args and returns are those of `ask`; `read_evidence` returns the ticket, with what was found by then.
        """
        return self._put(self._evidence, connect, now_ns, owner, evidence=True)

    def read(self, now_ns: int) -> list[tuple[int, Attribution]]:
        """The answers there are, without waiting: those that have come, and those that `tick` has given up.

        Args:
            now_ns: The clock of `ask`.
        """
        self._take(now_ns)
        return self._lines.take_found()

    def read_evidence(self) -> list[tuple[int, Evidence]]:
        """The bundles there are, without waiting; `read` or `tick` have taken them in."""
        return self._evidence.take_found()

    def tick(self, now_ns: int) -> None:
        """Give up what is late, the questions and the helpers that hang; `read` then returns what is known.

        Args:
            now_ns: The clock of `ask`.
        """
        lanes = (self._lines, self._evidence)
        if any(lane.any_late(now_ns) for lane in lanes):
            self._take(now_ns)  # we may be the late ones: what has come by now counts
        for lane in lanes:
            lane.give_up(now_ns)

    def next_deadline(self) -> int | None:
        """When `tick` has something to do even if nothing comes; None for never."""
        dues = (self._lines.next_deadline(), self._evidence.next_deadline())
        return min((due for due in dues if due is not None), default=None)

    def trouble(self) -> str | None:
        """Why nobody is looked at any more; None when all is well."""
        return f"{self._crew.off}; restart the guard" if self._crew.off else None

    def stats(self) -> LookerStats:
        """Totals and state, for `status` and metrics."""
        hanging = self._hanging.all()
        too_many = "too many helpers hang: processes are told by name only" if hanging >= ABANDONED else ""
        lines, evidence = self._lines.counts, self._evidence.counts
        return LookerStats(
            **{name: lines[name] for name in ("asked", "answered", "late", "over_budget", "crowded")},
            **{name: lines[name] + evidence[name] for name in ("shallow", "died", "garbled", "abandoned")},
            evidence=evidence["asked"],
            evidence_late=evidence["late"],
            evidence_refused=evidence["over_budget"] + evidence["crowded"],
            hanging=hanging,
            helpers=len(self._crew.helpers) - hanging,
            off_users=self._hanging.off_users(),
            off=self._crew.off or too_many,
        )

    def _put(
        self,
        lane: QuestionQueue[Attribution] | QuestionQueue[Evidence],
        connect: Connect,
        now_ns: int,
        owner: int | None,
        *,
        evidence: bool,
    ) -> int | None:
        if self._crew.off or connect.uid is None or (connect.pid is None and connect.inode is None):
            return None
        question = Question(
            pid=connect.pid,
            inode=connect.inode if connect.pid is None else None,
            uids=(connect.uid,) if connect.euid is None else (connect.uid, connect.euid),
            time_ns=connect.time_ns,
            php=self._php,
            evidence=evidence,
        )
        return lane.ask(question, connect.uid if owner is None else owner, now_ns)

    def _take(self, now_ns: int) -> None:
        for helper in self._crew.ready():
            (self._evidence if helper.lane == EVIDENCE.name else self._lines).receive(helper)
        self._lines.dispatch(now_ns)
        self._evidence.dispatch(now_ns)


def load_answerer() -> AnswerQuestion:
    """What workers do with questions. Called in the fork-server: the daemon needs none of those modules."""
    from smtpguard.enrich.looker.dispatch import Dispatch

    return Dispatch()
