"""Calls to connections: two calls for one attempt count once, a resolver's probes not at all, loops in full."""

import random

import pytest

from smtpguard.decode.audit.probes import MAX_ADDRESSES
from smtpguard.decode.audit.retries import Retries
from smtpguard.model import NS, Connect

A, B, C, D = (bytes([192, 0, 2, last]) for last in (1, 2, 3, 4))
MS = NS // 1000
Call = tuple[float, int, bytes, int | None]
"""Milliseconds, descriptor, address, exit value."""


def counted(*calls: Call, pid: int = 7, retries: Retries | None = None, port: int = 25) -> list[bool]:
    """Which calls count."""
    table = retries or Retries()
    connects = [
        Connect(time_ns=round(time * MS), uid=1, pid=pid, port=port, address=address, sensor="audit")
        for time, _, address, _ in calls
    ]
    events = [
        (0, b"%x" % fd, None if exit_value is None else b"%d" % exit_value, connect)
        for (_, fd, _, exit_value), connect in zip(calls, connects, strict=True)
    ]
    kept = {id(connect) for connect in table.feed(events) + ([] if retries else table.finish())}
    return [id(connect) in kept for connect in connects]


@pytest.mark.parametrize("end", [0, -111, -110, -113, None])
def test_the_outcome_of_a_connect_under_way_counts_not_again(end: int | None) -> None:
    assert counted((0, 3, A, -115), (900, 3, A, end)) == [True, False]
    assert counted((0, 3, A, -115), (900, 3, A, end), (901, 3, A, -115)) == [True, False, True]


@pytest.mark.parametrize("interrupted", [-4, -512, -513, -514, -516])
def test_an_interrupted_connect_that_goes_on_counts_once(interrupted: int) -> None:
    assert counted((0, 3, A, interrupted), (5, 3, A, interrupted), (900, 3, A, 0)) == [True, False, False]


def test_another_descriptor_address_process_or_too_late_is_no_retry() -> None:
    assert counted((0, 3, A, -115), (900, 4, A, -111)) == [True, True]
    assert counted((0, 3, A, -115), (900, 3, B, -111)) == [True, True]
    assert counted((0, 3, A, -115), (5001, 3, A, -111)) == [True, True]
    table = Retries()
    assert counted((0, 3, A, -115), pid=1, retries=table) == [True]
    assert counted((9, 3, A, -111), pid=2, retries=table) == [True]


@pytest.mark.parametrize("exit_value", [-115, -1, -13, -111, 0, -101])
def test_a_loop_of_connect_and_close_counts_in_full(exit_value: int) -> None:
    """The kernel gives one socket EINPROGRESS once; the descriptor is another socket under the old number."""
    calls = [(time, 3, A, exit_value) for time in range(200)]
    assert counted(*calls) == [True] * 200


def test_a_refusal_after_a_connect_under_way_is_a_new_attempt() -> None:
    assert counted((0, 3, A, -115), (1, 3, A, -1)) == [True, True]


@pytest.mark.parametrize("exit_value", [0, -115, -111, -110, -4])
@pytest.mark.parametrize("fd", [3, 4])
@pytest.mark.parametrize("pause", [0, 1, 30, 3000])
def test_a_resolvers_probes_count_not_and_the_connection_does(exit_value: int, fd: int, pause: float) -> None:
    """For a name of two addresses, and of four; then the program connects to one of them, as quickly as it likes."""
    for addresses in ((A, B), (A, B, C, D), (D, A)):
        probes: list[Call] = [(0, 3, address, 0) for address in addresses]
        for chosen in addresses:
            assert counted(*probes, (pause, fd, chosen, exit_value)) == [False] * len(probes) + [True]


@pytest.mark.parametrize(("first", "second"), [(-101, 0), (0, -101), (-113, 0), (0, -99)])
def test_one_of_the_addresses_may_be_unreachable(first: int, second: int) -> None:
    good = A if first == 0 else B
    assert counted((0, 3, A, first), (0, 3, B, second), (0.2, 3, good, 0)) == [False, False, True]


def test_an_unreachable_answer_alone_is_no_look_up() -> None:
    """A program goes through a name's IPv6 addresses as quickly where there is no IPv6, and then takes another."""
    assert counted((0, 3, A, -101), (0, 3, B, -101), (0, 3, C, -115)) == [True, True, True]
    assert counted((0, 3, A, -101), (0, 3, B, -101)) == [True, True]
    assert counted((0, 3, A, -101), (0, 3, B, -101), (0, 3, A, -110)) == [False, False, True]
    assert counted((0, 3, A, -101), (0, 3, B, -101), (0, 3, A, -101)) == [False, False, True]


def test_a_name_looked_up_again_and_again_counts_its_connections() -> None:
    rounds = [
        call
        for start in (0.0, 40, 3000, 6000, 6010)
        for call in ((start, 3, A, 0), (start, 3, B, 0), (start + 0.4, 3, A, -115))
    ]
    assert counted(*rounds) == [False, False, True] * 5


def test_the_next_name_may_follow_at_once() -> None:
    calls: list[Call] = [(0, 3, A, 0), (0, 3, B, 0), (0, 3, A, 0), (0.5, 3, C, 0), (0.5, 3, D, 0), (0.6, 3, C, 0)]
    assert counted(*calls) == [False, False, True] * 2


def test_a_probe_of_an_address_that_was_just_connected_to_is_no_retry() -> None:
    """The look-up for the next mail gets the number of the last mail's socket."""
    calls: list[Call] = [(0, 3, A, -115), (800, 3, A, 0), (800, 3, B, 0), (801, 3, A, -115)]
    assert counted(*calls) == [True, False, False, True]


@pytest.mark.parametrize("exit_value", [0, -115, -111])
@pytest.mark.parametrize("gap", [2, 20, 60, 300])
@pytest.mark.parametrize("before", [2, 3, 4])
def test_a_process_that_loses_its_processor_amid_a_look_up(before: int, gap: float, exit_value: int) -> None:
    """The connection to an address of the first part is not one more address of the second."""
    for chosen in (A, B):
        times = [0.0] * before + [gap] * (5 - before)
        answers = [0, 0, 0, 0, exit_value]
        calls = [(t, 3, to, e) for t, to, e in zip(times, (A, B, C, D, chosen), answers, strict=True)]
        assert counted(*calls) == [False] * 4 + [True]
        elsewhere = (gap + 5, 4, A, -115)
        assert counted(*calls, elsewhere, (gap + 90, 3, D, 0)) == [False] * 4 + [True] * 3


def test_a_name_looked_up_again_is_no_broken_look_up() -> None:
    """Its addresses may come in another order; its connection, here, has a descriptor of its own."""
    first: list[Call] = [(0, 3, A, 0), (0, 3, B, 0), (0, 4, A, -115)]
    for again in ((B, A), (A, B), (B, A, C)):
        calls: list[Call] = [(30, 3, address, 0) for address in again]
        assert counted(*first, *calls) == [False, False, True] + [False] * len(again)


def test_connections_behind_a_look_up_count_each() -> None:
    calls: list[Call] = [(0, 3, A, 0), (0, 3, B, 0), (20, 3, C, 0), (40, 3, A, 0), (60, 3, B, 0)]
    assert counted(*calls) == [False, False, True, True, True]


def test_broken_look_ups_are_remembered_for_a_while_and_bounded() -> None:
    part: list[Call] = [(0, 3, A, 0), (0, 3, B, 0)]
    assert counted(*part, (600, 3, C, 0), (600, 3, A, 0)) == [False] * 4, "too late: a look-up of its own"
    table = Retries()
    for pid in range(5000):
        counted(*part, retries=table, pid=pid)
        table.finish()
    assert len(table._probes._parts) <= 1024


def test_two_threads_that_look_up_the_same_name_under_one_number() -> None:
    calls: list[Call] = [(0, 3, A, 0), (0, 3, B, 0), (0, 3, A, 0), (0, 3, B, 0), (0, 4, A, 0), (0, 3, A, 0)]
    assert counted(*calls) == [False] * 4 + [True, True]


def test_threads_that_connect_to_several_addresses_count_each() -> None:
    calls: list[Call] = [(time, 3 + time % 10, bytes([192, 0, 2, time % 4]), 0) for time in range(200)]
    assert counted(*calls) == [True] * 200


@pytest.mark.parametrize("apart", [2, 3, 10, 50])
def test_connects_that_take_their_time_are_connections(apart: float) -> None:
    """A blocking connect() answers 0 after the way to the server and back; its stamp is that of its beginning."""
    calls: list[Call] = [(apart * n, 3, bytes([192, 0, 2, n]), 0) for n in range(40)]
    assert counted(*calls) == [True] * 40


def test_stamps_of_a_coarse_clock_lie_a_tick_apart() -> None:
    calls: list[Call] = [(0, 3, A, 0), (4, 3, B, 0), (4, 3, A, -115)]
    assert counted(*calls) == [True, True, True]
    table = Retries(tick_ns=4 * MS)
    assert counted(*calls, retries=table) == [False, False, True]
    assert counted((0, 3, A, 0), (2, 3, B, 0), (4, 3, C, -115), pid=8, retries=Retries(tick_ns=4 * MS)) == [True] * 3


def test_other_ports_and_processes_are_no_look_up() -> None:
    for change in ({"port": 587}, {"pid": 8}):
        table = Retries()
        counted((0, 3, A, 0), retries=table)
        counted((0, 3, B, 0), retries=table, **change)
        table.finish()
        assert table.probes == 0


def test_more_addresses_than_a_name_has_count_each() -> None:
    calls: list[Call] = [(0, 3, bytes([192, 0, 2, n]), 0) for n in range(MAX_ADDRESSES + 8)]
    assert counted(*calls) == [True] * len(calls)
    assert counted(*calls[:MAX_ADDRESSES]) == [False] * MAX_ADDRESSES


def test_what_is_held_goes_when_the_stream_goes_on_or_time_passes() -> None:
    table = Retries()
    assert counted((0, 3, A, 0), retries=table) == [False]
    assert table.is_holding
    assert counted((49, 4, B, -115), retries=table) == [True]
    assert table.is_holding
    assert counted((60, 4, B, -115), retries=table) == [True]
    assert not table.is_holding
    counted((100, 3, A, 0), retries=table)
    assert table.sweep() == []
    assert [connect.address for connect in table.sweep()] == [A]
    counted((200, 3, A, 0), retries=table)
    table.sweep()
    counted((200, 3, B, 0), retries=table)
    assert table.sweep() == [], "it has changed since"
    counted((200.5, 3, C, 0), retries=table)
    assert table.sweep() == table.sweep() == []
    assert (table.probes, table.repeats) == (3, 0)


def test_how_the_calls_are_read_makes_no_difference() -> None:
    draw = random.Random(5)
    calls: list[Call] = [
        (n // 4, draw.choice((3, 4)), draw.choice((A, B, C)), draw.choice((0, 0, 0, -101, -115, -111)))
        for n in range(2000)
    ]
    whole = sum(counted(*calls))
    table = Retries()
    apart = []
    for call in calls:
        connect = Connect(time_ns=round(call[0] * MS), uid=1, pid=7, port=25, address=call[2], sensor="audit")
        apart += table.feed([(0, b"%x" % call[1], b"%d" % (call[3] or 0), connect)])
    assert len(apart + table.finish()) == whole


def test_a_call_without_pid_or_descriptor_counts() -> None:
    connect = Connect(time_ns=0, uid=1, port=25, address=A, sensor="audit")
    table = Retries()
    for answer in (b"-115", b"0", b"0"):
        assert table.feed([(0, b"3", answer, connect)]) == [connect]
    known = Connect(time_ns=0, uid=1, pid=1, port=25, address=A, sensor="audit")
    for answer in (b"-115", b"-111", b"0", b"0"):
        assert table.feed([(0, None, answer, known)]) == [known]


def test_a_retry_is_known_though_many_came_between() -> None:
    table = Retries(max_entries=4)
    assert counted((0, 3, A, -115), pid=7, retries=table) == [True]
    for pid in range(100, 106):
        assert counted((1, 3, A, -115), pid=pid, retries=table) == [True]
    assert counted((900, 3, A, 0), pid=7, retries=table) == [False]
    assert table.repeats == 1


@pytest.mark.parametrize("began", [0, 5_001, 9_999, 10_001, 14_900, 20_002])
def test_a_retry_is_known_whenever_first_attempts_were_last_put_away(began: int) -> None:
    """What is kept is put away every ten seconds of the stream, so that a quiet day is not held in memory."""
    table = Retries()
    calls: list[tuple[int, Call]] = [(100 + number, (number * 100, 3, A, -115)) for number in range(300)]
    calls += [(7, (began, 3, B, -115)), (7, (began + 4_999, 3, B, 0))]
    told = [counted(call, pid=pid, retries=table) for pid, call in sorted(calls, key=lambda item: item[1][0])]
    assert told.count([False]) == table.repeats == 1


def test_tables_are_bounded_and_forget_the_oldest() -> None:
    table = Retries(max_entries=100)
    total = 0
    for pid in range(1000):
        for exit_value in (-115, 0):
            events = [
                (0, b"%d" % fd, b"%d" % exit_value, Connect(time_ns=0, uid=1, pid=pid, port=25, address=A, sensor="x"))
                for fd in range(3)
            ]
            total += len(table.feed(events if exit_value else events[:1] * 2))
    tables = (table._once, table._once_before, table._lone, table._under_way, table._under_way_before)
    for kept in (*tables, table._probes.open):
        assert len(kept) <= 100
    assert total + len(table.finish()) > 3000
