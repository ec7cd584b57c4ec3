"""Reverse DNS: a resolver that never answers holds its threads and nothing else."""

import os
import select
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from smtpguard.enrich.reverse_dns import FOUND_NS, MAX_NAME, MAX_TICKETS, MISSING_NS, ReverseDns, resolve_name

A, B, C = bytes([192, 0, 2, 1]), bytes([192, 0, 2, 2]), bytes([192, 0, 2, 3])
V6 = bytes.fromhex("20010db8000000000000000000000001")


class Resolver:
    """Answers from a table; addresses in `dead` are answered when the test says so."""

    def __init__(self, names: dict[str, bytes], dead: set[str] | None = None) -> None:
        self.names = names
        self.dead = dead or set()
        self.asked: list[str] = []
        self.entered = threading.Semaphore(0)
        self.release = threading.Event()

    def __call__(self, address: str) -> bytes | None:
        self.asked.append(address)
        self.entered.release()
        if address in self.dead:
            self.release.wait(30)
        return self.names.get(address)


@contextmanager
def running(rdns: ReverseDns, resolver: Resolver) -> Iterator[None]:
    rdns.start()
    try:
        yield
    finally:
        resolver.release.set()
        rdns.close()
        rdns.close()


def answers(rdns: ReverseDns, count: int, now_ns: int = 0) -> dict[int, bytes | None]:
    found: dict[int, bytes | None] = {}
    while len(found) < count:
        assert select.select(rdns.filenos(), [], [], 5)[0], "no answer"
        found |= dict(rdns.read(now_ns))
    return found


def test_asked_once_then_remembered_for_its_time() -> None:
    resolver = Resolver({"192.0.2.1": b"mx.example"})
    rdns = ReverseDns(resolve=resolver)
    with running(rdns, resolver):
        ticket = rdns.ask(A, 1001, 0)
        assert isinstance(ticket, int)
        assert answers(rdns, 1) == {ticket: b"mx.example"}
        assert rdns.ask(A, 1001, FOUND_NS - 1) == b"mx.example"
        again = rdns.ask(A, 1001, FOUND_NS)
        assert isinstance(again, int)
        answers(rdns, 1)
        assert resolver.asked == ["192.0.2.1", "192.0.2.1"]
        assert rdns.stats().hits == 1


def test_a_crowd_leaves_no_table_behind() -> None:
    resolver = Resolver({}, dead={"192.0.2.1"})
    rdns = ReverseDns(resolve=resolver, threads=1)
    with running(rdns, resolver):
        empty = sys.getsizeof(rdns._tickets)
        for uid in range(200):
            assert rdns.ask(bytes([192, 0, 2, uid + 1]), uid, 0) is not None
        assert sys.getsizeof(rdns._tickets) > empty
        resolver.release.set()
        assert set(answers(rdns, 200).values()) == {None}
        assert sys.getsizeof(rdns._tickets) == empty


def test_the_lack_of_a_name_is_remembered_too() -> None:
    resolver = Resolver({})
    rdns = ReverseDns(resolve=resolver)
    with running(rdns, resolver):
        ticket = rdns.ask(V6, 1001, 0)
        assert answers(rdns, 1) == {ticket: None}
        assert resolver.asked == ["2001:db8::1"]
        assert rdns.ask(V6, 1001, MISSING_NS - 1) is None
        assert isinstance(rdns.ask(V6, 1001, MISSING_NS), int)


def test_the_same_address_is_looked_up_once_for_all_that_wait() -> None:
    resolver = Resolver({"192.0.2.1": b"mx.example"}, {"192.0.2.1"})
    rdns = ReverseDns(resolve=resolver)
    with running(rdns, resolver):
        tickets = {rdns.ask(A, 1000 + n, 0) for n in range(MAX_TICKETS)}
        assert rdns.ask(A, 1, 0) is None
        resolver.release.set()
        assert set(answers(rdns, MAX_TICKETS)) == tickets
        assert resolver.asked == ["192.0.2.1"]


def test_a_user_with_dead_name_servers_delays_nobody_else() -> None:
    dead = {f"198.51.100.{n}" for n in range(20)}
    resolver = Resolver({"192.0.2.2": b"fine.example"}, dead)
    rdns = ReverseDns(threads=2, per_user=10, resolve=resolver)
    with running(rdns, resolver):
        for n in range(20):
            rdns.ask(bytes([198, 51, 100, n]), 1001, 0)
        assert resolver.entered.acquire(timeout=5)
        ticket = rdns.ask(B, 1002, 0)
        assert answers(rdns, 1) == {ticket: b"fine.example"}
        stats = rdns.stats()
        assert stats.busy == 1
        assert stats.crowded >= 9


def test_the_queue_is_bounded_in_all() -> None:
    resolver = Resolver({})
    rdns = ReverseDns(waiting=2, resolve=resolver)  # not started: nobody takes anything
    assert isinstance(rdns.ask(A, 1, 0), int)
    assert isinstance(rdns.ask(B, 2, 0), int)
    assert rdns.ask(C, 3, 0) is None
    assert rdns.stats().crowded == 1
    rdns.close()


def test_the_memory_is_bounded_and_the_least_used_goes() -> None:
    resolver = Resolver({"192.0.2.1": b"a"})
    rdns = ReverseDns(remembered=2, resolve=resolver)
    with running(rdns, resolver):
        for address in (A, B):
            rdns.ask(address, 1, 0)
            answers(rdns, 1)
        rdns.ask(A, 1, 0)
        rdns.ask(C, 1, 0)
        answers(rdns, 1)
        assert rdns.ask(A, 1, 0) == b"a"
        assert isinstance(rdns.ask(B, 1, 0), int)


def test_closing_does_not_wait_and_a_late_answer_touches_nothing() -> None:
    resolver = Resolver({"192.0.2.1": b"late"}, {"192.0.2.1"})
    rdns = ReverseDns(resolve=resolver)
    rdns.start()
    rdns.ask(A, 1, 0)
    assert resolver.entered.acquire(timeout=5)
    rdns.close()
    taken = os.eventfd(0)  # gets the number that was just closed
    resolver.release.set()
    assert not select.select([taken], [], [], 0.05)[0]
    assert rdns.read(0) == []
    os.close(taken)


def test_the_process_ends_though_a_thread_is_with_a_dead_resolver() -> None:
    code = """
        import threading
        from smtpguard.enrich.reverse_dns import ReverseDns
        entered = threading.Event()
        def dead(address):
            entered.set()
            threading.Event().wait(60)
        rdns = ReverseDns(resolve=dead)
        rdns.start()
        rdns.ask(bytes(4), 1, 0)
        entered.wait(5)
        rdns.close()
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], timeout=20, check=False, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")


def test_the_systems_resolver() -> None:
    assert resolve_name("127.0.0.1") == b"localhost"


@pytest.mark.parametrize("error", [OSError("timed out"), UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad")])
def test_what_the_resolver_cannot_tell_is_no_name(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("socket.getnameinfo", fail)
    assert resolve_name("192.0.2.1") is None


def test_hostile_names_stay_bytes_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    text = 'x" UID=0\n\udcff' + "a" * 400
    monkeypatch.setattr("socket.getnameinfo", lambda *_: (text, "0"))
    name = resolve_name("192.0.2.1")
    assert name is not None
    assert name.startswith(b'x" UID=0\n\xff')
    assert len(name) == MAX_NAME
