"""Attack 2: 99,000 idle sessions to a guarded port, open before the guard: whoever walks over them stalls."""

import json
import sys
import time

import pytest

from smtpguard.demo.lab import HOST4
from smtpguard.kernel.sock_diag import SockDiag
from smtpguard.sources.bpf.existing_sessions import share_out
from tests.kernel.bpf_lab import ADDRESS4, private_netns
from tests.support.attackers import begin_crowd
from tests.support.host import INNOCENT, OTHER, SPAMMER, Host, wait_for
from tests.support.standstill import Standstill

pytestmark = pytest.mark.kernel

RULE = {"name": "burst", "count": "connections", "limit": 10, "window": "10m", "action": "block", "block": "10m"}
STALL_MS = 3 * 50  # three times the bar
SILENT = """
import errno, os, socket, sys
uid = int(sys.argv[1])
os.setgroups([]); os.setgid(uid); os.setuid(uid)
client = socket.create_connection(("192.0.2.2", 25))
print("open", flush=True)
try:
    while client.recv(4096):
        pass
    print("closed")
except OSError as error:
    print(errno.errorcode[error.errno])
"""


def attack(count: int, addresses: list[str]) -> None:
    with Host(rules=[RULE]) as host, Standstill() as standstill:
        for address in addresses:
            if address != HOST4 and not address.startswith("127."):
                host.lab.ip(host.lab.host, "address", "add", f"{address}/32", "dev", "lo")
        begin_crowd(host, SPAMMER[1], count, addresses)
        host.start()
        host.connect(INNOCENT, 5)
        time.sleep(2.5)  # the sessions were asked about, twice
        spam = host.connect(SPAMMER, 60, to=[f"198.18.{number}.1" for number in range(60)])
        assert spam.ok == RULE["limit"]
        assert host.connect(INNOCENT, 5).ok == 5
        session = host.lab.start([sys.executable, "-c", SILENT, str(OTHER[1])], inside=True)
        assert session.stdout is not None
        assert session.stdout.readline() == "open\n"
        assert host.cli("block", OTHER[0]).returncode == 0
        assert session.communicate(timeout=30)[0] == "ECONNABORTED\n", "ended, however many others there are"
        assert host.connect(OTHER).refused == 1
        wait_for(lambda: {row["USER"] for row in host.events("BLOCK")} == {SPAMMER[0], OTHER[0]})
        time.sleep(1)
        status = json.loads(host.cli("status", "--json").stdout)
        late = [line for line in host.stderr().splitlines() if "there are many sockets" in line]
        print(f"{count} sessions: worst stall {status['worst_stall_ms']} ms in {status['worst_stall_in']}; {late}")
        assert status["worst_stall_ms"] < STALL_MS + 1000 * standstill.worst_s(), status["worst_stall_in"]


@pytest.mark.parametrize("addresses", [["127.0.0.1"], [HOST4]], ids=["loopback", "own address"])
def test_idle_sessions_stall_nobody(addresses: list[str]) -> None:
    attack(15_000, addresses)


@pytest.mark.long
@pytest.mark.parametrize(
    "addresses", [[f"127.0.0.{n}" for n in range(1, 9)], [HOST4, "192.0.2.11", "192.0.2.12", "192.0.2.13"]]
)
def test_99_000_idle_sessions_stall_nobody(addresses: list[str]) -> None:
    attack(99_000, addresses)


def test_the_kernel_leaves_loopback_out() -> None:
    import socket

    from tests.kernel.bpf_lab import ADDRESS6

    with private_netns(), SockDiag() as diag:
        server = socket.create_server(("::", 25), family=socket.AF_INET6, dualstack_ipv6=True)
        clients = []
        for address in ("127.0.0.1", "127.9.0.1", ADDRESS4, "::1", ADDRESS6, "::ffff:127.0.0.1", f"::ffff:{ADDRESS4}"):
            client = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
            client.connect((address, 25))
            clients.append(client)
        assert len(diag.read_sessions({25, 587})) == 7
        seen = [
            socket.inet_ntop(socket.AF_INET if len(s.address) == 4 else socket.AF_INET6, s.address)
            for s in diag.read_sessions({25, 587}, loopback=False)
        ]
        assert sorted(seen) == sorted([ADDRESS4, ADDRESS4, ADDRESS6])
        session = diag.read_sessions({25}, loopback=False)[0]
        assert diag.look_again(session) is not None
        assert not diag.is_listened(session)
        clients[2].close()
        clients[6].close()
        clients[4].close()
        again = diag.look_again(session)
        assert again is None or again.state != session.state
        server.close()


def test_who_has_many_sessions_takes_nobodys_place() -> None:
    groups = [["a"] * 90, ["b"] * 3, ["c"] * 50]
    kept = share_out(groups, 43)  # type: ignore[arg-type]
    assert (len(kept), kept.count("a"), kept.count("b"), kept.count("c")) == (43, 20, 3, 20)  # type: ignore[arg-type]


def test_a_session_that_is_bound_to_an_interface_is_no_other_one() -> None:
    """Its bytes went on uncounted, as if it had been closed: nobody needs a capability for that."""
    import socket

    with private_netns(), SockDiag() as diag:
        server = socket.create_server((ADDRESS4, 25))
        client = socket.create_connection((ADDRESS4, 25))
        [session] = diag.read_sessions({25})
        client.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo")
        again = diag.look_again(session)
        assert again is not None
        assert (again.cookie, again.interface) == (session.cookie, socket.if_nametoindex("lo"))
        client.close()
        again = diag.look_again(session)
        assert again is None or again.state != session.state
        server.close()
