"""Attack: hundreds of processes that only compute, so that the guard's turn comes too late and its limits lapse.

A daemon that is silent for two seconds refuses nobody by its exact limits: whoever keeps it from running so long sends
without one. Each is a session of its own: with autogroups (sched(7)) that is as many shares as the guard's own session.
"""

import json
import os
import sys
from pathlib import Path

import pytest

from smtpguard.daemon.startup.privileges import AUTOGROUP_PRIORITY
from tests.support.host import OTHER, SMTPGUARD, SPAMMER, Host

pytestmark = pytest.mark.kernel

RULE = {"name": "burst", "count": "connections", "limit": 20, "window": "10m", "action": "block", "block": "10m"}
SPINNING = """
import os, sys, time
uid, count, seconds, processor = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
os.sched_setaffinity(0, {processor})
os.setgroups([]); os.setgid(uid); os.setuid(uid)
end = time.monotonic() + seconds
for _ in range(count):
    if os.fork() == 0:
        os.setsid()
        while time.monotonic() < end:
            pass
        os._exit(0)
print("spinning", flush=True)
for _ in range(count):
    os.wait()
"""


def starve(count: int, seconds: float) -> None:
    """All on one processor, with the guard: other tests have another."""
    processor = max(os.sched_getaffinity(0))
    with Host(rules=[RULE]) as host:
        host.start(command=["setsid", *SMTPGUARD, "run"])
        assert host.daemon is not None
        assert read_share(host.daemon.pid) == AUTOGROUP_PRIORITY
        for task in Path(f"/proc/{host.daemon.pid}/task").iterdir():
            os.sched_setaffinity(int(task.name), {processor})
        words = [sys.executable, "-c", SPINNING, str(SPAMMER[1]), str(count), str(seconds), str(processor)]
        spinning = host.lab.start(words, inside=True)
        assert spinning.stdout is not None
        assert spinning.stdout.readline() == "spinning\n"
        assert host.connect(OTHER, 60).ok == RULE["limit"]
        assert spinning.poll() is None, "they have ended too early"
        spinning.wait()
        status = json.loads(host.cli("status", "--json").stdout)
        print(f"{count} sessions: worst stall {status['worst_stall_ms']} ms in {status['worst_stall_in']}")
        assert status["worst_stall_ms"] < 1000, "two seconds of silence, and the limits lapse"


def read_share(pid: int) -> int:
    """How its session stands beside others; a skip where sessions are no groups."""
    path = Path(f"/proc/{pid}/autogroup")
    if not path.exists():
        pytest.skip("lacks CONFIG_SCHED_AUTOGROUP")
    return int(path.read_text().split()[-1])


def test_the_session_of_a_shell_stays_as_it_is() -> None:
    with Host() as host:
        before = read_share(os.getpid())
        host.start()
        assert host.daemon is not None
        assert os.getsid(host.daemon.pid) == os.getsid(0)
        assert read_share(host.daemon.pid) == before


def test_its_limits_hold() -> None:
    starve(100, seconds=5)


@pytest.mark.long
def test_they_hold_against_a_thousand() -> None:
    starve(1000, seconds=20)
