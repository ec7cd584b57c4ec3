"""Attack 4: a stranger calls a customer's server from port 25, and the customer is taken for one who calls port 25."""

import os
import socket
import time

import pytest

from smtpguard.clock import boottime_ns
from smtpguard.settings import Settings
from smtpguard.sources.bpf.existing_sessions import Adopted
from smtpguard.sources.proc import ProcSource
from tests.kernel.bpf_lab import ADDRESS4, OTHER4, private_netns

pytestmark = pytest.mark.kernel
UID = 61001


def customer_server() -> socket.socket:
    """A server of the customer's: its sockets are his."""
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
        assert source.read() == []
        mine = socket.create_server((OTHER4, 2525))
        caller = socket.create_connection((OTHER4, 2525))
        assert [connect.port for connect in source.read()] == [2525], "who calls is a caller"
        for sock in (*[end for pair in calls for end in pair], mine, caller, server):
            sock.close()
        source.close()


def test_no_bytes_of_a_session_that_the_peer_opened_before_us() -> None:
    with private_netns():
        server = customer_server()
        stranger, accepted = call(25, server)
        adopted = Adopted({25, 587}, boottime_ns())
        assert adopted.adopt(boottime_ns(), lambda _: False) == []
        accepted.sendall(b"x" * 100_000)
        assert adopted.poll(boottime_ns() + 2_000_000_000) == []
        for sock in (stranger, accepted, server):
            sock.close()
        adopted.close()
