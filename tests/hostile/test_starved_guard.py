"""Attack: hundreds of processes that only compute, so that the guard's turn comes too late and its limits lapse.

A daemon that is silent for two seconds refuses nobody by its exact limits: whoever keeps it from running so long sends
without one. Each is a session of its own: with autogroups (sched(7)) that is as many shares as the guard's own session.
"""

import json
import os
import sys
import time
from pathlib import Path

import pytest

from smtpguard.daemon.startup.privileges import AUTOGROUP_PRIORITY
from tests.support.host import OTHER, SMTPGUARD, SPAMMER, Host
from tests.support.standstill import Standstill

pytestmark = pytest.mark.kernel

RULE = {"name": "burst", "count": "connections", "limit": 20, "window": "10m", "action": "block", "block": "10m"}
SPINNING = """
import os, sys
uid, count, processor = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
os.setgroups([]); os.setgid(uid); os.setuid(uid)
parent = os.getpid()
for _ in range(count):
    if os.fork() == 0:
        os.setsid()
        os.sched_setaffinity(0, {processor})
        while os.getppid() == parent:
            pass
        os._exit(0)
print("spinning", flush=True)
for _ in range(count):
    os.wait()
"""


def starve(count: int, seconds: float) -> None:
    """All on one processor, with the guard: other tests have another."""
    processor = max(os.sched_getaffinity(0))
    with Host(rules=[RULE]) as host, Standstill() as standstill:
        host.start(command=["setsid", *SMTPGUARD, "run"])
        assert host.daemon is not None
        assert read_share(host.daemon.pid) == AUTOGROUP_PRIORITY
        pin_session(host.daemon.pid, processor)
        words = [sys.executable, "-c", SPINNING, str(SPAMMER[1]), str(count), str(processor)]
        spinning = host.lab.start(words, inside=True)
        assert spinning.stdout is not None
        assert spinning.stdout.readline() == "spinning\n"
        time.sleep(seconds)
        assert host.connect(OTHER, 60).ok == RULE["limit"]
        assert spinning.poll() is None, "they have ended too early"
        spinning.terminate()
        spinning.wait()
        status = json.loads(host.cli("status", "--json").stdout)
        print(f"{count} sessions: worst stall {status['worst_stall_ms']} ms in {status['worst_stall_in']}")
        bar_ms = 1000 + 1000 * standstill.worst_s()
        assert status["worst_stall_ms"] < bar_ms, "two seconds of silence, and the limits lapse"


def pin_session(leader: int, processor: int) -> None:
    """The whole group on one processor: what its helpers do on another would take the daemon's share of this one."""
    for folder in Path("/proc").iterdir():
        try:
            if not folder.name.isdigit() or os.getsid(int(folder.name)) != leader:
                continue
            for task in (folder / "task").iterdir():
                os.sched_setaffinity(int(task.name), {processor})
        except (ProcessLookupError, FileNotFoundError):
            continue  # has ended meanwhile


def read_share(pid: int) -> int | None:
    """How its session stands beside others, None where it is in no group of its own; a skip where no session is."""
    path = Path(f"/proc/{pid}/autogroup")
    if not path.exists():
        pytest.skip("lacks CONFIG_SCHED_AUTOGROUP")
    words = path.read_text().split()  # "/autogroup-25 nice 0", or nothing for what was started without setsid(2)
    return int(words[-1]) if words else None


def test_the_session_that_others_share_stays_as_it_is() -> None:
    with Host() as host:
        before = read_share(os.getpid())
        host.start()
        assert host.daemon is not None
        assert os.getsid(host.daemon.pid) == os.getsid(0)
        assert read_share(host.daemon.pid) == before


def test_its_limits_hold() -> None:
    starve(100, seconds=4)


@pytest.mark.long
def test_they_hold_against_a_thousand() -> None:
    starve(1000, seconds=20)
