"""Attack 7: one's own sessions in such numbers that the guard forgets one of them, which then sends uncounted.

What is known of a socket is kept with the socket. Its owner can fill the socket's option memory so that nothing can be
kept there; then a table is used, of which each user has a share, and whose bytes can't be followed at all has sent
more than a rule of bytes lets pass.
"""

import json
import mmap
import socket
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from smtpguard.model import SocketReport
from smtpguard.sources.bpf import maps
from tests.kernel.bpf_lab import ADDRESS4, OTHER4, Lab, begin_as, open_lab, run_as
from tests.support.host import INNOCENT, SPAMMER, Host, wait_for

pytestmark = pytest.mark.kernel

OPTION_MEMORY = Path("/proc/sys/net/core/optmem_max")
MEGABYTE = 1_000_000
SHARE = 1024
"""FOLLOWED_SHARE of layout.bpf.h."""
AT_ONCE = 400
"""Sockets of one process: a shell's limit may be 1,024 files."""
VOLUME = {"name": "volume", "count": "bytes", "limit": MEGABYTE, "window": "1h", "action": "block", "block": "10m"}
FAILING = {"name": "failing", "count": "failures", "limit": 5, "window": "1h", "action": "warn"}
FILLED = """
import struct
def fill(sock):
    # TCP_MD5SIG: a key for each of so many peers that are never called. Everybody may, and each takes some 136 bytes.
    number = 0
    try:
        while True:
            number += 1
            peer = struct.pack("=HHI", 2, 0, number).ljust(128, bytes(1))
            sock.setsockopt(6, 14, peer + struct.pack("=BBHi", 0, 0, 1, 0) + b"k".ljust(80, bytes(1)))
    except OSError:
        assert number > 10
"""
HIDE = (
    FILLED
    + f"""
import os, socket
def open_filled(address, number, then):
    # A process opens some, the next one the rest, while all stay open; `then` is done with the last one of all.
    socks = []
    for _ in range(min(number, {AT_ONCE})):
        sock = socket.socket()
        fill(sock)
        sock.settimeout(10)
        sock.connect((address, 25))
        socks.append(sock)
    if number <= {AT_ONCE}:
        then(socks[-1])
    elif child := os.fork():
        assert os.waitpid(child, 0)[1] == 0
    else:
        status = 1
        try:
            for sock in socks:
                sock.close()
            open_filled(address, number - {AT_ONCE}, then)
            status = 0
        finally:
            os._exit(status)
    return socks
"""
)
_hide: dict[str, Any] = {}
exec(HIDE, _hide)  # noqa: S102 - the same code as the attacker's process runs
open_filled: Callable[[str, int, Callable[[socket.socket], None]], list[socket.socket]] = _hide["open_filled"]


@pytest.fixture
def lab() -> Generator[Lab]:
    with open_lab() as made:
        OPTION_MEMORY.write_text("4096")  # of this network namespace: a thousand sockets are to be filled
        yield made


@contextmanager
def server() -> Generator[None]:
    """Takes sessions on the test's addresses and reads all there is, slowly enough for nobody."""
    listener = socket.create_server(("0.0.0.0", 25), backlog=4096)
    peers: list[socket.socket] = []

    def read(peer: socket.socket) -> None:
        with suppress(OSError):
            while peer.recv(1 << 16):
                pass

    def serve() -> None:
        with suppress(OSError):
            while True:
                peers.append(listener.accept()[0])
                if len(peers) == 1:
                    threading.Thread(target=read, args=(peers[0],), daemon=True).start()
                if len(peers) > AT_ONCE:
                    peers.pop(1).close()  # the caller's half stays open

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for peer in peers:
            peer.close()


def read_all(lab: Lab, *, megabytes: int = 5, checks: bool = False) -> list[SocketReport]:
    """Reports, until so many megabytes were told of: what was sent is acknowledged, and told, a little later.

    Args:
        lab: Whose.
        megabytes: How many.
        checks: Whether the source looks for what is owed at every turn, as it does once in a while.
    """
    reports: list[SocketReport] = []
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if checks:
            lab.source._next_check_ns = 0
        lab.events()
        while some := lab.source.take_reports():
            reports += some
        if told_bytes(reports) >= megabytes * MEGABYTE:
            break
        time.sleep(0.05)
    return reports


def told_bytes(reports: list[SocketReport]) -> int:
    return sum(report.bytes_sent - (report.bytes_told or 0) for report in reports)


def attack(then: Callable[[], None]) -> None:
    """A session, something else, and five megabytes through the session."""
    with socket.create_connection((ADDRESS4, 25), 10) as sock:
        then()
        sock.sendall(b"x" * 5 * MEGABYTE)


def try_unreachable(number: int) -> None:
    """Attempts that end at once and leave their entry behind, of any table that is filled at connect()."""
    for _ in range(number):
        with socket.socket() as sock, suppress(OSError):
            sock.connect(("203.0.113.1", 25))


def test_attempts_of_ones_own_push_nothing_out(lab: Lab) -> None:
    with server():
        run_as(61001, lab.cgroup, lambda: attack(lambda: try_unreachable(20_000)))
        reports = read_all(lab)
    assert 5 * MEGABYTE <= told_bytes(reports) <= 5 * MEGABYTE + 1, "a FIN may count as one"


def test_the_last_report_is_owed_where_it_can_not_be_sent(lab: Lab) -> None:
    made, is_enough = mmap.mmap(-1, 4), mmap.mmap(-1, 1)

    def flood() -> None:
        for number in range(100_000):  # each is reported, and no more than 1,000 a second are
            made[:4] = number.to_bytes(4, "little")
            if number >= 4000 and is_enough[0]:
                return
            with socket.create_connection((OTHER4, 25), 10):
                pass

    with server():
        finish = begin_as(61001, lab.cgroup, lambda: attack(flood))
        wait_for(lambda: lab.source.guard.read_count(maps.COUNT_UNSENT), 30)
        is_enough[0] = 1
        finish()
        reports = read_all(lab, checks=True)
    most = 5 * MEGABYTE + int.from_bytes(made[:4], "little")
    assert 5 * MEGABYTE <= told_bytes(reports) <= most, "a FIN may count as one"


def test_full_option_memory_leaves_a_share_of_a_table(lab: Lab) -> None:
    def hide(number: int) -> None:
        socks = open_filled(ADDRESS4, number, lambda last: last.sendall(b"x" * 1000))
        socks[0].sendall(b"x" * 5 * MEGABYTE)

    with server():
        run_as(61001, lab.cgroup, lambda: hide(SHARE + 20))
        reports = read_all(lab)
    kinds = [report.kind for report in reports if report.kind in ("untracked", "unfollowed")]
    assert kinds.count("untracked") == SHARE
    assert kinds.count("unfollowed") == 20
    told = told_bytes(reports)
    assert 5 * MEGABYTE <= told <= 5 * MEGABYTE + SHARE, (
        "the first one is followed in the table; a FIN may count as one"
    )
    with server():  # all are closed: the share is free again
        run_as(61001, lab.cgroup, lambda: hide(2))
        reports = read_all(lab)
    assert [r.kind for r in reports if r.kind in ("untracked", "unfollowed")] == ["untracked", "untracked"]


SEND = (
    HIDE
    + """
import sys, time
uid, hidden, size = map(int, sys.argv[1:])
os.setuid(uid)
def send(sock):
    sent = 0
    try:
        while sent < size:
            sent += sock.send(b"x" * 50_000)
            time.sleep(0.015 if sent < 2_000_000 else 0.1)  # the guard has its time to end it
    except OSError:
        pass
    print(sent, flush=True)
    sys.stdin.read()
if hidden:
    open_filled("192.0.2.2", hidden, send)
else:
    send(socket.create_connection(("192.0.2.2", 25), 10))
"""
)


def send(host: Host, user: tuple[str, int], *, hidden: int, size: int) -> int:
    """Sends through one session, the last of so many hidden ones; how much there was room for."""
    child = host.lab.start([sys.executable, "-c", SEND, str(user[1]), str(hidden), str(size)], inside=True)
    assert child.stdout is not None
    line = child.stdout.readline()
    child.communicate("", timeout=30)
    return int(line)


@pytest.mark.parametrize("hidden", [1, SHARE + 1], ids=["in the table", "beyond the share"])
def test_with_the_real_guard(hidden: int) -> None:
    with Host(rules=[VOLUME, FAILING]) as host:
        host.start()
        if hidden > 1:
            words = ["sh", "-c", f"echo 4096 > {OPTION_MEMORY}"]
            assert host.lab.start(words, inside=True).wait(10) == 0
        assert send(host, INNOCENT, hidden=0, size=MEGABYTE // 2) == MEGABYTE // 2
        passed = send(host, SPAMMER, hidden=hidden, size=10 * MEGABYTE)
        assert passed < 9 * MEGABYTE, "ended by the block"
        told = wait_for(lambda: [row for row in host.events("EXCEEDED") if row["RULE"] == "volume"])
        assert {row["USER"] for row in told} == {SPAMMER[0]}
        assert host.connect(SPAMMER).ok == 0

        def is_named() -> bool:
            troubles = json.loads(host.cli("status", "--json").stdout)["troubles"]
            return any(f"uid {SPAMMER[1]}" in text and "hides" in text for text in troubles)

        wait_for(is_named)
        assert host.connect(INNOCENT).ok == 1
        if hidden > 5:
            (row,) = wait_for(lambda: [row for row in host.events("EXCEEDED") if row["RULE"] == "failing"])
            assert row["USER"] == SPAMMER[0]
