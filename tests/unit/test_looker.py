"""The daemon's side of the looker against helpers that answer, hang, die and lie on command."""

from collections import deque
from dataclasses import dataclass, field, replace

import pytest

from smtpguard.enrich.looker.client import (
    ABANDONED,
    ABANDONED_PER_USER,
    EVIDENCE,
    EVIDENCE_PER_USER_PER_MIN,
    LINES,
    PER_USER_PER_S,
    Looker,
)
from smtpguard.enrich.looker.evidence import Evidence, render_packet
from smtpguard.enrich.looker.protocol import Attribution, Question, parse_question, render_answer
from smtpguard.model import NS, Connect

DEADLINE_NS = LINES.deadline_ns
WORKERS = LINES.workers
WAITING_PER_USER = LINES.waiting_per_user
KNOWN = Attribution(proc=b"php", exe=b"/usr/bin/php", why="late")
WHOLE = Attribution(attr="live", proc=b"php", exe=b"/usr/bin/php")


@dataclass(eq=False)
class FakeHelper:
    lane: str
    owner: int = -1
    ticket: int = 0
    due_ns: int = 0
    abandoned: bool = False
    questions: list[Question] = field(default_factory=list)
    inbox: deque[bytes] = field(default_factory=deque)

    @property
    def idle(self) -> bool:
        return not self.ticket and not self.abandoned

    def late(self, now_ns: int) -> bool:
        return bool(self.ticket) and not self.abandoned and self.due_ns <= now_ns

    def send(self, packet: bytes) -> None:
        self.questions.append(parse_question(packet))

    def receive(self) -> bytes | None:
        return self.inbox.popleft() if self.inbox else None

    def say(self, answer: Attribution | Evidence, *, final: bool = True) -> None:
        if isinstance(answer, Evidence):
            self.inbox.append(render_packet(answer, final=final))
        else:
            self.inbox.append(render_answer(answer, final=final))

    def die(self) -> None:
        self.inbox.append(b"")


class FakeCrew:
    def __init__(self) -> None:
        self.helpers: dict[int, FakeHelper] = {}
        self.off = "not started"
        self.made: list[FakeHelper] = []

    def start(self) -> None:
        self.off = ""

    def close(self) -> None:
        self.off = "closed"

    def fileno(self) -> int:
        return 99

    def add(self, lane: str) -> FakeHelper:
        helper = FakeHelper(lane)
        self.made.append(helper)
        self.helpers[len(self.made)] = helper
        return helper

    def remove(self, helper: FakeHelper) -> None:
        (number,) = [n for n, h in self.helpers.items() if h is helper]
        del self.helpers[number]

    def ready(self) -> list[FakeHelper]:
        return [helper for helper in self.helpers.values() if helper.inbox]

    def working(self, owner: int, lane: str = "lines") -> FakeHelper:
        (helper,) = [
            h for h in self.helpers.values() if h.owner == owner and h.lane == lane and h.ticket and not h.abandoned
        ]
        return helper


@pytest.fixture
def crew() -> FakeCrew:
    return FakeCrew()


@pytest.fixture
def looker(crew: FakeCrew) -> Looker:
    looker = Looker(crew=crew)  # type: ignore[arg-type]  # it has what the looker uses
    looker.start()
    return looker


def connect(uid: int | None = 1001, pid: int | None = 50) -> Connect:
    return Connect(time_ns=7, uid=uid, pid=pid, port=25, address=b"\x01\x02\x03\x04", sensor="bpf")


def tick(looker: Looker, now_ns: int) -> list[tuple[int, Attribution]]:
    looker.tick(now_ns)
    return looker.read(now_ns)


def hang(looker: Looker, uid: int, now_ns: int) -> None:
    """One question about this user that is never answered."""
    assert looker.ask(connect(uid), now_ns) is not None
    tick(looker, now_ns + DEADLINE_NS)


def test_the_question_names_process_uids_and_time(looker: Looker, crew: FakeCrew) -> None:
    looker.ask(replace(connect(), euid=33), 0)
    assert crew.working(1001).questions == [Question(pid=50, uids=(1001, 33), time_ns=7)]


def test_an_answer_comes_with_its_ticket_once(looker: Looker, crew: FakeCrew) -> None:
    ticket = looker.ask(connect(), 0)
    helper = crew.working(1001)
    helper.say(KNOWN, final=False)
    assert looker.read(1) == []
    helper.say(WHOLE)
    assert looker.read(2) == [(ticket, WHOLE)]
    assert tick(looker, NS) == []
    assert looker.next_deadline() is None
    assert looker.stats().answered == 1


@pytest.mark.parametrize(("uid", "pid"), [(None, 50), (1001, None)])
def test_without_uid_or_pid_nobody_is_asked(looker: Looker, uid: int | None, pid: int | None) -> None:
    assert looker.ask(connect(uid, pid), 0) is None


def test_without_a_pid_the_sockets_holder_is_asked_for(looker: Looker, crew: FakeCrew) -> None:
    looker.ask(replace(connect(pid=None), inode=9), 0)
    assert crew.working(1001).questions == [Question(pid=None, inode=9, uids=(1001,), time_ns=7)]


def test_with_a_pid_nobody_searches(looker: Looker, crew: FakeCrew) -> None:
    looker.ask(replace(connect(), inode=9), 0)
    assert crew.working(1001).questions == [Question(pid=50, uids=(1001,), time_ns=7)]


def test_a_late_answer_is_what_was_known_in_time(looker: Looker, crew: FakeCrew) -> None:
    ticket = looker.ask(connect(), 0)
    crew.working(1001).say(KNOWN, final=False)
    assert looker.next_deadline() == DEADLINE_NS
    assert tick(looker, DEADLINE_NS - 1) == []
    assert tick(looker, DEADLINE_NS) == [(ticket, KNOWN)]
    assert looker.stats().late == 1


def test_nothing_at_all_is_not_known(looker: Looker) -> None:
    ticket = looker.ask(connect(), 0)
    assert tick(looker, DEADLINE_NS) == [(ticket, Attribution(why="late"))]


def test_what_came_in_time_counts_though_we_are_late(looker: Looker, crew: FakeCrew) -> None:
    ticket = looker.ask(connect(), 0)
    crew.working(1001).say(WHOLE)
    assert tick(looker, 10 * DEADLINE_NS) == [(ticket, WHOLE)]
    assert looker.stats().hanging == 0


def test_a_hanging_helper_is_replaced_and_delays_nobody(looker: Looker, crew: FakeCrew) -> None:
    hang(looker, 1001, 0)
    assert looker.stats().hanging == 1
    ticket = looker.ask(connect(1002), NS)
    crew.working(1002).say(WHOLE)
    assert looker.read(NS) == [(ticket, WHOLE)]


def test_one_user_has_one_helper_at_a_time(looker: Looker, crew: FakeCrew) -> None:
    tickets = [looker.ask(connect(1001, pid), 0) for pid in range(1, 4)]
    assert len(crew.helpers) == 1
    helper = crew.working(1001)
    for pid, ticket in enumerate(tickets, 1):
        assert helper.questions[-1].pid == pid
        helper.say(WHOLE)
        assert looker.read(0) == [(ticket, WHOLE)]


def test_other_users_are_served_beside_him(looker: Looker, crew: FakeCrew) -> None:
    for uid in (1001, 1002, 1003, 1004):
        looker.ask(connect(uid), 0)
    assert len(crew.helpers) == WORKERS
    crew.working(1002).say(WHOLE)
    looker.read(0)
    assert crew.working(1004).questions[-1].uids == (1004,)


def test_two_hanging_helpers_end_deep_looks_at_that_user_only(looker: Looker, crew: FakeCrew) -> None:
    for n in range(ABANDONED_PER_USER):
        hang(looker, 1001, n * NS)
    now = 10 * NS
    looker.ask(connect(1001), now)
    looker.ask(connect(1002), now)
    assert not crew.working(1001).questions[-1].deep
    assert crew.working(1002).questions[-1].deep
    stats = looker.stats()
    assert (stats.hanging, stats.off_users, stats.shallow, stats.off) == (2, (1001,), 1, "")


def test_eight_end_them_for_all_and_no_more_are_made(looker: Looker, crew: FakeCrew) -> None:
    for n in range(40):
        hang(looker, 1000 + n, n * NS)
    stats = looker.stats()
    assert stats.hanging == ABANDONED + WORKERS
    assert len(crew.made) == ABANDONED + WORKERS
    assert "hang" in stats.off
    assert stats.abandoned == ABANDONED + WORKERS
    assert [helper.questions[-1].deep for helper in crew.made] == [True] * ABANDONED + [False] * WORKERS


@pytest.mark.parametrize("how", ["answers", "dies"])
def test_one_that_comes_back_gives_the_budget_back(looker: Looker, crew: FakeCrew, how: str) -> None:
    for n in range(ABANDONED_PER_USER):
        hang(looker, 1001, n * NS)
    if how == "answers":
        crew.made[0].say(WHOLE)
    else:
        crew.made[0].die()
    assert looker.read(9 * NS) == []
    assert looker.stats().off_users == ()
    looker.ask(connect(1001), 10 * NS)
    assert crew.working(1001).questions[-1].deep


def test_those_who_come_back_do_not_add_up(looker: Looker, crew: FakeCrew) -> None:
    for n in range(6):
        hang(looker, 1001 + n, n * NS)
    for helper in crew.made[:6]:
        helper.say(WHOLE)
    looker.read(9 * NS)
    assert looker.stats().hanging == 0
    assert len(crew.helpers) == WORKERS


def test_fifty_a_second_for_one_user(looker: Looker, crew: FakeCrew) -> None:
    taken = 0
    for n in range(PER_USER_PER_S + 10):
        if looker.ask(connect(1001), n) is not None:
            taken += 1
            crew.working(1001).say(WHOLE)
            looker.read(n)
    assert taken == PER_USER_PER_S
    assert looker.stats().over_budget == 10
    assert looker.ask(connect(1002), 99) is not None


def test_subordinate_uids_share_their_owners_budget(looker: Looker, crew: FakeCrew) -> None:
    for n in range(PER_USER_PER_S):
        assert looker.ask(connect(100_000 + n), n, owner=1001) is not None
        crew.working(1001).say(WHOLE)
        looker.read(n)
    assert looker.ask(connect(200_000), 99, owner=1001) is None


def test_his_queue_is_bounded(looker: Looker) -> None:
    taken = [looker.ask(connect(1001), 0) is not None for _ in range(20)]
    assert taken.count(True) == WAITING_PER_USER + 1
    assert looker.stats().crowded == 19 - WAITING_PER_USER


def test_questions_that_waited_too_long_are_given_up_unasked(looker: Looker, crew: FakeCrew) -> None:
    first = looker.ask(connect(1001, 1), 0)
    second = looker.ask(connect(1001, 2), 5)
    assert dict(tick(looker, DEADLINE_NS + 5)) == {first: Attribution(why="late"), second: Attribution(why="late")}
    looker.ask(connect(1001, 3), NS)
    assert crew.working(1001).questions[-1].pid == 3


def test_one_that_dies_at_it_is_not_known_and_replaced(looker: Looker, crew: FakeCrew) -> None:
    ticket = looker.ask(connect(), 0)
    helper = crew.working(1001)
    helper.say(KNOWN, final=False)
    helper.die()
    assert looker.read(1) == [(ticket, KNOWN)]
    assert helper not in crew.helpers.values()
    assert looker.stats().died == 1
    looker.ask(connect(), 2)
    assert crew.working(1001) is not helper


@pytest.mark.parametrize("noise", [b"garbage", b"[]", b"\xff" * 1000])
def test_one_that_lies_is_let_go(looker: Looker, crew: FakeCrew, noise: bytes) -> None:
    ticket = looker.ask(connect(), 0)
    helper = crew.working(1001)
    helper.inbox.append(noise)
    assert looker.read(1) == [(ticket, Attribution(why="died"))]
    assert helper not in crew.helpers.values()
    assert looker.stats().garbled == 1


def test_one_that_talks_unasked_is_harmless(looker: Looker, crew: FakeCrew) -> None:
    (helper,) = crew.made
    for _ in range(3):
        helper.say(WHOLE)
        assert looker.read(1) == []


def test_without_helpers_nobody_is_asked_and_everybody_sees_it(looker: Looker, crew: FakeCrew) -> None:
    crew.off = "the fork-server has ended"
    assert looker.ask(connect(), 0) is None
    assert looker.stats().off == "the fork-server has ended"


def test_before_start_and_after_close_nobody_is_asked(crew: FakeCrew) -> None:
    looker = Looker(crew=crew)  # type: ignore[arg-type]
    assert looker.ask(connect(), 0) is None
    looker.start()
    looker.ask(connect(), 0)
    looker.close()
    assert looker.ask(connect(), 0) is None
    assert looker.stats().off == "closed"


BUNDLE = Evidence(found=WHOLE, origin="web", looked=3, complete=True)


def test_evidence_comes_by_its_own_way(looker: Looker, crew: FakeCrew) -> None:
    line, bundle = looker.ask(connect(), 0), looker.gather(connect(), 0)
    helper = crew.working(1001, "evidence")
    assert helper.questions[-1].evidence
    helper.say(BUNDLE)
    crew.working(1001).say(WHOLE)
    assert looker.read(1) == [(line, WHOLE)]
    assert looker.read_evidence() == [(bundle, BUNDLE)]
    assert looker.read_evidence() == []


def test_evidence_has_two_seconds_and_lines_do_not_wait_for_it(looker: Looker, crew: FakeCrew) -> None:
    bundle = looker.gather(connect(), 0)
    crew.working(1001, "evidence").say(replace(BUNDLE, complete=False), final=False)
    line = looker.ask(connect(), 1)
    crew.working(1001).say(WHOLE)
    assert looker.read(2) == [(line, WHOLE)]
    looker.tick(EVIDENCE.deadline_ns - 1)
    assert looker.read_evidence() == []
    assert looker.next_deadline() == EVIDENCE.deadline_ns
    looker.tick(EVIDENCE.deadline_ns)
    assert looker.read_evidence() == [(bundle, replace(BUNDLE, complete=False))]
    assert (looker.stats().evidence_late, looker.stats().hanging) == (1, 1)


def test_what_hangs_evidence_counts_against_lines_too(looker: Looker, crew: FakeCrew) -> None:
    for n in range(ABANDONED_PER_USER):
        looker.gather(connect(), 100 * n * NS)
        looker.tick((100 * n + 3) * NS)
    looker.ask(connect(), 900 * NS)
    assert not crew.working(1001).questions[-1].deep


def test_evidence_is_rare(looker: Looker, crew: FakeCrew) -> None:
    taken = 0
    for n in range(5):
        if looker.gather(connect(), n * NS) is not None:
            taken += 1
            crew.working(1001, "evidence").say(BUNDLE)
            looker.read(n * NS)
    assert taken == EVIDENCE_PER_USER_PER_MIN
    assert looker.stats().evidence_refused == 5 - taken
    assert looker.gather(connect(), 60 * NS) is not None
