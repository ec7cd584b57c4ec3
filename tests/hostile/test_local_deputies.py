"""Attack: somebody else's program of this host connects for the attacker: an open proxy, a hole in a victim's site.

The kernel sees who connects, and nobody can see for whom. What can be told apart is: a shared account's proxy is told
of and not refused, unless the operator lists it; a victim's site is stopped like any hacked site, and nobody else is.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from smtpguard.demo.lab import PEER4
from tests.support.host import INNOCENT, OTHER, SPAMMER, Host, wait_for

pytestmark = pytest.mark.kernel

RULE = {"name": "burst", "count": "connections", "limit": 5, "window": "10m", "action": "block", "block": "10m"}
DEPUTY = """
import os, socket, sys
uid, peer = int(sys.argv[1]), sys.argv[2]
os.setgroups([]); os.setgid(uid); os.setuid(uid)
listener = socket.create_server(("127.0.0.1", 3128))
print("ready", flush=True)
while True:
    caller, _ = listener.accept()
    try:
        with socket.create_connection((peer, 25), 5):
            caller.sendall(b"ok")
    except OSError:
        caller.sendall(b"no")
    caller.close()
"""
ASK = """
import os, socket, sys
uid, count = int(sys.argv[1]), int(sys.argv[2])
os.setgroups([]); os.setgid(uid); os.setuid(uid)
for _ in range(count):
    with socket.create_connection(("127.0.0.1", 3128), 5) as sock:
        print(sock.recv(2).decode(), end=" ")
"""


@contextmanager
def deputy(**settings: Any) -> Iterator[Host]:  # noqa: ANN401 - YAML values
    with Host(rules=[RULE], **settings) as host:
        host.start()
        child = host.lab.start([sys.executable, "-c", DEPUTY, str(OTHER[1]), PEER4], inside=True)
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        yield host


def ask(host: Host, count: int) -> list[str]:
    """What becomes of so many questions of the attacker's to the deputy."""
    done = host.lab.run([sys.executable, "-c", ASK, str(SPAMMER[1]), str(count)], inside=True)
    return str(done.stdout).split()


def told(host: Host) -> tuple[str, str]:
    (row,) = wait_for(lambda: host.events("EXCEEDED"))
    return row["USER"], row["MODE"]


def test_a_proxy_of_a_shared_account_is_told_of() -> None:
    with deputy(shared_users={"users": [OTHER[0]], "block": []}) as host:
        assert ask(host, 10) == ["ok"] * 10
        assert told(host) == (OTHER[0], "dry-run")
        assert host.connect(SPAMMER).ok == 1, "nobody can tell who had it connect"


def test_a_proxy_that_the_operator_lists_is_stopped() -> None:
    with deputy(shared_users={"users": [OTHER[0]], "block": [OTHER[0]]}) as host:
        assert ask(host, 10) == ["ok"] * 5 + ["no"] * 5
        assert told(host) == (OTHER[0], "enforce")


def test_a_hole_in_a_victims_site_stops_the_victim_and_nobody_else() -> None:
    with deputy() as host:
        assert ask(host, 10) == ["ok"] * 5 + ["no"] * 5
        assert told(host) == (OTHER[0], "enforce")
        for user in (SPAMMER, INNOCENT):
            assert host.connect(user).ok == 1
