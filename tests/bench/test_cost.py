"""What the running daemon adds to a connect(), by sensor and pace, beside the bare connect() in the same run.

For bpf two of a tenant's programs take turns, one in the guarded cgroup, one beside it, so that both meet the machine's
same moments. nftables guards a namespace: for nflog the daemon comes and goes. The daemon has rules as the shipped
ones, with limits that the user stays below, and looks at processes. What it costs the daemon is in the figures for one
CPU alone, where the daemon takes its time from the tenant's program.
"""

import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from smtpguard.demo.lab import PEER4
from smtpguard.interpreter import module_environment
from tests.support.host import SPAMMER, Host
from tests.support.processes import list_descendants

pytestmark = [pytest.mark.bench, pytest.mark.kernel]

GUARDED, OTHER = 26, 81
"""Two ports where nobody listens; the first is guarded."""
PACES = {"full speed": (250, 0), "1,000/s": (100, 1000), "100/s": (20, 100)}
"""Name to (connects in a round, a second)."""
ROUNDS = 20


def rule(name: str, count: str, limit: int, window: str, action: str) -> dict[str, Any]:
    return {"name": name, "ports": [GUARDED], "count": count, "limit": limit, "window": window, "action": action}


RULES = [
    rule("fanout", "networks", 10, "10m", "block") | {"block": "30m"},
    rule("slow", "networks", 40, "24h", "warn"),
    rule("busy", "connections", 1_000_000, "10m", "warn"),
    rule("burst", "connections", 1_000_000, "10m", "throttle"),
    rule("daily", "connections", 1_000_000, "24h", "warn"),
    rule("newcomer", "networks", 3, "10m", "warn") | {"novel": "30d"},
]
BAR, BAR_OTHER, BAR_OTHER_US = 1.4, 1.1, 0.5


class Knocker:
    """A tenant's program that connects as it is told."""

    def __init__(self, host: Host, *, inside: bool) -> None:
        words = [sys.executable, str(Path(__file__).with_name("knock.py")), str(SPAMMER[1]), PEER4]
        self._child = subprocess.Popen(
            host.lab.argv(words, net=None, inside=inside),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd="/",
            env=module_environment(),
        )

    @property
    def pid(self) -> int:
        return self._child.pid

    def knock(self, port: int, count: int, per_s: int) -> tuple[float, float]:
        """Microseconds of a connect(): CPU, and by the clock."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.write(f"{port} {count} {per_s}\n")
        self._child.stdin.flush()
        cpu, wall = self._child.stdout.readline().split()
        return int(cpu) / 1000, int(wall) / 1000

    def close(self) -> None:
        self._child.communicate(timeout=10)


@contextmanager
def knockers(host: Host, *places: str) -> Iterator[list[Knocker]]:
    made = [Knocker(host, inside=place == "inside") for place in places]
    try:
        yield made
    finally:
        for knocker in made:
            knocker.close()


def quiet(values: list[float]) -> float:
    """The fifth of the rounds that others disturbed least: on a shared machine medians tell of the neighbours."""
    return statistics.quantiles(values, n=5)[0]


def show(name: str, cost: list[float], bare: list[float]) -> float:
    ratio = quiet(cost) / quiet(bare)
    middle = statistics.median(cost) / statistics.median(bare)
    print(
        f"{name:45} {quiet(cost):6.2f} us  x{ratio:.2f}  {quiet(cost) - quiet(bare):+.2f} us  (medians x{middle:.2f})"
    )
    return ratio


def pin(pid: int, cpus: set[int]) -> None:
    for process in [pid, *list_descendants(pid)]:
        for task in Path(f"/proc/{process}/task").iterdir():
            os.sched_setaffinity(int(task.name), cpus)


def compare(name: str, guarded: Knocker, bare: Knocker, terms: tuple[int, int]) -> dict[int, tuple[float, float]]:
    """What a connect() costs, the two taking turns: by port, what the guard adds in CPU microseconds, and the ratio."""
    found = {}
    for port, where in ((GUARDED, "guarded port"), (OTHER, "another port")):
        rounds = [(guarded.knock(port, *terms), bare.knock(port, *terms)) for _ in range(ROUNDS)]
        for kind, what in enumerate(["CPU", "clock"]):
            cost, plain = [ours[kind] for ours, _ in rounds], [theirs[kind] for _, theirs in rounds]
            ratio = show(f"{name}, {where}, {what}:", cost, plain)
            if what == "CPU":
                found[port] = quiet(cost) - quiet(plain), ratio
    return found


@pytest.mark.parametrize("cpus", ["all CPUs", "one CPU"])
def test_cost_of_a_connect_under_bpf(cpus: str) -> None:
    """By the clock it is the machine's business when the daemon has its turn: printed only."""
    with Host(rules=RULES, ports=[GUARDED], sources=["bpf"]) as host:
        host.start()
        assert host.daemon is not None
        with knockers(host, "inside", "beside") as (guarded, bare):
            if cpus == "one CPU":
                for pid in (host.daemon.pid, guarded.pid, bare.pid):
                    pin(pid, {0})
            guarded.knock(GUARDED, 100, 1000)
            print()
            for pace, terms in PACES.items():
                found = compare(f"bpf, {cpus}, {pace}", guarded, bare, terms)
                if pace != "100/s":  # too few to be sure of
                    assert found[GUARDED][1] < BAR
                    added_us, ratio = found[OTHER]
                    assert added_us < 3 * BAR_OTHER_US or ratio < BAR_OTHER


def test_cost_of_a_connect_under_nflog() -> None:
    """nftables guards a namespace, not a cgroup: the daemon comes and goes instead."""
    found: dict[tuple[bool, int], list[float]] = {}
    with Host(rules=RULES, ports=[GUARDED], sources=["nflog"]) as host, knockers(host, "beside") as (one,):
        for round_ in range(6):
            if is_guarded := round_ % 2 == 1:
                host.start()
            for port in (GUARDED, OTHER) * ROUNDS:
                found.setdefault((is_guarded, port), []).append(one.knock(port, *PACES["full speed"])[0])
            if is_guarded:
                host.stop()
                host.nft("flush", "ruleset")
    print()
    for port, where in ((GUARDED, "guarded port"), (OTHER, "another port")):
        show(f"nflog, {where}, CPU:", found[True, port], found[False, port])
    added_us = quiet(found[True, OTHER]) - quiet(found[False, OTHER])
    assert added_us < 3 * BAR_OTHER_US + 0.1 * quiet(found[False, OTHER])
