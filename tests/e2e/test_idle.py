"""A guard with nothing to do sleeps: once a second it says to the kernel that it lives, and that is all."""

import os
import re
import time
from pathlib import Path

import pytest

from smtpguard.daemon.startup.privileges import PRIORITY
from tests.support.host import Host, wait_for
from tests.support.processes import list_descendants, read_process

pytestmark = pytest.mark.kernel

SECONDS = 5
SPAN = {"name": "burst", "count": "connections", "limit": 30, "window": "10m"}
TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


def family(pid: int) -> list[int]:
    """A process and all below it: the daemon and its helpers."""
    return [pid, *list_descendants(pid)]


def read_switches(pid: int) -> dict[str, int]:
    """How often each thread has gone to sleep by itself; a thread wakes up as often."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        status = read_process(pid, f"task/{task.name}/status").decode()
        if count := re.search(r"^voluntary_ctxt_switches:\s+(\d+)", status, re.MULTILINE):  # else it has just ended
            found[task.name] = int(count[1])
    assert found
    return found


def read_cpu_s(pid: int) -> float:
    """CPU time of a process, in user and kernel."""
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / TICKS_A_SECOND


def count_wake_ups(source: str, pid: int, members: list[int]) -> tuple[int, int, float]:
    """Within SECONDS: of the loop, of all other threads and helpers, and the CPU time of all."""
    before = {member: read_switches(member) for member in members}
    cpu_s = sum(map(read_cpu_s, members))
    time.sleep(SECONDS)
    after = {member: read_switches(member) for member in members}
    cpu_s = sum(map(read_cpu_s, members)) - cpu_s
    woken = {task: count - before[m].get(task, 0) for m in members for task, count in after[m].items()}
    main = woken.pop(str(pid))
    print(f"\n{source}: {main / SECONDS:.1f} wake-ups a second, others {woken}, {cpu_s / SECONDS:.1%} of a CPU")
    return main, sum(woken.values()), cpu_s


@pytest.mark.parametrize("source", ["bpf", "nflog"])
def test_an_idle_guard_wakes_once_a_second(source: str) -> None:
    with Host(rules=[SPAN], sources=[source], cap={"rate": "60/minute", "burst": 30}) as host:
        host.start()
        assert host.daemon is not None
        pid = host.daemon.pid
        # What the start left to do (pages written, names asked, helpers begun) takes a moment.
        wait_for(lambda: len(family(pid)) >= 3)
        time.sleep(2)
        members = family(pid)
        assert [os.getpriority(os.PRIO_PROCESS, member) for member in members] == [PRIORITY] + [0] * (len(members) - 1)
        main, others, cpu_s = count_wake_ups(source, pid, members)
        if others > 3:  # every ten seconds it is written down that somebody watches: not in two windows in a row
            main, others, cpu_s = count_wake_ups(source, pid, members)
        assert main <= 3 * (SECONDS + 1), "the bar is one a second"
        assert others <= 3, "threads and helpers sleep until they are wanted"
        assert cpu_s <= 0.03 * SECONDS
