"""Attack 4: a stranger calls a customer's server from port 25, and the customer is taken for one who calls port 25."""

import json
import os
import socket
import subprocess
import time

import pytest

from smtpguard.clock import boottime_ns
from smtpguard.demo.lab import PEER4
from smtpguard.settings import Settings
from smtpguard.sources.bpf.existing_sessions import ExistingSessions
from smtpguard.sources.proc import ProcSource
from tests.kernel.bpf_lab import ADDRESS4, OTHER4, private_netns
from tests.support.host import CLIENT, SPAMMER, Host, wait_for
from tests.support.proc_looks import look_now

pytestmark = pytest.mark.kernel
UID = 61001


def customer_server() -> socket.socket:
    """A server of the customer's: its sockets are theirs."""
    before = os.geteuid()
    os.seteuid(UID)
    try:
        return socket.create_server((ADDRESS4, 8080))
    finally:
        os.seteuid(before)


def call(source_port: int, server: socket.socket) -> tuple[socket.socket, socket.socket]:
    stranger = socket.socket()
    stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    stranger.bind((OTHER4, source_port))
    stranger.connect((ADDRESS4, 8080))
    before = os.geteuid()
    os.seteuid(UID)
    try:
        return stranger, server.accept()[0]
    finally:
        os.seteuid(before)


def test_proc_takes_no_session_that_the_peer_opened() -> None:
    with private_netns():
        source = ProcSource(Settings())
        source.open()
        server = customer_server()
        calls = [call(port, server) for port in (25, 587)]
        time.sleep(0.05)
        assert look_now(source) == []
        mine = socket.create_server((OTHER4, 2525))
        caller = socket.create_connection((OTHER4, 2525))
        assert [connect.port for connect in look_now(source)] == [2525], "who calls is a caller"
        for sock in (*[end for pair in calls for end in pair], mine, caller, server):
            sock.close()
        source.close()


def test_proc_takes_none_either_where_the_listener_is_gone() -> None:
    """Passive FTP: a listener for each session, closed right after the accept."""
    with private_netns():
        source = ProcSource(Settings())
        source.open()
        server = customer_server()
        stranger, accepted = call(25, server)
        server.close()
        time.sleep(0.05)
        assert look_now(source) == []
        accepted.sendall(b"x" * 10_000)
        stranger.recv(1 << 20)
        time.sleep(0.15)
        assert look_now(source) == [], "nor when it has spoken"
        mine = socket.create_server((OTHER4, 2525))
        caller = socket.create_connection((OTHER4, 2525))
        caller.sendall(b"x" * 10_000)
        assert [connect.port for connect in wait_for(lambda: look_now(source))] == [2525]
        hidden = socket.create_connection((OTHER4, 2525))
        mine.accept()[0].close()  # a reset, maybe, and a FIN
        found = wait_for(lambda: look_now(source))
        assert [connect.port for connect in found] == [2525], "the caller's end, whatever the peer does"
        for sock in (stranger, accepted, mine, caller, hidden):
            sock.close()
        source.close()


def test_what_is_never_acknowledged_is_nobodys_attempt() -> None:
    """Who called can't be told while something is under way: it is looked at again, and let go after a while."""
    with private_netns():
        source = ProcSource(Settings())
        source.open()
        server = customer_server()
        stranger, accepted = call(25, server)
        server.close()
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        accepted.settimeout(1)
        subprocess.run(["ip", "link", "set", "lo", "down"], check=True, timeout=10)
        accepted.send(b"x" * 100)
        for _ in range(12):
            time.sleep(0.05)
            assert look_now(source) == []
        stranger.close()
        accepted.close()
        source.close()


def test_adopted_sessions_are_nobodys_where_the_listener_is_gone() -> None:
    with private_netns():
        server = customer_server()
        stranger, accepted = call(587, server)
        server.close()
        adopted = ExistingSessions({25, 587}, boottime_ns())
        assert adopted.adopt(boottime_ns(), lambda _cookie, _storage: False) == []
        for sock in (stranger, accepted):
            sock.close()
        adopted.close()


def test_no_bytes_of_a_session_that_the_peer_opened_before_us() -> None:
    with private_netns():
        server = customer_server()
        stranger, accepted = call(25, server)
        adopted = ExistingSessions({25, 587}, boottime_ns())
        assert adopted.adopt(boottime_ns(), lambda _cookie, _storage: False) == []
        accepted.sendall(b"x" * 100_000)
        assert adopted.poll(boottime_ns() + 2_000_000_000) == []
        for sock in (stranger, accepted, server):
            sock.close()
        adopted.close()


BURST = {"name": "burst", "count": "connections", "limit": 3, "window": "10m", "action": "block", "block": "10m"}


@pytest.mark.parametrize("sources", [["bpf", "proc"], ["proc"]], ids=" and ".join)
def test_nobody_is_stopped_on_the_word_of_proc_alone_beside_a_better_source(sources: list[str]) -> None:
    """Outside of what bpf watches: only proc sees it. Without bpf the operator has chosen to go by it."""
    with Host(rules=[BURST], sources=sources) as host:
        host.start()
        words = ["session", "--uid", str(SPAMMER[1]), "--seconds", "3", "--port", "25", PEER4]
        alone = [host.lab.start([*CLIENT, *words]) for _ in range(6)]
        (told,) = wait_for(lambda: host.events("EXCEEDED"))
        assert (told["USER"], told["SENSOR"]) == (SPAMMER[0], "proc")
        for child in alone:
            child.communicate(timeout=20)
        if "bpf" not in sources:
            assert told["MODE"] == "enforce"
            return
        assert told["MODE"] == "dry-run"
        rows = json.loads(host.cli("blocks", "--json").stdout)
        assert [row for row in rows if row["mode"] == "enforce"] == []
        tried = host.connect(SPAMMER, 5)
        assert (tried.ok, tried.refused) == (3, 2), "the windows are as they were"
