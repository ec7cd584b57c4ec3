"""Attack: a socket that is given to a subordinate uid by fchown(), so that sock_diag shows it as somebody else's.

In a user namespace of their own a tenant may give away what is theirs, to every uid of their range: the `proc` source
and the end of open sessions go by the uid that sock_diag shows.
"""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from smtpguard.demo.lab import PEER4
from tests.support.host import SPAMMER, SUBUIDS, Host, wait_for

pytestmark = pytest.mark.kernel

RULE = {"name": "many", "count": "connections", "limit": 3, "window": "10m", "action": "block", "block": "10m"}
GIVER = """
import ctypes, os, socket, sys
uid, address = int(sys.argv[1]), sys.argv[2]
os.setgroups([]); os.setresgid(uid, uid, uid); os.setresuid(uid, uid, uid)
libc = ctypes.CDLL(None)
assert libc.unshare(0x10000000) == 0
libc.prctl(4, 1, 0, 0, 0)
print("map me", flush=True)
kept = []
for line in sys.stdin:
    sock = socket.socket()
    kept.append(sock)
    os.fchown(sock.fileno(), 7 + len(kept), -1)
    sock.settimeout(5)
    try:
        sock.connect((address, 25))
        sock.settimeout(None)
        print("open", flush=True)
    except OSError as error:
        print("refused", flush=True)
ended = 0
for sock in kept:
    try:
        sock.settimeout(5)
        while sock.recv(4096):
            pass
        ended += 1
    except TimeoutError:
        pass
    except OSError:
        ended += 1
print(ended, flush=True)
"""


@pytest.fixture(params=["bpf", "nflog", "proc"])
def host(request: pytest.FixtureRequest) -> Iterator[Host]:
    with Host(rules=[RULE], sources=[request.param]) as host:
        host.start()
        yield host


def test_it_counts_for_who_made_it_and_ends_with_their_block(host: Host) -> None:
    words = [sys.executable, "-c", GIVER, str(SPAMMER[1]), PEER4]
    child = subprocess.Popen(
        host.lab.argv(words, inside=True), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    assert child.stdin is not None
    assert child.stdout is not None
    assert child.stdout.readline() == "map me\n"
    # As newuidmap(1) does for everybody who has a line in /etc/subuid.
    for name in ("uid_map", "gid_map"):
        Path(f"/proc/{child.pid}/{name}").write_text(f"0 {SPAMMER[1]} 1\n1 {SUBUIDS[0]} 60000\n")
    for number in range(3):
        child.stdin.write("\n")
        assert child.stdout.readline() == "open\n"
        wait_for(lambda number=number: len(host.events("CONNECT")) == number + 1)  # type: ignore[misc]
    child.stdin.write("\n")
    child.stdout.readline()
    blocked = wait_for(lambda: host.events("BLOCK"))
    assert [row["USER"] for row in blocked] == [SPAMMER[0]]
    text, _ = child.communicate(timeout=30)
    assert text == "4\n", "all have ended"
