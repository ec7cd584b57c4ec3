"""Attack: connections from a control group whose memory is all used, so that the kernel can't note them.

What BPF programs keep is charged to the guard, who made the maps: no limit of a tenant's keeps it from being made.
"""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.host import OTHER, Host, wait_for
from tests.support.processes import remove_cgroup

pytestmark = pytest.mark.kernel

CONTROLLER = Path("/sys/fs/cgroup/memory")
LIMIT_BYTES = 14 << 20
RULES = [
    {"name": "burst", "count": "connections", "limit": 20, "window": "10m", "action": "block", "block": "10m"},
    {"name": "nets", "count": "networks", "limit": 30, "window": "10m", "action": "throttle"},
]
FULL = """
import json, os, socket, sys
uid, group = int(sys.argv[1]), sys.argv[2]
open(group + "/cgroup.procs", "w").write(str(os.getpid()))
os.setgroups([]); os.setgid(uid); os.setuid(uid)
sockets, hog = [socket.socket() for _ in range(60)], []
def read(name):
    return int(open(group + "/memory." + name).read())
while read("usage_in_bytes") < read("limit_in_bytes") - 16384 and len(hog) < 4000:
    hog.append(bytearray(8192))
errors = []
for number, sock in enumerate(sockets):
    sock.setblocking(False)
    errors.append(sock.connect_ex((f"198.18.{number}.1", 25)))
print(json.dumps([errors.count(1), read("failcnt")]))
"""


@pytest.fixture
def group() -> Iterator[Path]:
    """A control group with next to no memory."""
    if not (CONTROLLER / "memory.limit_in_bytes").exists():
        pytest.skip("lacks the memory controller of cgroup v1")
    path = CONTROLLER / f"smtpguard-test-{os.getpid()}"
    path.mkdir()
    (path / "memory.limit_in_bytes").write_text(str(LIMIT_BYTES))
    yield path
    wait_for(lambda: remove_cgroup(path))


def test_a_limit_holds_where_the_tenants_memory_is_used_up(group: Path) -> None:
    with Host(rules=RULES) as host:
        host.start()
        done = host.lab.run([sys.executable, "-S", "-c", FULL, str(OTHER[1]), str(group)], inside=True)
        refused, failed = json.loads(done.stdout)
        assert failed, "there was memory left"
        assert refused == 40
        assert [row["USER"] for row in wait_for(lambda: host.events("BLOCK"))] == [OTHER[0]]
