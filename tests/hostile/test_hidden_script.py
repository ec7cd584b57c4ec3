"""Attack: a few accomplices use up what may be looked at in a second, so that nobody sees which script sends."""

import os
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpguard.enrich.fair_queue import Budget, FairQueue
from smtpguard.enrich.looker.client import LINES, PER_S, PER_USER_PER_S, Looker
from smtpguard.enrich.reverse_dns import ReverseDns
from smtpguard.model import Connect


def flood(budget: Budget, key: int, times: int = 1000) -> int:
    return sum(budget.grant(key, 1) for _ in range(times))


def test_whoever_comes_after_four_who_take_all_they_may_is_still_looked_at() -> None:
    budget = Budget(per_key=PER_USER_PER_S, total=PER_S, keep_some=True)
    taken = [flood(budget, key) for key in range(4)]
    assert taken[0] == PER_USER_PER_S, "one alone has all that is one's own"
    assert flood(budget, 99) >= 10
    assert sum(taken) < PER_S


@given(st.integers(1, 90))
def test_however_many_they_are(accomplices: int) -> None:
    budget = Budget(per_key=PER_USER_PER_S, total=PER_S, keep_some=True)
    for _ in range(PER_USER_PER_S):
        for key in range(accomplices):
            budget.grant(key, 1)
    assert budget.grant(999, 1)


def test_a_full_queue_has_room_for_who_has_waited_for_nothing() -> None:
    queue: FairQueue[int] = FairQueue(per_key=8, total=64)
    for key in range(8):
        for item in range(8):
            assert queue.push(key, 100 * key + item)
    assert not queue.push(99, 9900)
    room = queue.make_room(99)
    assert room is not None
    assert room[1] % 100 == 7, "the newest of those who have most"
    assert queue.push(99, 9900)
    assert len(queue) == 64


def test_but_not_for_who_has_as_many() -> None:
    queue: FairQueue[int] = FairQueue(per_key=1, total=3)
    assert [queue.push(key, key) for key in range(4)] == [True, True, True, False]
    assert queue.make_room(9) is None
    assert len(queue) == 3


def test_names_of_destinations_too() -> None:
    """No thread is started: nobody answers."""
    rdns = ReverseDns(per_user=4, waiting=8)
    try:
        tickets = [rdns.ask(bytes([198, 18, key, n]), key, 1) for key in (1, 2) for n in range(4)]
        mine = rdns.ask(bytes([198, 18, 3, 1]), 3, 1)
        assert isinstance(mine, int)
        gone = rdns.read(2)
        assert [ticket in tickets for ticket, _ in gone] == [True], "who was displaced waits for nothing"
        assert gone[0][1] is None
    finally:
        rdns.close()


@pytest.fixture
def looker() -> Iterator[Looker]:
    looker = Looker()
    looker.start()
    yield looker
    looker.close()


@pytest.mark.kernel
def test_the_looker_leaves_the_attackers_own_connection_a_look(looker: Looker) -> None:
    now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    connect = Connect(time_ns=now, uid=0, pid=os.getpid(), port=25, address=b"\x01\x02\x03\x04", sensor="bpf")
    began = time.monotonic_ns()
    for _ in range(PER_USER_PER_S):
        for owner in range(1001, 1021):
            looker.ask(connect, began, owner=owner)
    assert looker.stats().crowded > LINES.waiting
    assert looker.ask(connect, began, owner=2000) is not None
