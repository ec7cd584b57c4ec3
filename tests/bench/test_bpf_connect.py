"""What the program adds to a connect(), beside the bare connect() in the same run; printed, and held to three bars.

One client makes connects to a port where nobody listens; the parent attaches, drains as the daemon does, detaches.
Rounds of the variants alternate, and quiet ones are compared, because the machine's own pace wanders.
"""

import errno
import os
import select
import socket
import statistics
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from smtpguard.actions.base import Exemptions
from smtpguard.actions.bpf_deny import BpfDeny
from smtpguard.clock import boottime_ns
from smtpguard.model import NS
from smtpguard.policy.credit_rules import CreditRule
from smtpguard.settings import Settings
from smtpguard.sources.bpf.kernel_credits import Credits
from smtpguard.sources.bpf.source import BpfSource
from tests.kernel.bpf_lab import ADDRESS4, PORTS, private_cgroup, private_netns, random_uid

pytestmark = [pytest.mark.bench, pytest.mark.kernel]

ROUNDS, CONNECTS = 25, 1000
OTHER_PORT, SMTP_PORT = 80, 25


@contextmanager
def client(cgroup: Path) -> Generator[Callable[[int], float]]:
    """A tenant's process; the function it yields makes it connect to a port and returns CPU microseconds of each."""
    go, done = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        uid = random_uid()
        (cgroup / "cgroup.procs").write_text(str(os.getpid()))
        os.setresuid(uid, uid, uid)
        os.close(go[1])
        while order := os.read(go[0], 4):
            target = (ADDRESS4, int.from_bytes(order, "little"))
            begun = time.process_time_ns()
            for _ in range(CONNECTS):
                with socket.socket() as sock:
                    code = sock.connect_ex(target)
            ended = time.process_time_ns()
            os.write(done[1], (ended - begun if code == errno.ECONNREFUSED else 0).to_bytes(8, "little"))
        os._exit(0)
    os.close(go[0])

    def measure(port: int) -> float:
        os.write(go[1], port.to_bytes(4, "little"))
        return int.from_bytes(os.read(done[0], 8), "little") / CONNECTS / 1000

    try:
        yield measure
    finally:
        os.close(go[1])
        os.waitpid(child, 0)
        os.close(done[0])
        os.close(done[1])


@contextmanager
def attached(cgroup: Path, *, credits_on: bool) -> Generator[BpfSource]:
    """The source with a reader beside it, and (or not) credits of sixteen rules demanded."""
    source = BpfSource(Settings(cgroup=str(cgroup), ports=PORTS))
    source.open()
    stopping = threading.Event()

    def drain() -> None:
        while not stopping.is_set():
            select.select(source.filenos(), [], [], 0.05)  # as the daemon's loop: woken by events
            source.read()

    reader = threading.Thread(target=drain)
    try:
        if credits_on:
            source.guard.set_enforcing(on=True)
            BpfDeny(source.guard).apply_exemptions(Exemptions())
            rules = [CreditRule(ports=PORTS, limit=1 << 40, window_ns=NS)] * 16
            Credits(source.guard, boottime_ns()).start(rules, boottime_ns())
        reader.start()
        yield source
    finally:
        stopping.set()
        reader.join()
        source.close()


def test_cost_of_a_connect() -> None:
    results: dict[str, list[float]] = {}

    def note(name: str, microseconds: float) -> None:
        results.setdefault(name, []).append(microseconds)

    with private_netns(), private_cgroup() as cgroup, client(cgroup) as measure:
        measure(OTHER_PORT)
        for _ in range(ROUNDS):
            note("bare", measure(OTHER_PORT))
            with attached(cgroup, credits_on=False) as source:
                note("other port", measure(OTHER_PORT))
                note("SMTP port", measure(SMTP_PORT))
                assert source.stats.lost == 0
            note("bare", measure(OTHER_PORT))
            with attached(cgroup, credits_on=True):
                note("SMTP port, 16 credit rules", measure(SMTP_PORT))
    # The fifth of the rounds that others disturbed least: on a shared machine medians tell of the neighbours.
    quiet = {name: statistics.quantiles(values, n=5)[0] for name, values in results.items()}
    bare = quiet["bare"]
    for name, cost in quiet.items():
        print(f"{name:28} {cost:6.2f} us  x{cost / bare:.2f}  {cost - bare:+.2f} us")
    assert quiet["other port"] - bare < 3 * 0.5
    assert quiet["SMTP port"] - bare < 3 * 5
    assert quiet["SMTP port, 16 credit rules"] - bare < 3 * 7
