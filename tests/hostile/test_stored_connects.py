"""Attack: connect() now and the SYN later (TCP_FASTOPEN_CONNECT and _NO_COOKIE), past a block that came between.

Accepted: attempts that were let through may be stored so, and begin all at once; each has been counted in its time.
"""

import subprocess
import sys
from collections.abc import Iterator

import pytest

from smtpguard.demo.lab import PEER4
from tests.support.host import OTHER, SPAMMER, Host, wait_for

pytestmark = pytest.mark.kernel

RULE = {"name": "burst", "count": "connections", "limit": 20, "window": "10m", "action": "block", "block": "10m"}
# Sockets of one user, connected by another; what each hears when the SYN is sent at last.
STORED = """
import os, socket, sys
maker, user, address, count = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
os.setresuid(-1, maker, 0)
stored = [socket.socket() for _ in range(count)]
os.setresuid(0, 0, 0); os.setgroups([]); os.setresgid(user, user, user); os.setresuid(user, user, user)
for sock in stored:
    sock.setsockopt(socket.IPPROTO_TCP, 30, 1)
    sock.setsockopt(socket.IPPROTO_TCP, 34, 1)
    sock.settimeout(5)
connected = 0
for sock in stored:
    try:
        sock.connect((address, 25))
        connected += 1
    except OSError:
        pass
print(connected, flush=True)
sys.stdin.readline()
heard = 0
for sock in stored:
    try:
        sock.sendall(b"EHLO x\\r\\n")
        heard += bool(sock.recv(100))
    except OSError:
        pass
print(heard, flush=True)
"""


@pytest.fixture(scope="module", params=["auto", "nflog"])
def host(request: pytest.FixtureRequest) -> Iterator[Host]:
    with Host(rules=[RULE], sources=request.param if request.param == "auto" else [request.param]) as host:
        host.start()
        yield host


class Stored:
    """Attempts that were let through and have not begun."""

    def __init__(self, host: Host, maker: int, user: int, count: int) -> None:
        words = [sys.executable, "-c", STORED, str(maker), str(user), PEER4, str(count)]
        self.process = subprocess.Popen(
            host.lab.argv(words, inside=True), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.connected = int(self.process.stdout.readline())

    def begin(self) -> int:
        """Send their SYNs; how many hear a server."""
        return int(self.process.communicate("\n", timeout=60)[0])


def test_what_was_stored_does_not_outlive_a_block(host: Host) -> None:
    own = Stored(host, SPAMMER[1], SPAMMER[1], 3)
    assert own.connected == 3
    lent = Stored(host, OTHER[1], SPAMMER[1], 3)
    others = Stored(host, OTHER[1], OTHER[1], 3)
    assert host.cli("block", SPAMMER[0]).returncode == 0
    assert own.begin() == 0
    assert others.begin() == 3
    sees_callers = "bpf" in {row["SENSOR"] for row in wait_for(lambda: host.events("CONNECT"))}
    assert lent.begin() == (0 if sees_callers else 3), "without bpf a socket is its maker's"
    assert host.cli("unblock", SPAMMER[0]).returncode == 0
