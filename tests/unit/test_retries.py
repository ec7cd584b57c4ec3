"""Calls to connections: two calls for one attempt count once, and loops of attempts count in full."""

import pytest

from smtpguard.decode.retries import Retries
from smtpguard.model import NS, Connect

A, B = bytes([192, 0, 2, 1]), bytes([192, 0, 2, 2])
MS = NS // 1000


def counted(*calls: tuple[int, int, bytes, int | None], pid: int = 7, retries: Retries | None = None) -> list[bool]:
    """Which calls count; a call is (milliseconds, fd, address, exit value)."""
    table = retries or Retries()
    return [
        not table.is_repeat(
            Connect(time_ns=time * MS, uid=1, pid=pid, port=25, address=address, sensor="audit"),
            b"%x" % fd,
            None if exit_value is None else b"%d" % exit_value,
        )
        for time, fd, address, exit_value in calls
    ]


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


@pytest.mark.parametrize("exit_value", [-115, -1, -13, -111])
def test_a_loop_of_connect_and_close_counts_in_full(exit_value: int) -> None:
    """The kernel gives one socket EINPROGRESS once; the descriptor is another socket under the old number."""
    calls = [(time, 3, A, exit_value) for time in range(200)]
    assert counted(*calls) == [True] * 200


def test_a_refusal_after_a_connect_under_way_is_a_new_attempt() -> None:
    assert counted((0, 3, A, -115), (1, 3, A, -1)) == [True, True]


def test_a_resolvers_probe_and_the_connect_count_once() -> None:
    assert counted((0, 3, A, 0), (1, 4, A, -115)) == [True, False]
    assert counted((0, 3, A, 0), (1999, 3, A, 0)) == [True, False]
    assert counted((0, 3, A, 0), (2001, 3, A, 0)) == [True, True]


def test_probes_of_several_addresses_are_recognised_each_time() -> None:
    """getaddrinfo goes for all addresses at once, then the program for one; a daemon does so for each message."""
    for start in (0, 10_000, 10_500, 12_000):
        calls = [(start, 3, A, 0), (start, 3, B, 0), (start + 30, 3, A, 0)]
        assert counted(*calls) == [True, True, False]
    rounds = [
        call for start in (0, 3000, 6000, 9000) for call in ((start, 3, A, 0), (start, 3, B, 0), (start + 30, 3, A, 0))
    ]
    assert counted(*rounds) == [True, True, False] * 4


def test_a_loop_of_blocking_connects_counts_in_full_but_for_one() -> None:
    assert sum(counted(*[(time, 3, A, 0) for time in range(200)])) == 199


def test_the_retry_of_a_probed_connect_counts_not_either() -> None:
    assert counted((0, 3, A, 0), (1, 3, A, -115), (800, 3, A, 0)) == [True, False, False]


def test_a_call_without_pid_or_descriptor_counts() -> None:
    connect = Connect(time_ns=0, uid=1, port=25, address=A, sensor="audit")
    table = Retries()
    assert not table.is_repeat(connect, b"3", b"-115")
    assert not table.is_repeat(connect, b"3", b"0")
    known = Connect(time_ns=0, uid=1, pid=1, port=25, address=A, sensor="audit")
    assert not table.is_repeat(known, None, b"-115")
    assert not table.is_repeat(known, None, b"-111")


def test_a_retry_is_known_though_many_came_between() -> None:
    table = Retries(max_entries=4)
    assert counted((0, 3, A, -115), pid=7, retries=table) == [True]
    for pid in range(100, 106):
        assert counted((1, 3, A, -115), pid=pid, retries=table) == [True]
    assert counted((900, 3, A, 0), pid=7, retries=table) == [False]


def test_tables_are_bounded_and_forget_the_oldest() -> None:
    table = Retries(max_entries=100)
    for pid in range(1000):
        for time, exit_value in ((0, -115), (1, 0), (2, 0), (3, -115)):
            counted((time, 3, bytes([1, 2, 3, time]), exit_value), pid=pid, retries=table)
    for kept in (table._once, table._once_before, table._under_way, table._zeros, table._paired, table._latest):
        assert len(kept) <= 100
