"""What became of a connection: established, refused, timed out, given up, its bytes; against real peers."""

import errno
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from itertools import pairwise

import pytest

from smtpguard.actions.bpf_deny import BpfDeny
from smtpguard.clock import boottime_ns
from smtpguard.decode.netlink.sock_diag import Session
from smtpguard.kernel.sock_diag import SockDiag
from smtpguard.model import NS, Connect, SocketReport
from smtpguard.sources.bpf.existing_sessions import ExistingSessions, IsFollowed
from tests.kernel.bpf_lab import (
    ADDRESS4,
    ADDRESS6,
    MPTCP,
    Lab,
    begin_as,
    block,
    dial,
    dials,
    open_lab,
    random_uid,
    run_as,
    unshare_net,
)

pytestmark = pytest.mark.kernel

TCP_FASTOPEN_CONNECT = 30


@pytest.fixture
def lab() -> Generator[Lab]:
    with open_lab() as lab:
        yield lab


@contextmanager
def sink(*, port: int = 25, reply: bytes = b"220 hello\r\n") -> Generator[None]:
    """Listens on the test's addresses, IPv4 and IPv6, TCP and MPTCP: greets, reads to the end, closes."""
    listener = socket.socket(socket.AF_INET6, socket.SOCK_STREAM, MPTCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("::", port))
    listener.listen(64)
    listener.settimeout(0.05)
    stopping = threading.Event()

    def serve() -> None:
        while not stopping.is_set():
            try:
                peer, _ = listener.accept()
            except TimeoutError:
                continue
            with peer, suppress(ConnectionError):
                peer.settimeout(10)
                peer.sendall(reply)
                while peer.recv(65536):
                    pass

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join(20)
        listener.close()


def read_until(lab: Lab, enough: Callable[[list[SocketReport]], bool]) -> tuple[list[Connect], list[SocketReport]]:
    """Events and reports, read until there is enough or ten seconds are over."""
    connects: list[Connect] = []
    reports: list[SocketReport] = []
    deadline = time.monotonic() + 10
    while not enough(reports) and time.monotonic() < deadline:
        connects += lab.events()
        reports += lab.source.take_reports()
        time.sleep(0.01)
    return connects, reports


def is_over(reports: list[SocketReport]) -> bool:
    return any(report.kind not in ("established", "open") for report in reports)


def kinds(reports: list[SocketReport]) -> list[str]:
    return [report.kind for report in reports if report.kind != "open"]


def talk(address: str, *, protocol: int = 0, nonblocking: bool = False, fast_open: bool = False) -> None:
    """A session: hear the greeting, send a thousand bytes, close."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM, protocol) as sock:
        if fast_open:
            sock.setsockopt(socket.IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1)
        sock.settimeout(5 if nonblocking else None)
        sock.connect((address, 25))
        if fast_open:
            sock.sendall(b"x" * 1000)
            assert sock.recv(100) == b"220 hello\r\n"
        else:
            assert sock.recv(100) == b"220 hello\r\n"
            sock.sendall(b"x" * 1000)


@pytest.mark.parametrize(
    ("address", "options"),
    [
        (ADDRESS4, {}),
        (ADDRESS6, {}),
        (f"::ffff:{ADDRESS4}", {}),
        (ADDRESS4, {"nonblocking": True}),
        (ADDRESS4, {"fast_open": True}),
    ],
    ids=["v4", "v6", "mapped", "nonblocking", "fast-open"],
)
def test_a_session_is_reported_with_its_latency_and_exact_bytes(
    lab: Lab, address: str, options: dict[str, bool]
) -> None:
    uid = random_uid()
    with sink():
        run_as(uid, lab.cgroup, lambda: talk(address, **options))
        (connect,), reports = read_until(lab, is_over)
    assert kinds(reports) == ["established", "closed"]
    established, closed = reports[0], reports[-1]
    assert (established.bytes_sent, established.bytes_received) in ((0, 0), (1000, 0))
    assert (closed.bytes_sent, closed.retransmissions) == (1000, 0)
    assert closed.bytes_received in (11, 12)  # the peer's FIN, if it came first, counts as one
    assert established.latency_ns is not None
    assert 0 < established.latency_ns < NS
    assert closed.latency_ns is None
    for report in reports:
        assert (report.cookie, report.connect_time_ns) == (connect.cookie, connect.time_ns)
        assert (report.uid, report.port, report.address, report.netns) == (uid, 25, connect.address, None)
        assert report.own == connect.address, "both ends are this host's"


def test_mptcp_is_one_connect_and_one_session(lab: Lab) -> None:
    uid = random_uid()
    with sink():
        run_as(uid, lab.cgroup, lambda: talk(ADDRESS4, protocol=MPTCP))
        connects, reports = read_until(lab, is_over)
    assert [connect.uid for connect in connects] == [uid]
    assert kinds(reports) == ["established", "closed"]
    assert reports[-1].bytes_sent >= 1000


def test_a_refused_connection(lab: Lab) -> None:
    assert dials(random_uid(), lab.cgroup, ADDRESS4) == [errno.ECONNREFUSED]
    (connect,), (report,) = read_until(lab, is_over)
    assert (report.kind, report.connect_time_ns, report.own) == ("refused", connect.time_ns, connect.address)
    assert report.latency_ns is not None


@pytest.mark.parametrize(("patience_s", "kind"), [(0.3, "gave-up"), (1.6, "timeout")])
def test_nobody_there(lab: Lab, patience_s: float, kind: str) -> None:
    drop = f"table ip test {{ chain in {{ type filter hook input priority 0; ip daddr {ADDRESS4} drop; }}\n}}"
    subprocess.run(["nft", "-f", "-"], input=drop.encode(), check=True, timeout=10)

    def client() -> None:
        with socket.socket() as sock:
            sock.settimeout(patience_s)  # the first SYN is sent again after a second
            with pytest.raises(TimeoutError):
                sock.connect((ADDRESS4, 25))

    for _ in range(5):
        run_as(random_uid(), lab.cgroup, client)
        _, (report,) = read_until(lab, is_over)
        if (report.retransmissions > 0) == (kind == "timeout"):
            break  # else the client was held up until the SYN was sent again
    assert (report.kind, report.retransmissions > 0) == (kind, kind == "timeout")


def test_an_open_session_is_reported_once_a_second(lab: Lab) -> None:
    def client() -> None:
        with socket.create_connection((ADDRESS4, 25)) as sock:
            for _ in range(24):
                sock.sendall(b"y" * 100)
                time.sleep(0.1)

    with sink():
        run_as(random_uid(), lab.cgroup, client)
        _, reports = read_until(lab, is_over)
    opened = [report for report in reports if report.kind == "open"]
    assert len(opened) >= 2
    established, *times = [report.time_ns for report in reports]
    assert all(later - earlier >= NS for earlier, later in pairwise([established, *times[:-1]])), "not more often"
    assert len(opened) == 2 or times[-1] - established >= 3 * NS, "the client was held up"
    sizes = [report.bytes_sent for report in opened]
    assert 0 < sizes[0] < sizes[1] <= sizes[-1] <= reports[-1].bytes_sent == 2400


def test_what_a_dead_process_left_behind_is_counted(lab: Lab) -> None:
    def client() -> None:
        (lab.cgroup / "cgroup.procs").write_text(str(os.getpid()))
        os.setresuid(61050, 61050, 61050)
        sock = socket.create_connection((ADDRESS4, 25))
        assert sock.recv(100) == b"220 hello\r\n"  # what is left unread has the kernel hang up at once
        sock.sendall(b"z" * 50_000)

    with sink():
        child = os.fork()
        if child == 0:
            try:
                client()
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        _, reports = read_until(lab, is_over)
    assert reports[-1].kind == "closed"
    assert reports[-1].bytes_sent == 50_000
    assert reports[-1].uid == 61050


def test_a_socket_that_connects_again_is_another_attempt(lab: Lab) -> None:
    def client() -> None:
        with socket.socket() as sock:
            sock.connect_ex((ADDRESS4, 25))
            sock.connect_ex((ADDRESS4, 587))

    run_as(random_uid(), lab.cgroup, client)
    (first, second), reports = read_until(lab, lambda reports: len(reports) == 2)
    assert first.cookie == second.cookie
    assert [(r.connect_time_ns, r.port) for r in reports] == [(first.time_ns, 25), (second.time_ns, 587)]


def test_a_container_is_told_apart(lab: Lab) -> None:
    uid = random_uid()

    def client() -> None:
        unshare_net()
        os.setresuid(uid, uid, uid)
        dial()

    run_as(0, lab.cgroup, client)
    (connect,), (report,) = read_until(lab, is_over)
    assert report.netns == connect.netns
    assert report.netns is not None


def test_other_ports_and_refused_attempts_have_no_outcome(lab: Lab) -> None:
    uid = random_uid()
    lab.source.guard.set_enforcing(on=True)
    BpfDeny(lab.source.guard).apply_deny(block(uid))
    dials(uid, lab.cgroup, ADDRESS4)
    dials(uid + 1, lab.cgroup, ADDRESS4, port=80)
    lab.events()
    assert lab.source.take_reports() == []


def test_reports_that_nobody_takes_are_bounded(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    from collections import deque

    monkeypatch.setattr("smtpguard.sources.bpf.source.MAX_REPORTS", 3)
    lab.source._reports = deque(maxlen=3)
    before = boottime_ns()
    dials(random_uid(), lab.cgroup, *[ADDRESS4] * 5)
    lab.events()
    reports = lab.source.take_reports()
    assert len(reports) == 3
    assert lab.source.stats.notes == {"reports dropped": 2}
    assert all(report.time_ns > before for report in reports)


def test_sessions_that_were_open_before_us_are_adopted(lab: Lab) -> None:
    uid = random_uid()
    lab.source.close()
    with sink():
        child_end, our_end = socket.socketpair()

        def client() -> None:
            sock = socket.create_connection((ADDRESS4, 25))
            sock.sendall(b"a" * 500)
            our_end.close()
            while child_end.recv(1):
                sock.sendall(b"b" * 300)
                child_end.sendall(b".")
            sock.close()

        thread = threading.Thread(target=lambda: run_as(uid, lab.cgroup, client))
        thread.start()
        while not (sockets := list_sessions()):
            time.sleep(0.01)
        lab.source.open()
        _, (report,) = read_until(lab, bool)
        assert (report.kind, report.uid, report.bytes_sent) == ("open", uid, 500)
        assert (report.cookie, report.connect_time_ns, report.netns) == (sockets[0].cookie, None, None)
        our_end.sendall(b".")
        our_end.recv(1)
        _, (report,) = read_until(lab, bool)
        assert (report.kind, report.bytes_sent) == ("open", 800)
        child_end.close()
        our_end.close()
        thread.join(10)
        _, (report,) = read_until(lab, bool)
        assert (report.kind, report.bytes_sent) == ("closed", 800)


def test_what_begins_while_older_sessions_are_looked_for_is_told_of_once(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    find, has_begun = ExistingSessions._find, threading.Event()

    def find_late(self: ExistingSessions, now_ns: int, is_followed: IsFollowed) -> list[SocketReport]:
        has_begun.wait(20)
        return find(self, now_ns, is_followed)

    monkeypatch.setattr(ExistingSessions, "_find", find_late)
    lab.source.revive()
    (ready, tell), (gate, opener) = os.pipe(), os.pipe()

    def client() -> None:
        with socket.create_connection((ADDRESS4, 25)) as sock:
            assert sock.recv(100) == b"220 hello\r\n"
            os.write(tell, b"+")
            os.read(gate, 1)

    with sink():
        finish = begin_as(random_uid(), lab.cgroup, client)
        os.read(ready, 1)
        has_begun.set()
        adopted = lab.source._adopted
        assert adopted is not None
        adopted._beside.wait(20)
        os.write(opener, b"+")
        finish()
        _, reports = read_until(lab, is_over)
    for descriptor in (ready, tell, gate, opener):
        os.close(descriptor)
    lab.source._next_check_ns = 0
    lab.events()
    reports += lab.source.take_reports()
    assert kinds(reports) == ["established", "closed"]
    assert [report for report in reports if report.connect_time_ns is None] == []


def list_sessions() -> list[Session]:
    with SockDiag() as diag:
        sessions = diag.read_sessions({25}, totals=True)
    return [session for session in sessions if session.totals and session.totals.bytes_sent > 500]
