"""What the service manager hears of the real daemon, at a socket of the test's own; no child can speak for it."""

import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.host import Host, wait_for
from tests.support.processes import list_descendants, read_process

RULE = {"name": "burst", "count": "connections", "limit": 5, "window": "10m", "action": "block", "block": "30m"}


class Manager:
    """Hears everything."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.socket.bind(path)
        self.heard: list[str] = []

    def has_heard(self, *lines: str) -> bool:
        """Whether one message had all of these lines in it, as beginnings."""
        while True:
            try:
                self.heard.append(self.socket.recv(4096).decode())
            except BlockingIOError:
                break
        return any(
            all(any(said.startswith(line) for said in message.split("\n")) for line in lines) for message in self.heard
        )


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Manager]:
    made = Manager(str(tmp_path / "notify"))
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    monkeypatch.setenv("WATCHDOG_USEC", "2000000")
    yield made
    made.socket.close()


def test_ready_alive_and_stopping_are_told_and_no_child_could(manager: Manager) -> None:
    with Host(sources=["bpf"], rules=[RULE]) as host:
        host.start(ready=False)
        wait_for(lambda: manager.has_heard("READY=1", "STATUS=enforcing, watching with bpf"))
        assert host.is_ready(), "READY is not said before it is true"
        before = len([message for message in manager.heard if message.startswith("WATCHDOG=1")])
        wait_for(lambda: manager.has_heard("none") or len(manager.heard) >= before + 5, 5)
        assert host.daemon is not None
        environments = [read_process(pid, "environ") for pid in (host.daemon.pid, *list_descendants(host.daemon.pid))]
        assert len(environments) - environments.count(b"") > 2, "its helpers"
        for environment in environments:
            assert b"NOTIFY_SOCKET" not in environment
            assert b"WATCHDOG" not in environment
        host.configure(attribution={"rdns": False})
        host.stop_signal(signal.SIGHUP)
        wait_for(lambda: manager.has_heard("RELOADING=1", "MONOTONIC_USEC="))
        at = next(number for number, said in enumerate(manager.heard) if said.startswith("RELOADING=1"))
        wait_for(lambda: manager.has_heard("none") or any(said.startswith("READY=1") for said in manager.heard[at:]))
        told = "Waits for a restart (restart its service, as by systemctl restart smtpguard): "
        wait_for(lambda: f"{told}attribution.rdns true -> false." in host.stderr())
        assert host.cli("off").returncode == 0
        wait_for(lambda: manager.has_heard("WATCHDOG=1", "STATUS=OFF"))
        host.stop()
        assert manager.has_heard("STOPPING=1")


def test_a_blind_guard_is_ready_too_and_says_why(manager: Manager) -> None:
    with Host(sources=["bpf"], cgroup="/nowhere", rules=[RULE]) as host:
        host.expect_errors("no source works")
        host.start(ready=False)
        wait_for(lambda: manager.has_heard("READY=1", "STATUS=blind: bpf: "))
        assert host.cli("status").returncode == 3
        assert host.daemon is not None
        assert host.daemon.poll() is None
