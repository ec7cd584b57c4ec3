"""Attack: packets of a container's own making (raw and packet sockets, lxc-user-nic's veth), past every socket hook.

Accepted, see docs/threats.md: they pass no socket of the host and count for nobody. A forward chain stops them.
"""

import socket
import struct
from collections.abc import Iterator

import pytest

from tests.support.evasion_lab import Course, inside
from tests.support.host import SPAMMER, Host, wait_for

pytestmark = pytest.mark.kernel

FORWARD = (
    "table inet containers { chain forward { type filter hook forward priority 0; tcp dport { 25, 465, 587 } drop; }; }"
)
SOURCE, INTO = "198.51.100.2", "198.18.9."
RULE = {"name": "any", "count": "connections", "limit": 0, "window": "10m", "action": "block", "block": "10m"}


@pytest.fixture(scope="module")
def scene() -> Iterator[tuple[Host, Course]]:
    with Host(rules=[RULE]) as host:
        course = Course(host.lab)
        try:
            host.start()
            yield host, course
        finally:
            course.close()


def render_syn(address: str) -> bytes:
    """An IPv4 packet that opens a connection to port 25."""
    source, destination = socket.inet_aton(SOURCE), socket.inet_aton(address)
    tcp = struct.pack("!HHIIBBHHH", 40_000, 25, 1, 0, 5 << 4, 2, 64_000, 0, 0)
    pseudo = source + destination + struct.pack("!BBH", 0, 6, len(tcp)) + tcp
    total = sum(struct.unpack(f"!{len(pseudo) // 2}H", pseudo))
    total = (total & 0xFFFF) + (total >> 16)
    tcp = tcp[:16] + struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF) + tcp[18:]
    return struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(tcp), 0, 0, 64, 6, 0, source, destination) + tcp


def send_raw(course: Course, address: str) -> None:
    """As root of the container."""
    with inside(course.container.path), socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        raw.sendto(render_syn(address), (address, 0))


def test_they_pass_unseen_until_a_chain_of_the_operator_stops_them(scene: tuple[Host, Course]) -> None:
    host, course = scene
    send_raw(course, INTO + "1")
    assert socket.inet_aton(INTO + "1") in course.wire.read()
    attempt = course.run("container", SPAMMER[1])
    assert attempt.left, "a container is not refused"
    seen = wait_for(lambda: [row["DST"] for row in host.events("EXCEEDED")])
    assert seen == [socket.inet_ntoa(attempt.address)], "what is not a socket's counts for nobody"
    host.nft(*FORWARD.split())
    send_raw(course, INTO + "2")
    attempt = course.run("container", SPAMMER[1])
    assert not attempt.left
    assert course.wire.read() == set()
