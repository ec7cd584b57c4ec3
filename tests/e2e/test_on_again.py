"""`on` after `off`: from its answer on limits are exact in the kernel, whatever was reported while it was off."""

import signal
import time
from pathlib import Path

import pytest

from smtpguard.control.client import ask
from smtpguard.demo.lab import PEER4
from smtpguard.logline import LogLine, parse_line
from smtpguard.model import NS
from tests.support.crowd import Crowd
from tests.support.host import OTHER, SPAMMER, Host, wait_for

pytestmark = pytest.mark.kernel

NETWORKS = [f"198.{18 + n // 256}.{n % 256}.1" for n in range(512)]
"""So many that none comes twice before the verdict."""


COUNTED, FANNED = (SPAMMER, 25, 400, 2000, [PEER4]), (OTHER, 587, 64, 400, NETWORKS)
"""Who connects at which port, the limit there, how often in a second, and where to."""


def held(count: str, port: int, limit: int) -> dict[str, object]:
    held = {"limit": limit, "window": "1m", "action": "block", "block": "1m"}
    return {"name": f"held-{port}", "ports": [port], "count": count, **held}


def blocks(host: Host, mode: str) -> dict[str | None, LogLine]:
    found = [parse_line(line) for line in host.log_lines()]
    return {line.user: line for line in found if line.event == "BLOCK" and line.fields["MODE"] == mode}


def test_who_stands_still_after_on_lets_nobody_through_the_block_that_follows(tmp_path: Path) -> None:
    """A limit that is reached while the guard stands still refuses in the kernel; the block that it is judged to be
    begins there, so nobody comes through it. A report-only one stands from the time off, and hides nothing.
    """
    rules = [held("connections", 25, COUNTED[2]), held("networks", 587, FANNED[2])]
    with Host(sources=["bpf"], rules=rules) as host, Crowd(host.lab, tmp_path) as crowd:
        host.start()
        control = f"{host.lab.directory}/control.sock"
        ask(control, "off")
        for (_, uid), port, _, rate, to in (COUNTED, FANNED):
            crowd.add(uid, rate, to, port)
        wait_for(lambda: len(blocks(host, "dry-run")) == 2)
        host.wait_for_beat()
        held_until_ns = time.time_ns() + NS
        ask(control, "on")
        answered_ns = time.time_ns()
        time.sleep(FANNED[2] / FANNED[3] / 2)
        host.stop_signal(signal.SIGSTOP)
        time.sleep(0.6)
        host.stop_signal(signal.SIGCONT)
        wait_for(lambda: len(blocks(host, "enforce")) == 2)
        blocked_ns = time.time_ns()
        crowd.stop()
        for (name, uid), *_ in (COUNTED, FANNED):
            since_ns = max(blocks(host, "enforce")[name].wall_ns, answered_ns)
            passed = [attempt.begun_ns for attempt in crowd.read(uid) if attempt.passed]
            # Who stands still for two seconds refuses nobody: on a busy machine that is sooner over than this test.
            late = [at_ns for at_ns in passed if at_ns > since_ns and not held_until_ns < at_ns < blocked_ns]
            assert not late, f"{len(late)} of {name} came through the block"
