"""What the service manager is told, at a socket of the test's own."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from smtpguard.daemon.startup.service_manager import NOWHERE, Address, ServiceManager, take_address
from smtpguard.model import NS

NOW = 1000 * NS


class Manager:
    """A socket that hears everything."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.socket.bind("\0" + path[1:] if path.startswith("@") else path)

    def heard(self) -> list[str]:
        messages = []
        while True:
            try:
                messages.append(self.socket.recv(4096).decode())
            except BlockingIOError:
                return messages


@pytest.fixture(params=["path", "abstract"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "notify") if request.param == "path" else f"@smtpguard-test-{os.getpid()}"


@pytest.fixture
def manager(address: str) -> Iterator[Manager]:
    made = Manager(address)
    yield made
    made.socket.close()


def test_ready_after_the_first_turn_then_a_sign_of_life_each_second(manager: Manager, address: str) -> None:
    lines = ["blind: bpf: no\nbtf"]
    part = ServiceManager(Address(address), lambda: lines[0], NOW)
    assert part.next_deadline() == 0
    part.on_time(NOW)
    assert manager.heard() == ["READY=1\nSTATUS=blind: bpf: no btf"]
    assert part.next_deadline() == NOW + NS
    part.on_time(NOW + NS // 2)
    assert manager.heard() == []
    part.on_time(NOW + NS)
    lines[0] = "enforcing"
    part.on_time(NOW + 2 * NS)
    part.reloading()
    part.ready()
    part.stopping()
    heard = manager.heard()
    assert heard[:2] == ["WATCHDOG=1", "WATCHDOG=1\nSTATUS=enforcing"]
    assert heard[2].startswith("RELOADING=1\nMONOTONIC_USEC=")
    assert heard[3:] == ["READY=1\nSTATUS=enforcing", "STOPPING=1"]
    part.close()
    part.ready()
    assert manager.heard() == []


def test_a_short_watchdog_is_fed_more_often(manager: Manager, address: str) -> None:
    part = ServiceManager(Address(address, 2 * NS), lambda: "fine", NOW)
    part.on_time(NOW)
    assert part.next_deadline() == NOW + NS // 2
    part.close()
    assert manager.heard()[0].startswith("READY=1")


def test_a_manager_that_is_gone_or_full_is_not_waited_for(tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    part = ServiceManager(Address(path), lambda: "fine", NOW)
    part.on_time(NOW)
    deaf = Manager(path)
    for second in range(1, 2000):
        part.on_time(NOW + second * NS)
    part.close()
    deaf.socket.close()


def test_without_a_manager_nothing_is_said_or_waited_for() -> None:
    part = ServiceManager(NOWHERE, lambda: "fine", NOW)
    assert part.next_deadline() is None
    part.on_time(NOW)
    part.stopping()
    part.close()


def test_the_environment_is_taken_and_nothing_of_it_left() -> None:
    environment = {
        "NOTIFY_SOCKET": "/run/x",
        "WATCHDOG_USEC": "30000000",
        "WATCHDOG_PID": str(os.getpid()),
        "HOME": "/",
    }
    assert take_address(environment) == Address("/run/x", 30 * NS)
    assert environment == {"HOME": "/"}
    assert take_address({"NOTIFY_SOCKET": "@a", "WATCHDOG_USEC": "5", "WATCHDOG_PID": "1"}) == Address("@a", 0)
    for path in ("vsock:2:1", "relative", "", "/" + 120 * "x"):
        assert take_address({"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "-4"}) == NOWHERE
