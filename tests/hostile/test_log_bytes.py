"""Attack 11: a blocked tenant connects on and on from the longest paths, and fills /var with what is logged of it."""

import sys
from pathlib import Path

import pytest

from smtpguard.actions.eventlog import EventLog
from smtpguard.actions.suppression import BYTES_A_LINE, MINUTE_NS, REFUSED_BYTES, Suppression
from smtpguard.logline import MAX_LINE_BYTES
from smtpguard.model import NS, Account, Connect
from tests.support.attackers import make_deep_folder
from tests.support.host import INNOCENT, SPAMMER, Host

ACCOUNT = Account(uid=61101, name="web01", standing="tenant")
NASTY = b"/\\" + b'"' * 4000
RULE = {"name": "burst", "count": "connections", "limit": 5, "window": "10m", "action": "block", "block": "10m"}


def attempt(result: str) -> Connect:
    return Connect(
        time_ns=NS,
        uid=61101,
        pid=1,
        port=25,
        address=bytes(4),
        sensor="bpf",
        result="refused" if result == "refused" else "allowed",
        proc=NASTY,
        exe=NASTY,
        cwd=NASTY,
        script=NASTY,
        rdns=NASTY,
    )


@pytest.mark.parametrize(("result", "budget"), [("refused", REFUSED_BYTES), ("allowed", (2000 + 100) * BYTES_A_LINE)])
def test_a_minute_of_the_longest_lines(tmp_path: Path, result: str, budget: int) -> None:
    path = tmp_path / "log" / "events.log"
    log = EventLog(str(path))
    log.open()
    for _ in range(5000):
        log.write_connect(attempt(result), ACCOUNT, wall_ns=NS, now_ns=NS, highest_limit=2000)
    assert log.close(wall_ns=NS)
    assert budget * 0.5 < path.stat().st_size < budget + 2 * MAX_LINE_BYTES
    assert path.read_text().splitlines()[-1].split()[3].startswith("EVENT=SUPPRESSED")


def test_a_day_of_refusals_is_bounded() -> None:
    suppression = Suppression()
    written = 0
    for minute in range(1440):
        for _ in range(100):
            if suppression.admit(ACCOUNT, minute * MINUTE_NS, 2000, refused=True):
                suppression.charge(ACCOUNT, 16_000, refused=True)
                written += 16_000
    assert written < 75_000_000


def test_refused_lines_leave_room_for_the_others() -> None:
    suppression = Suppression()
    for _ in range(1000):
        if suppression.admit(ACCOUNT, 0, 0, refused=True):
            suppression.charge(ACCOUNT, 16_000, refused=True)
    assert suppression.admit(ACCOUNT, 0, 0)


def test_ordinary_lines_are_bounded_by_their_number_alone() -> None:
    suppression = Suppression()
    written = 0
    for _ in range(3000):
        if suppression.admit(ACCOUNT, 0, 2000):
            suppression.charge(ACCOUNT, 450)
            written += 1
    assert written == 2100


@pytest.mark.kernel
def test_with_the_real_guard() -> None:
    """From a directory whose name is as long as they come."""
    with Host(rules=[RULE]) as host:
        host.start()
        top, deep = make_deep_folder(host)
        program = f"""
import os, socket
os.chdir({top!r}); os.chdir({deep!r})
os.setresuid({SPAMMER[1]}, {SPAMMER[1]}, {SPAMMER[1]})
for _ in range(3000):
    with socket.socket() as client:
        client.settimeout(2)
        try:
            client.connect(("192.0.2.2", 25))
        except OSError:
            pass
"""
        done = host.lab.run([sys.executable, "-c", program], inside=True)
        assert done.returncode == 0, done.stderr
        assert host.connect(INNOCENT, 3).ok == 3
        assert host.stop() == 0
        lines = host.log_lines()
        size = sum(len(line) for line in lines)
        print(f"3000 attempts: {len(lines)} lines, {size} bytes")
        assert size < 400_000
        assert any("EVENT=SUPPRESSED" in line for line in lines)
        assert len([line for line in lines if f"USER={INNOCENT[0]}" in line]) == 3
