"""Bars of the whole program: commands answer at once, the daemon stays small, ready within two seconds."""

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.host import SMTPGUARD, Host, wait_for
from tests.support.metrics import read_samples
from tests.support.processes import list_children, read_process
from tests.support.webhook import Receiver

pytestmark = [pytest.mark.bench, pytest.mark.kernel]

USERS = 1000
RUNS = 7


def median_s(host: Host, words: list[str]) -> float:
    """Wall time of a command, median; run in the laboratory's namespaces as an administrator runs it."""
    times = []
    for _ in range(RUNS):
        begun = time.perf_counter()
        subprocess.run(
            ["nsenter", f"--net={host.lab.host}", *words], check=False, capture_output=True, stdin=subprocess.DEVNULL
        )
        times.append(time.perf_counter() - begun)
    return sorted(times)[RUNS // 2]


def resident_kb(pid: int) -> int:
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1])


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with Host(dry_run=True) as made:
        begun = time.perf_counter()
        made.start()
        print(f"\nready after {time.perf_counter() - begun:.2f} s, python's own start included")
        yield made


def test_status_and_exempt_answer_at_once(host: Host) -> None:
    bare = median_s(host, [sys.executable, "-c", "pass"])
    for words in (["status"], ["exempt"]):
        argv = [*SMTPGUARD, words[0], "--config", host.config, *(["--", "root"] if words[0] == "exempt" else [])]
        took = median_s(host, argv)
        print(f"\n{words[0]}: {took * 1000:.0f} ms, {took / bare:.1f} x a bare interpreter ({bare * 1000:.0f} ms)")
        assert took < 0.15 * 3


def bring_crowd(host: Host) -> None:
    """A thousand users with eight connections each."""
    program = Path(__file__).with_name("crowd.py")
    done = host.lab.run([sys.executable, str(program), str(USERS)], inside=True)
    assert done.returncode == 0, done.stderr


def test_memory_with_a_thousand_users(host: Host) -> None:
    assert host.daemon is not None
    before = resident_kb(host.daemon.pid)
    bring_crowd(host)
    time.sleep(1)
    after = resident_kb(host.daemon.pid)
    print(f"\nresident: {before / 1024:.1f} MB at start, {after / 1024:.1f} MB with {USERS} users")
    assert after < 40 * 1024


def test_memory_with_everything_on(tmp_path: Path) -> None:
    """Enforcing, with a file of metrics, users and all, a webhook and a heartbeat, which another process serves."""
    textfile = tmp_path / "smtpguard.prom"
    with Host(dry_run=False) as host:
        receiver = Receiver(host)
        receiver.start()
        host.configure(
            metrics={"textfile": str(textfile), "users": True, "group": "mailers"},
            notify={"webhooks": [receiver.webhook], "heartbeat": {"url": receiver.url + "?alive", "every": "1s"}},
        )
        daemon = host.start()
        before = resident_kb(daemon.pid)
        bring_crowd(host)
        wait_for(lambda: read_samples(textfile)["smtpguard_connects_total"]["25", "allowed", "bpf"] >= 4 * USERS, 40)
        after = resident_kb(daemon.pid)
        commands = {pid: read_process(pid, "cmdline") for pid in list_children(daemon.pid)}
        helpers = [resident_kb(pid) / 1024 for pid, command in commands.items() if b"smtpguard.notify" in command]
    print(
        f"\neverything on: {before / 1024:.1f} MB at start, {after / 1024:.1f} MB with {USERS} users;"
        f" what notifies {helpers[0]:.1f} MB"
    )
    assert after < 40 * 1024
