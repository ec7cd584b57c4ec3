"""Nothing waits in the daemon's loop: not for a name service that hangs, and not for many accounts."""

import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from smtpguard.control.client import ask
from smtpguard.errors import UnansweredError
from smtpguard.model import NS
from tests.support.host import SMTPGUARD, SPAMMER, Host, wait_for
from tests.support.standstill import Standstill
from tests.support.stopwatch import Stopwatch

pytestmark = pytest.mark.kernel

RULE = {"name": "burst", "count": "connections", "limit": 5, "window": "10m", "action": "warn"}
MOST_STALL_MS = 150
"""Three times the bar of 50 ms."""


class SilentNameService:
    """An nscd (nscd(8)) that takes every question and answers none: the C library waits five seconds for it.

    Args:
        host: Whose programs see it; to be made before any of them is started.
    """

    def __init__(self, host: Host) -> None:
        directory = host.lab.directory / "run"
        (directory / "nscd").mkdir(parents=True)
        host.lab.lay_directory_over("/run", directory)
        self.asked = 0
        self._kept: list[socket.socket] = []
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(directory / "nscd" / "socket"))
        self._listener.listen(64)
        for path in (directory, directory / "nscd"):
            path.chmod(0o755)
        (directory / "nscd" / "socket").chmod(0o666)
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                self._kept.append(self._listener.accept()[0])
            except OSError:
                return
            self.asked += 1

    def close(self) -> None:
        self._listener.close()
        for connection in self._kept:
            connection.close()


@pytest.fixture
def host() -> Iterator[Host]:
    with Host(rules=[RULE], dry_run=True) as made:
        yield made


def test_a_name_service_that_hangs_holds_up_who_asked_and_nobody_else(standstill: Standstill, host: Host) -> None:
    service = SilentNameService(host)
    try:
        host.start()
        before = service.asked
        begun = time.monotonic()
        child = host.lab.start([*SMTPGUARD, "block", "--config", host.config, "somebody-new"], stderr=subprocess.STDOUT)
        wait_for(lambda: service.asked > before)
        for _ in range(20):  # others are answered meanwhile
            stopwatch = Stopwatch()
            host.is_ready()
            assert stopwatch.seconds() < 0.5 + standstill.worst_s()
        text, _ = child.communicate(timeout=20)
        assert child.returncode == 1
        assert "somebody-new could not be looked up: the name service does not answer" in text, text
        assert "No account" not in text
        assert time.monotonic() - begun < 5
        status = ask(f"{host.lab.directory}/control.sock", "status")["status"]
        stall_ms = status["worst_stall_ms"] - standstill.worst_s() * 1000
        assert stall_ms < MOST_STALL_MS, (stall_ms, status["worst_stall_in"])
        assert host.cli("allow", SPAMMER[0], "--for", "1h").returncode == 0, "who is in /etc/passwd needs no look-up"
    finally:
        service.close()


def test_refusing_needs_no_name_service() -> None:
    """Start, heal, block, unblock by uid, status: with one that hangs for ever as fast as with none."""
    users = [{"match": {"users": ["corp-shop"], "groups": ["corp-shops"]}, "rules": {"burst": {"limit": 3}}}]
    exempt = {"users": ["corp-mailer", "corp\\mailer"], "groups": ["corp-mailers"]}
    with Host(rules=[RULE], users=users, exempt=exempt) as host:
        fast = time_refusing(host)
        service = SilentNameService(host)
        slow = time_refusing(host)
        service.close()
    starts = fast.pop("start"), slow.pop("start")
    assert starts[1] < starts[0] + 0.8, "whoever waits for a name waits a second or more"
    assert all(slow[what] < 3 * fast[what] + 0.5 for what in fast), (fast, slow)


def time_refusing(host: Host) -> dict[str, float]:
    """Seconds that each takes."""
    took: dict[str, float] = {}
    socket_path = f"{host.lab.directory}/control.sock"
    first = host.time_start()
    assert host.stop() == 0
    took["start"], at = min(first, host.time_start()), time.monotonic()
    for minutes in (10, 15):
        ask(socket_path, "block", user="uid:61777", for_ns=minutes * 60 * NS)
    took["block"], at = time.monotonic() - at, time.monotonic()
    ask(socket_path, "status")
    took["status"], at = time.monotonic() - at, time.monotonic()
    host.nft("flush", "ruleset")
    wait_for(lambda: "61777" in host.nft("list", "ruleset"))
    took["heal"], at = time.monotonic() - at, time.monotonic()
    ask(socket_path, "unblock", user="uid:61777")
    took["unblock"] = time.monotonic() - at
    assert "61777" not in host.nft("list", "set", "inet", "smtpguard", "blocked")
    assert host.stop() == 0
    return took


def test_a_name_that_is_nobodys_is_nobodys(host: Host) -> None:
    host.start()
    with pytest.raises(Exception, match='No account "somebody-new"') as caught:
        ask(f"{host.lab.directory}/control.sock", "block", user="somebody-new")
    assert not isinstance(caught.value, UnansweredError)
    assert Path(host.config).exists()


ACCOUNTS = 20_000


def test_many_accounts_are_read_again_beside_the_loop(
    standstill: Standstill, host: Host, capsys: pytest.CaptureFixture[str]
) -> None:
    passwd, group = host.lab.read("/etc/passwd"), host.lab.read("/etc/group")
    names = [f"shop{number}" for number in range(ACCOUNTS)]
    many = "".join(f"{name}:x:{100_000 + number}:100::/home/{name}:/bin/sh\n" for number, name in enumerate(names))
    host.lab.lay_over("/etc/passwd", passwd + many)
    host.configure(dry_run=False, exempt={"users": ["gone*"], "groups": ["mailers"]})
    host.start()
    spam = host.begin(SPAMMER, 4000, rate=400)

    def holds(uid: str) -> bool:
        return uid in host.nft("list", "set", "inet", "smtpguard", "exempt")

    for number in range(3):
        host.lab.lay_over("/etc/passwd", passwd + many + f"new{number}:x:{90_000 + number}:100::/:/bin/sh\n")
        host.lab.lay_over("/etc/group", group + f"mailers:x:70000:{names[number]}\n")
        uid = 100_000 + number
        wait_for(partial(holds, str(uid)))
    host.configure(exempt={"users": ["shop1*"]})
    assert host.cli("reload").returncode == 0
    assert host.outcome(spam).ok == 4000
    assert host.connect(("new2", 90_002), 8).ok == 8
    wait_for(lambda: any(row["USER"] == "new2" for row in host.events("EXCEEDED")))
    status = ask(f"{host.lab.directory}/control.sock", "status")["status"]
    with capsys.disabled():
        print(f"\nworst stall with {ACCOUNTS} accounts: {status['worst_stall_ms']} ms in {status['worst_stall_in']}")
    assert status["worst_stall_ms"] - standstill.worst_s() * 1000 < MOST_STALL_MS, status["worst_stall_in"]
