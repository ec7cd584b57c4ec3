"""What the BPF tests share: a network namespace and a sub-cgroup of their own, and clients with a uid of their own.

Everything a test makes is removed: the namespace with its last process, the cgroup by the fixture.
"""

import ctypes
import encodings.idna  # noqa: F401 - getaddrinfo wants it, and a child of another uid cannot import
import os
import pickle
import random
import socket
import struct
import subprocess
import time
import traceback
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from unittest.mock import patch

from smtpguard.actions.base import Deny
from smtpguard.clock import boottime_ns
from smtpguard.model import NS, Connect, Subject
from smtpguard.settings import Settings
from smtpguard.sources.bpf.cgroup import read_cgroup
from smtpguard.sources.bpf.credit_maps import CreditMaps
from smtpguard.sources.bpf.source import BpfSource

T = TypeVar("T")
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)

ADDRESS4, OTHER4 = "198.51.100.7", "198.51.100.9"
ADDRESS6 = "2001:db8::7"
PORTS = frozenset({25, 465, 587, 2525})
MPTCP = 262


def set_comm(name: bytes) -> None:
    """Name this process (prctl(2), PR_SET_NAME)."""
    _libc.prctl(15, name, 0, 0, 0)


def unshare_user() -> None:
    """Move this process into a user namespace of its own."""
    if _libc.unshare(_CLONE_NEWUSER) != 0:
        raise OSError(ctypes.get_errno(), "unshare")


def unshare_net() -> None:
    """Move this thread into a network namespace of its own, with loopback and the test addresses on it."""
    if _libc.unshare(_CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True, timeout=10)
    for address in (f"{ADDRESS4}/32", f"{OTHER4}/32"):
        subprocess.run(["ip", "addr", "add", address, "dev", "lo"], check=True, timeout=10)
    subprocess.run(["ip", "addr", "add", f"{ADDRESS6}/128", "dev", "lo", "nodad"], check=True, timeout=10)


def drop_capabilities(*keep: int) -> None:
    """Keep only these capabilities (capset(2), version 3)."""
    mask = sum(1 << number for number in keep)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    low, high = mask & 0xFFFFFFFF, mask >> 32
    data = (ctypes.c_uint32 * 6)(low, low, 0, high, high, 0)
    if _libc.capset(header, data) != 0:
        raise OSError(ctypes.get_errno(), "capset")


@contextmanager
def private_netns() -> Generator[None]:
    """A network namespace for the test's thread and its children; the old one afterwards."""
    with Path("/proc/thread-self/ns/net").open("rb") as before:
        try:
            unshare_net()
            yield
        finally:
            if _libc.setns(before.fileno(), _CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "setns")


@contextmanager
def private_cgroup() -> Generator[Path]:
    """A cgroup v2 directory of the test's own."""
    path = read_cgroup("auto") / f"smtpguard-test-{os.getpid()}-{random.randrange(1 << 32):08x}"
    path.mkdir()
    try:
        yield path
    finally:
        for _ in range(100):
            with suppress(OSError):
                path.rmdir()
                break
            time.sleep(0.02)


def random_uid() -> int:
    """A uid without a passwd entry."""
    return random.randrange(61001, 61099)


def begin_as(uid: int, cgroup: Path, function: Callable[[], T]) -> Callable[[], T]:
    """Call a function in a forked child of that uid and cgroup; the call of what is returned waits for its result."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            (cgroup / "cgroup.procs").write_text(str(os.getpid()))
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            os.write(writer, pickle.dumps(function()))
            status = 0
        except BaseException:  # noqa: BLE001 - said by the parent's failing assertion, with this before it
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(writer)

    def finish() -> T:
        with os.fdopen(reader, "rb") as pipe:
            data = pipe.read()
        _, status = os.waitpid(child, 0)
        assert status == 0, f"the client failed: {status}"
        result: T = pickle.loads(data)  # noqa: S301 - our own child wrote it
        return result

    return finish


def run_as(uid: int, cgroup: Path, function: Callable[[], T]) -> T:
    """Call a function in a forked child of that uid and cgroup, and return what it returned."""
    return begin_as(uid, cgroup, function)()


@contextmanager
def ready_as(uid: int, cgroup: Path, function: Callable[[], T]) -> Generator[Callable[[], T]]:
    """The same, with a child that is there and waits: the fork of a long test run may take a second.

    The call of what is yielded lets it go on, and returns what it returned.
    """
    gate, opener = os.pipe()
    ready, tell = os.pipe()

    def wait_and_call() -> T:
        os.close(opener)
        os.write(tell, b"+")
        os.read(gate, 1)
        return function()

    finish = begin_as(uid, cgroup, wait_and_call)
    for descriptor in (gate, tell):
        os.close(descriptor)
    results: list[T] = []

    def go() -> T:
        os.write(opener, b"+")
        results.append(finish())
        return results[0]

    try:
        assert os.read(ready, 1) == b"+"
        yield go
    finally:
        for descriptor in (ready, opener):
            os.close(descriptor)
        if not results:
            with suppress(AssertionError, EOFError, OSError):
                finish()


def dial(address: str = ADDRESS4, port: int = 25, *, nonblocking: bool = False, protocol: int = 0) -> int:
    """One connect() to a literal address: its errno, 0 if it succeeded."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM, protocol) as sock:
        sock.setblocking(not nonblocking)
        return sock.connect_ex((address, port))


def dials(uid: int, cgroup: Path, *addresses: str, port: int = 25) -> list[int]:
    """Blocking connects of one client, one after another: their errnos."""
    return run_as(uid, cgroup, lambda: [dial(address, port) for address in addresses])


def block(uid: int, *, seconds: float = 60, netns: int | None = None, ranges: tuple[tuple[int, int], ...] = ()) -> Deny:
    """A block from now on."""
    until_ns = boottime_ns() + int(seconds * NS)
    return Deny(subject=Subject(id=uid, scope=netns), kind="block", until_ns=until_ns, ranges=ranges)


def count_programs(cgroup: Path) -> int:
    """Programs attached to connect4 and connect6 of a cgroup (bpf(2), BPF_PROG_QUERY)."""
    total = 0
    with suppress(FileNotFoundError):
        descriptor = os.open(cgroup, os.O_RDONLY)
        for attach_type in (10, 11):  # BPF_CGROUP_INET4_CONNECT, BPF_CGROUP_INET6_CONNECT
            ids = (ctypes.c_uint32 * 64)()
            attr = struct.pack("=IIIIQI36x", descriptor, attach_type, 0, 0, ctypes.addressof(ids), 64)
            buffer = ctypes.create_string_buffer(attr, len(attr))
            if _libc.syscall(ctypes.c_long(321), 16, buffer, len(attr)) != 0:
                raise OSError(ctypes.get_errno(), "bpf(BPF_PROG_QUERY)")
            total += struct.unpack_from("=I", buffer, 24)[0]
        os.close(descriptor)
    return total


@dataclass(slots=True, kw_only=True)
class Lab:
    """One attached source, and what it saw."""

    source: BpfSource
    cgroup: Path

    def events(self) -> list[Connect]:
        """All that has come out since the last call: events are in the ring before connect() returns."""
        seen = self.source.read()
        while self.source._more:
            seen += self.source.read()
        return seen


def read_while(lab: Lab, uid: int, function: Callable[[], T]) -> tuple[T, list[Connect]]:
    """What a user's process returned, and its attempts, read as the daemon reads them: else the ring may be full."""
    finish, seen = begin_as(uid, lab.cgroup, function), list[Connect]()
    with ThreadPoolExecutor(1) as executor:
        done = executor.submit(finish)
        while not done.done():
            seen += lab.events()
            lab.source.take_reports()
            time.sleep(0.005)
    while events := lab.events():
        seen += events
    return done.result(), seen


def _beat(maps: CreditMaps, now_ns: int) -> None:
    """A sign of life that lasts: a test that is kept from its turn for 2 s is no daemon that is silent.

    One that is said to be old is left as old as it is said to be.
    """
    is_now = now_ns > boottime_ns() - NS
    _beat_of_the_daemon(maps, now_ns + 600 * NS * is_now)


_beat_of_the_daemon = CreditMaps.beat


@contextmanager
def open_lab(**options: int) -> Generator[Lab]:
    """A source attached to a cgroup of its own, in a network namespace of its own."""
    with patch.object(CreditMaps, "beat", _beat), private_netns(), private_cgroup() as cgroup:
        source = BpfSource(Settings(cgroup=str(cgroup), ports=PORTS), **options)
        source.open()
        try:
            yield Lab(source=source, cgroup=cgroup)
        finally:
            source.close()
