"""Lines wait for enrichment in order, for a bounded time, in a bounded number."""

from hypothesis import given
from hypothesis import strategies as st

from smtpguard.enrich.ordered_wait import WAIT_NS, OrderedWait, next_ticket


def items(waits: OrderedWait[str, int], now_ns: int) -> list[str]:
    return [ready.item for ready in waits.due(now_ns)]


def test_what_wants_nothing_leaves_at_once() -> None:
    waits: OrderedWait[str, int] = OrderedWait()
    waits.add("a", (), 0)
    assert items(waits, 0) == ["a"]
    assert waits.next_deadline() is None


def test_it_leaves_with_its_values_when_all_have_come() -> None:
    waits: OrderedWait[str, int] = OrderedWait()
    one, two = next_ticket(), next_ticket()
    waits.add("a", {one, two}, 0)
    waits.resolve(one, 10)
    assert items(waits, 1) == []
    waits.resolve(two, 20)
    (ready,) = waits.due(2)
    assert ready.values == {one: 10, two: 20}
    assert (waits.late, waits.early) == (0, 0)


def test_at_its_deadline_it_leaves_with_what_there_is() -> None:
    waits: OrderedWait[str, int] = OrderedWait()
    one, two = next_ticket(), next_ticket()
    waits.add("a", {one, two}, 5)
    waits.resolve(two, 20)
    assert waits.next_deadline() == 5 + WAIT_NS
    assert items(waits, 4 + WAIT_NS) == []
    (ready,) = waits.due(5 + WAIT_NS)
    assert ready.values == {two: 20}
    assert waits.late == 1
    waits.resolve(one, 10)  # too late, and nobody minds
    assert waits.due(6 + WAIT_NS) == []


def test_order_is_kept_and_nobody_waits_longer_for_another() -> None:
    waits: OrderedWait[str, int] = OrderedWait()
    hang = next_ticket()
    waits.add("hostile", {hang}, 0)
    waits.add("other", (), 1)
    assert items(waits, 2) == []
    assert items(waits, WAIT_NS) == ["hostile", "other"]


def test_too_many_leave_early_oldest_first() -> None:
    waits: OrderedWait[str, int] = OrderedWait(max_items=2)
    tickets = [next_ticket() for _ in range(4)]
    for name, ticket in zip("abcd", tickets, strict=True):
        waits.add(name, {ticket}, 0)
    assert items(waits, 0) == ["a", "b"]
    assert waits.early == 2
    assert len(waits) == 2
    assert [ready.item for ready in waits.flush()] == ["c", "d"]
    assert len(waits) == 0


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 40), st.lists(st.integers(0, 80), max_size=6))))
def test_always_in_order_never_late_never_twice(steps: list[tuple[int, int, list[int]]]) -> None:
    waits: OrderedWait[int, int] = OrderedWait(wait_ns=50, max_items=8)
    now, ticket, out = 0, 0, []
    for number, (wants, wait, answers) in enumerate(steps):
        now += wait
        waits.add(number, range(ticket, ticket + wants), now)
        ticket += wants
        for answer in answers:
            waits.resolve(answer, answer)
        out += [ready.item for ready in waits.due(now)]
        assert (waits.next_deadline() or now + 1) > now
        assert len(waits) <= 8
    out += [ready.item for ready in waits.due(now + 50)]
    assert out == list(range(len(steps)))
    assert not waits._by_ticket
