"""Attack: network namespaces of one's own, each of them somebody new, to push what is known of others out of memory."""

import json
import sys

import pytest

from tests.support.host import INNOCENT, OTHER, SPAMMER, Host

pytestmark = pytest.mark.kernel

RULE = {"name": "burst", "count": "connections", "limit": 20, "window": "10m", "action": "block", "block": "10m"}
# A user namespace is free for everybody, and a network namespace in it too; nothing is routed there.
NAMESPACES = """
import ctypes, os, socket, sys
uid, count = int(sys.argv[1]), int(sys.argv[2])
os.setgroups([]); os.setgid(uid); os.setuid(uid)
libc = ctypes.CDLL(None)
made = 0
for _ in range(count):
    reader, writer = os.pipe()
    if os.fork() == 0:
        if libc.unshare(0x10000000 | 0x40000000) == 0:
            with socket.socket() as client:
                client.setblocking(False)
                client.connect_ex(("198.18.0.1", 25))
            os.write(writer, b"x")
        os._exit(0)
    os.close(writer)
    made += os.read(reader, 1) == b"x"
    os.close(reader)
    os.wait()
print(made)
"""


def test_what_is_known_of_others_stays() -> None:
    with Host(rules=[RULE], attribution={"process": False, "rdns": False}) as host:
        host.start()
        assert host.connect(INNOCENT, 15).ok == 15
        assert host.connect(OTHER, 30).ok == RULE["limit"]
        done = host.lab.run([sys.executable, "-c", NAMESPACES, str(SPAMMER[1]), "500"], inside=True)
        assert done.returncode == 0, done.stderr
        assert int(done.stdout) > 400
        assert host.connect(INNOCENT, 10).ok == 5, "their window holds what it held"
        assert host.connect(OTHER, 5).ok == 0, "and a block stays one"
        assert host.connect(SPAMMER, 30).ok == RULE["limit"], "and the attacker's own is none the wider"
        status = json.loads(host.cli("status", "--json").stdout)
        print(f"{done.stdout.strip()} namespaces: worst stall {status['worst_stall_ms']} ms")
