"""Attack 15: every port on which a refused sender could be told why is taken: nobody is told, and nobody knows."""

import subprocess
import sys
from collections.abc import Generator
from typing import Any

import pytest

from smtpguard.actions.tell_server import PORTS
from smtpguard.control.client import ask
from tests.support.host import SPAMMER, Host, wait_for

pytestmark = pytest.mark.kernel

RULE = {"name": "burst", "count": "connections", "limit": 2, "window": "10m", "action": "block", "block": "10m"}
TAKE = """
import os, socket, time
taken = []
os.setuid({uid})
for port in range({first}, {last} + 1):
    sock = socket.socket()
    sock.bind(("127.0.0.1", port))
    sock.listen()
    taken.append(sock)
print("taken", flush=True)
time.sleep(600)
"""


def take_all(host: Host) -> subprocess.Popen[str]:
    """Listen on all of them, as a tenant: with this sysctl anybody may (rootless containers are told to set it)."""
    done = host.lab.run(["sysctl", "-qw", "net.ipv4.ip_unprivileged_port_start=0"])
    assert done.returncode == 0, done.stderr
    words = TAKE.format(uid=SPAMMER[1], first=min(PORTS), last=max(PORTS))
    child = host.lab.start([sys.executable, "-c", words], inside=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "taken\n"
    return child


@pytest.fixture
def host() -> Generator[Host]:
    with Host(rules=[RULE], block={"verdict": "tell"}) as host:
        yield host


def troubles(host: Host) -> list[str]:
    found: dict[str, Any] = ask(f"{host.lab.directory}/control.sock", "status")["status"]
    return [text for text in found["troubles"] if "refused senders" in text]


def test_it_is_shown_and_refused_is_refused(host: Host) -> None:
    taker = take_all(host)
    host.start()
    assert troubles(host) == [
        f"refused senders are not told why: ports {min(PORTS)} to {max(PORTS)}: the responder finds no free port"
    ], host.stderr()
    assert "refused senders are not told why" in host.cli("status").stdout
    done = host.connect(SPAMMER, 6)
    assert (done.ok, done.refused) == (2, 4)
    taker.kill()
    taker.wait()
    wait_for(lambda: not troubles(host), 10)
    assert host.stderr().count("refused senders are not told why") == 1
