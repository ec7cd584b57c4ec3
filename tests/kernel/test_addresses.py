"""Own addresses of a real network namespace, and word of their changes."""

import ctypes
import os
import secrets
import select
import subprocess
from collections.abc import Iterator
from ipaddress import ip_network

import pytest

from smtpguard.enrich.own_addresses import OwnAddresses

pytestmark = pytest.mark.kernel
CLONE_NEWNET = 0x4000_0000


def run(*argv: str) -> None:
    subprocess.run(argv, check=True, timeout=30)


def enter(descriptor: int) -> None:
    """os.setns came with Python 3.12."""
    if ctypes.CDLL(None, use_errno=True).setns(descriptor, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


@pytest.fixture
def netns() -> Iterator[str]:
    name = f"sg-{secrets.token_hex(4)}"
    run("ip", "netns", "add", name)
    try:
        run("ip", "-n", name, "link", "set", "lo", "up")
        yield name
    finally:
        run("ip", "netns", "delete", name)


@pytest.fixture
def own(netns: str) -> Iterator[OwnAddresses]:
    """Open inside the namespace, and so is this thread until the test ends: each dump opens a socket of its own."""
    here = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    there = os.open(f"/run/netns/{netns}", os.O_RDONLY | os.O_CLOEXEC)
    addresses = OwnAddresses()
    try:
        enter(there)
        addresses.open()
        yield addresses
    finally:
        enter(here)
        addresses.close()
        os.close(here)
        os.close(there)


def read_changes(addresses: OwnAddresses) -> bool:
    """Whether something has changed, once nothing more is told.

    An IPv6 address is told of twice, the second time by a worker of the kernel's, when it may be used.
    """
    assert select.select([addresses], [], [], 10)[0]
    found = False
    for _ in range(100):
        found |= addresses.read()
        if not select.select([addresses], [], [], 0.05)[0]:
            return found
    raise AssertionError("it is told of for ever")


def shown(addresses: OwnAddresses) -> list[str]:
    return [str(network) for network in addresses.networks]


def test_addresses_come_and_go(netns: str, own: OwnAddresses) -> None:
    assert shown(own) == ["127.0.0.1/32", "::1/128"]
    assert own.read() is False
    run("ip", "-n", netns, "addr", "add", "192.0.2.7/24", "dev", "lo")
    run("ip", "-n", netns, "addr", "add", "2001:db8::7/64", "dev", "lo")
    assert read_changes(own) is True
    assert shown(own) == ["127.0.0.1/32", "192.0.2.7/32", "::1/128", "2001:db8::7/128"]
    run("ip", "-n", netns, "addr", "del", "192.0.2.7/24", "dev", "lo")
    assert read_changes(own) is True
    assert ip_network("192.0.2.7/32") not in own.networks


def test_hundreds_of_addresses(netns: str, own: OwnAddresses) -> None:
    """More notices than the socket holds, and a dump of many datagrams."""
    batch = "".join(f"addr add 10.1.{i // 250}.{i % 250 + 1}/32 dev lo\n" for i in range(1500))
    subprocess.run(["ip", "-n", netns, "-batch", "-"], input=batch, text=True, check=True, timeout=60)
    assert own.read() is True
    assert len(own.networks) == 1502
    assert own.dropped == 0


def test_closed_twice() -> None:
    addresses = OwnAddresses()
    addresses.open()
    assert "127.0.0.1/32" in shown(addresses)
    addresses.close()
    addresses.close()
    assert addresses.fileno() == -1
    assert addresses.read() is False
