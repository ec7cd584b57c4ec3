"""Runs the ways of `evasion` in the laboratory, one forked child each, and looks at the wire for what came out of it.

Each attempt has a destination of its own: by it events and packets are told apart, whoever reports them and when.
"""

import errno
import itertools
import os
import random
import select
import socket
import struct
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from smtpguard.demo import namespaces
from smtpguard.demo.holder import Holder
from smtpguard.demo.lab import HOST4, HOST6, Lab
from tests.support import evasion

PORT = 25
_FENCE = ("198.19.255.254", 9)
_ETH_P_ALL = 3
_SETTLE_S = 10
_INSIDE4, _INSIDE6 = "198.51.100", "2001:db8:3:"
_MAPPED = bytes(10) + b"\xff\xff"


@contextmanager
def inside(path: str) -> Iterator[None]:
    """This thread, and what it opens, is in a network namespace for a while."""
    descriptor = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    namespaces.enter_net(path)
    try:
        yield
    finally:
        namespaces.enter_net(f"/proc/self/fd/{descriptor}")
        os.close(descriptor)


class Container:
    """A network namespace behind the guarded host, which routes for it, as container engines set it up."""

    def __init__(self, lab: Lab) -> None:
        self._holder = Holder()
        self.path = self._holder.path
        try:
            self._connect(lab)
        except BaseException:
            self.close()
            raise

    def _connect(self, lab: Lab) -> None:
        pid = str(self._holder.pid)
        lab.ip(lab.host, "link", "add", "sg2", "type", "veth", "peer", "name", "eth0", "netns", pid)
        for net, link, last in ((lab.host, "sg2", 1), (self.path, "eth0", 2)):
            lab.ip(net, "address", "add", f"{_INSIDE4}.{last}/24", "dev", link)
            lab.ip(net, "address", "add", f"{_INSIDE6}:{last}/64", "dev", link, "nodad")
            lab.ip(net, "link", "set", link, "up")
        lab.ip(self.path, "route", "add", "default", "via", f"{_INSIDE4}.1")
        lab.ip(self.path, "route", "add", "default", "via", f"{_INSIDE6}:1")
        lab.ip(lab.peer, "route", "add", f"{_INSIDE4}.0/24", "via", HOST4)
        lab.ip(lab.peer, "route", "add", f"{_INSIDE6}:/64", "via", HOST6)
        with inside(lab.host):
            for switch in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
                Path("/proc/sys/net", switch).write_text("1", "ascii")

    def close(self) -> None:
        self._holder.close()


class Wire:
    """SYNs as they arrive at the peer: what left the guarded host, whatever anybody says."""

    def __init__(self, lab: Lab) -> None:
        with inside(lab.peer):
            self._tap = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_ALL))
            self._tap.bind(("sg1", _ETH_P_ALL))
        self._tap.setblocking(False)  # noqa: FBT003 - its signature
        with inside(lab.host):
            self._fence = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._marks = itertools.count(1)

    def read(self) -> set[bytes]:
        """Destinations of the SYNs since the last call; what was sent before the call has arrived."""
        mark = struct.pack("!Q", next(self._marks))
        self._fence.sendto(mark, _FENCE)
        found: set[bytes] = set()
        deadline = time.monotonic() + _SETTLE_S
        while True:
            assert select.select([self._tap], [], [], max(0, deadline - time.monotonic()))[0], "the fence was lost"
            packet = self._tap.recv(2048)
            if packet[0] >> 4 == 4:
                protocol, destination, rest = packet[9], packet[16:20], packet[(packet[0] & 15) * 4 :]
            else:
                protocol, destination, rest = packet[6], packet[24:40], packet[40:]
            if protocol == socket.IPPROTO_UDP and rest[8:] == mark:
                return found
            if protocol == socket.IPPROTO_TCP and rest[2:4] == struct.pack("!H", PORT) and rest[13] & 0x17 == 2:
                found.add(destination)

    def close(self) -> None:
        self._tap.close()
        self._fence.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """What became of one attempt.

    Attributes:
        address: Its destination, as events have it.
        error: Name of the errno the program got; None if it met none.
        left: Whether a SYN left the host.
    """

    address: bytes
    error: str | None
    left: bool


class Course:
    """Runs ways in a laboratory.

    Args:
        lab: An open laboratory whose peer has a sink.
    """

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        # Audit tells of the whole machine: another run of this program has other destinations.
        self._numbers = itertools.count(random.randrange(1, 60_000))
        self.wire = Wire(lab)
        self.container = Container(lab)

    def close(self) -> None:
        self.container.close()
        self.wire.close()

    def _destination(self, way: str) -> str:
        number = next(self._numbers)
        if way == "blackhole":
            return f"203.0.113.{number % 254 + 1}"
        if way == "v6":
            return f"2001:db8:2::{number:x}"
        return f"{'::ffff:' if way == 'mapped' else ''}198.18.{number >> 8}.{number & 255}"

    def run(self, way: str, uid: int, look: Callable[[], object] | None = None) -> Attempt:
        """Try one way as a user; `look` is called while the session, if it came to one, is still open."""
        text = self._destination(way)
        packed = socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)
        reader, writer = os.pipe()
        hold, release = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(release)
            self._child(way, text, uid, writer, hold if look else None)
        os.close(writer)
        os.close(hold)
        try:
            answer = os.read(reader, 16)
            if look and answer:
                look()
        finally:
            os.close(release)
            os.close(reader)
            os.waitpid(pid, 0)
        assert answer, f"{way}: the program failed"
        number = int(answer)
        address = packed.removeprefix(_MAPPED)
        return Attempt(
            address=address,
            error=errno.errorcode.get(number, str(number)) if number else None,
            left=address in self.wire.read(),
        )

    def _child(self, way: str, address: str, uid: int, writer: int, hold: int | None) -> None:
        try:
            if self._lab.cgroup:
                namespaces.enter_cgroup(self._lab.cgroup)
            namespaces.enter_net(self._lab.host)
            to = evasion.Target(address, PORT, uid, container=self.container.path, hold=hold)
            number = evasion.begin(way, to)
            os.write(writer, str(number).encode())
            to.linger()
        except BaseException:  # noqa: BLE001 - a child must never come back into the test
            traceback.print_exc()
        finally:
            os._exit(0)
