"""Attack 8: a session that a user opened on somebody else's socket, so that a block of the user does not end it."""

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from smtpguard.actions.base import Exemptions
from smtpguard.actions.session_walk import MAX_FOUND, EndRequest, Matcher, WantedSessions, end_sessions
from smtpguard.decode.netlink.sock_diag import AF_INET, ESTABLISHED, Session
from smtpguard.kernel.openers import Opener
from tests.support.attackers import begin_crowd
from tests.support.host import INNOCENT, OTHER, ROOT, SPAMMER, SUBUIDS, Host, wait_for

RULE = {"name": "many", "count": "connections", "limit": 500_000, "window": "1h", "action": "block"}
PEER = {4: "192.0.2.2", 6: "2001:db8:1::2"}

# Makes sockets as one user, hands them over as `way` says, and connects them as another; then only listens.
LENT = """
import errno, os, select, socket, struct, sys
maker, user, way, address, count = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4], int(sys.argv[5])
def become(uid):
    os.setgroups([]); os.setresgid(uid, uid, uid); os.setresuid(uid, uid, uid)
def make():
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.socket(family, socket.SOCK_STREAM, 262 if way == "mptcp" else 0)
if way == "inherited":
    os.setresuid(-1, maker, 0)
    lent = [make() for _ in range(count)]
    os.setresuid(0, 0, 0)
else:
    here, there = socket.socketpair()
    if os.fork() == 0:
        become(maker)
        for _ in range(count):
            with make() as sock:
                socket.send_fds(there, [b"x"], [sock.fileno()])
                there.recv(1)
        os._exit(0)
    lent = []
    for _ in range(count):
        lent += [socket.socket(fileno=fd) for fd in socket.recv_fds(here, 1, 1)[1]]
        here.send(b"x")
    os.wait()
become(user)
for sock in lent:
    if way == "filled":
        try:
            number = 0
            while True:
                number += 1
                ipv4, ipv6 = struct.pack("=HHI", 2, 0, number), struct.pack("=HHIIIII", 10, 0, 0, 9, 9, 9, number)
                peer = (ipv6 if ":" in address else ipv4).ljust(128, bytes(1))
                sock.setsockopt(6, 14, peer + struct.pack("=BBHi", 0, 0, 1, 0) + b"k".ljust(80, bytes(1)))
        except OSError:
            assert number > 10
    sock.connect((address, 25))
    if way == "bound":
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"sg0")
print("open", flush=True)
ends = []
for sock in lent:
    try:
        while sock.recv(4096):
            pass
        ends.append("closed")
    except OSError as error:
        ends.append(errno.errorcode[error.errno])
print(*sorted(set(ends)), len(ends), flush=True)
"""


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with Host(rules=[RULE], attribution={"process": False, "rdns": False}) as host:
        host.start()
        yield host


def begin(host: Host, maker: int, user: int, way: str, address: str, count: int = 1) -> Any:  # noqa: ANN401
    words = [sys.executable, "-c", LENT, str(maker), str(user), way, address, str(count)]
    child = host.lab.start(words, inside=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "open\n"
    return child


@pytest.mark.kernel
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("way", ["sent", "inherited", "filled", "bound", "mptcp"])
def test_a_session_on_an_accomplices_socket_ends_with_the_block(host: Host, way: str, version: int) -> None:
    address = PEER[version]
    lent = begin(host, OTHER[1], SPAMMER[1], way, address)
    by_root = begin(host, ROOT[1], SPAMMER[1], way, address)
    inside = begin(host, OTHER[1], SUBUIDS[0] + 7, way, address)
    others = [
        begin(host, OTHER[1], OTHER[1], "sent", address),
        begin(host, OTHER[1], INNOCENT[1], "sent", address),
        begin(host, OTHER[1], ROOT[1], "sent", address),
    ]
    try:
        assert host.cli("block", SPAMMER[0]).returncode == 0
        for child in (lent, by_root, inside):
            assert child.communicate(timeout=10)[0] == "ECONNABORTED 1\n"
        assert [child.poll() for child in others] == [None] * 3
    finally:
        host.cli("unblock", SPAMMER[0])
        for child in others:
            child.kill()
            child.wait()


@pytest.mark.kernel
def test_what_the_owner_of_the_socket_lent_ends_with_the_owners_block_too(host: Host) -> None:
    lent = begin(host, SPAMMER[1], INNOCENT[1], "sent", PEER[4])
    assert host.cli("block", SPAMMER[0]).returncode == 0
    assert lent.communicate(timeout=10)[0] == "ECONNABORTED 1\n"
    assert host.cli("unblock", SPAMMER[0]).returncode == 0


@pytest.mark.kernel
def test_what_is_known_of_a_thousand_of_them_is_with_the_sockets(host: Host) -> None:
    """And not in the daemon's memory."""
    assert host.daemon is not None
    begin(host, OTHER[1], SPAMMER[1], "sent", PEER[4]).kill()
    before = read_resident(host.daemon.pid)
    many = begin(host, OTHER[1], SPAMMER[1], "sent", PEER[4], 1000)
    time.sleep(1)
    grown = read_resident(host.daemon.pid) - before
    assert host.cli("block", SPAMMER[0]).returncode == 0
    assert many.communicate(timeout=20)[0] == "ECONNABORTED 1000\n"
    assert host.cli("unblock", SPAMMER[0]).returncode == 0
    print(f"1000 sessions on lent sockets: {grown} kB")
    assert grown < 2000


def read_resident(pid: int) -> int:
    """In kB."""
    [line] = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1])


@pytest.mark.kernel
def test_what_was_open_before_the_guard_is_known_by_who_made_the_socket_alone(host: Host) -> None:
    """The program was not there to see who opened it: docs/threats.md says so."""
    lent = begin(host, OTHER[1], SPAMMER[1], "sent", PEER[4])
    own = begin(host, SPAMMER[1], SPAMMER[1], "sent", PEER[4])
    assert host.stop() == 0
    host.start()
    assert host.cli("block", SPAMMER[0]).returncode == 0
    assert own.communicate(timeout=10)[0] == "ECONNABORTED 1\n"
    assert lent.poll() is None
    assert host.cli("block", OTHER[0]).returncode == 0
    assert lent.communicate(timeout=10)[0] == "ECONNABORTED 1\n"
    for user in (SPAMMER, OTHER):
        assert host.cli("unblock", user[0]).returncode == 0


class Many:
    """sock_diag with very many sockets, of which it keeps none."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.most_known = 0

    def sessions(self, ports: frozenset[int], *, is_wanted: Any, **_: Any) -> Iterator[Session]:  # noqa: ANN401
        del ports
        for cookie in range(self.count):
            if is_wanted(1002, cookie, None):
                yield replace(SESSION, cookie=cookie)
            self.most_known = max(self.most_known, len(is_wanted.__self__.openers))

    def destroy(self, session: Session) -> bool:
        del session
        return True


SESSION = Session(
    family=AF_INET,
    state=ESTABLISHED,
    source=bytes(4),
    source_port=1,
    address=bytes([192, 0, 2, 2]),
    port=25,
    interface=0,
    cookie=0,
    uid=1002,
    inode=1,
)


class Known:
    """Every session was opened by one user."""

    storage_fd = None

    def look(self) -> Any:  # noqa: ANN401
        return lambda cookie, storage: Opener(uid=1001, owner=1001)  # noqa: ARG005


def test_a_walk_keeps_no_more_than_it_says() -> None:
    kernel = Many(MAX_FOUND // 4)
    wanted = WantedSessions([EndRequest(who=1001, uids=((1001, 1001),), ports=frozenset({25}), until_ns=None)])
    assert end_sessions(kernel, wanted, Matcher(Exemptions()), openers=Known()) == MAX_FOUND // 4  # type: ignore[arg-type]
    assert kernel.most_known <= 1


@pytest.mark.kernel
@pytest.mark.long
def test_more_than_100_000_sessions_at_a_block() -> None:
    """Further attack: as many as one walk was once bounded by, and some more."""
    with Host(rules=[RULE], ports=[25, 2626], attribution={"process": False, "rdns": False}) as host:
        host.start()
        addresses = [f"198.18.0.{number}" for number in range(1, 9)]
        begin_crowd(host, SPAMMER[1], 105_000, addresses, port=2626, at_peer=True)
        assert host.cli("block", SPAMMER[0]).returncode == 0
        begun = time.monotonic()
        wait_for(lambda: "open sessions ended up to" in host.stderr(), 120)
        status = json.loads(host.cli("status", "--json").stdout)
        print(f"{time.monotonic() - begun:.1f} s; worst stall {status['worst_stall_ms']} ms")
        print([line for line in host.stderr().splitlines() if "open sessions ended" in line])
        left = host.lab.run(["ss", "-Htn", "state", "established", "dport = :2626"])
        assert left.stdout == ""
        assert status["worst_stall_ms"] < 150
