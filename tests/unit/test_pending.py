"""Lines wait for enrichment in order, for a bounded time, in a bounded number."""

from hypothesis import given
from hypothesis import strategies as st

from smtpguard.enrich.ordered_wait import WAIT_NS, OrderedWait, next_ticket


def items(pending: OrderedWait[str, int], now_ns: int) -> list[str]:
    return [ready.item for ready in pending.due(now_ns)]


def test_what_wants_nothing_leaves_at_once() -> None:
    pending: OrderedWait[str, int] = OrderedWait()
    pending.add("a", (), 0)
    assert items(pending, 0) == ["a"]
    assert pending.next_deadline() is None


def test_it_leaves_with_its_values_when_all_have_come() -> None:
    pending: OrderedWait[str, int] = OrderedWait()
    one, two = next_ticket(), next_ticket()
    pending.add("a", {one, two}, 0)
    pending.resolve(one, 10)
    assert items(pending, 1) == []
    pending.resolve(two, 20)
    (ready,) = pending.due(2)
    assert ready.values == {one: 10, two: 20}
    assert (pending.late, pending.early) == (0, 0)


def test_at_its_deadline_it_leaves_with_what_there_is() -> None:
    pending: OrderedWait[str, int] = OrderedWait()
    one, two = next_ticket(), next_ticket()
    pending.add("a", {one, two}, 5)
    pending.resolve(two, 20)
    assert pending.next_deadline() == 5 + WAIT_NS
    assert items(pending, 4 + WAIT_NS) == []
    (ready,) = pending.due(5 + WAIT_NS)
    assert ready.values == {two: 20}
    assert pending.late == 1
    pending.resolve(one, 10)  # too late, and nobody minds
    assert pending.due(6 + WAIT_NS) == []


def test_order_is_kept_and_nobody_waits_longer_for_another() -> None:
    pending: OrderedWait[str, int] = OrderedWait()
    hang = next_ticket()
    pending.add("hostile", {hang}, 0)
    pending.add("other", (), 1)
    assert items(pending, 2) == []
    assert items(pending, WAIT_NS) == ["hostile", "other"]


def test_too_many_leave_early_oldest_first() -> None:
    pending: OrderedWait[str, int] = OrderedWait(max_items=2)
    tickets = [next_ticket() for _ in range(4)]
    for name, ticket in zip("abcd", tickets, strict=True):
        pending.add(name, {ticket}, 0)
    assert items(pending, 0) == ["a", "b"]
    assert pending.early == 2
    assert len(pending) == 2
    assert [ready.item for ready in pending.flush()] == ["c", "d"]
    assert len(pending) == 0


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 40), st.lists(st.integers(0, 80), max_size=6))))
def test_always_in_order_never_late_never_twice(steps: list[tuple[int, int, list[int]]]) -> None:
    pending: OrderedWait[int, int] = OrderedWait(wait_ns=50, max_items=8)
    now, ticket, out = 0, 0, []
    for number, (wants, wait, answers) in enumerate(steps):
        now += wait
        pending.add(number, range(ticket, ticket + wants), now)
        ticket += wants
        for answer in answers:
            pending.resolve(answer, answer)
        out += [ready.item for ready in pending.due(now)]
        assert (pending.next_deadline() or now + 1) > now
        assert len(pending) <= 8
    out += [ready.item for ready in pending.due(now + 50)]
    assert out == list(range(len(steps)))
    assert not pending._by_ticket
