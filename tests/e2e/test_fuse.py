"""A tenant whose program lies on a file that never answers: nobody else notices, and the daemon ends when told to.

Whoever reads its command line, directory or script hangs in the kernel, SIGKILL or not; only helpers ever do that.
"""

import contextlib
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from smtpguard.demo import namespaces
from smtpguard.demo.lab import PEER4
from smtpguard.logline import parse_line
from smtpguard.model import NS
from tests.support.host import INNOCENT, PATIENCE, SPAMMER, Host, wait_for
from tests.victims import hang_script

pytestmark = pytest.mark.kernel

RULE = {"name": "burst", "count": "connections", "limit": 30, "window": "10m", "action": "block", "block": "30m"}
BAR_S = 3 * 0.1
BIND = (PEER4, 25)


@contextlib.contextmanager
def lying(host: Host, folder: Path, rate: float) -> Iterator[None]:
    """A program of the spammer's that connects `rate` times a second, and hangs whoever looks at it."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        server = 0
        try:
            namespaces.die_with_parent(signal.SIGKILL)
            os.close(reader)
            assert host.lab.cgroup is not None
            namespaces.enter_cgroup(host.lab.cgroup)
            server = hang_script(folder)
            namespaces.enter_net(host.lab.host)
            os.setresgid(SPAMMER[1], SPAMMER[1], SPAMMER[1])
            os.setresuid(SPAMMER[1], SPAMMER[1], SPAMMER[1])
            os.write(writer, server.to_bytes(4, "little"))
            while True:
                with socket.socket() as sock, contextlib.suppress(OSError):
                    sock.settimeout(1)
                    sock.connect(BIND)
                time.sleep(1 / rate)
        finally:
            os._exit(1)
    os.close(writer)
    server = int.from_bytes(os.read(reader, 4), "little")
    assert server, "the liar could not be set up"
    try:
        yield
    finally:
        os.close(reader)
        for child in (pid, server):
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        os.waitpid(pid, 0)


def seconds_until_line(host: Host, user: tuple[str, int]) -> float:
    """How long after a connect its line is there."""
    before = sum(row["USER"] == user[0] for row in host.events("CONNECT"))
    child = host.begin(user)
    rows = wait_for(lambda: [r for r in host.log_lines() if f"USER={user[0]} " in r and "=CONNECT" in r][before:], 5)
    seen_ns = time.time_ns()
    host.outcome(child)
    return (seen_ns - parse_line(rows[0]).wall_ns) / NS


def lags_of_own_lines(host: Host, count: int) -> list[float]:
    """How late the liar's own lines come, looked at as they come; not those that came while nobody looked."""
    lags: list[float] = []
    known, looked, end = len(host.log_lines()), time.monotonic(), time.monotonic() + 10 * PATIENCE
    while len(lags) < count:
        assert time.monotonic() < end, f"only {len(lags)} lines came"
        lines = host.log_lines()
        now_ns, before, looked = time.time_ns(), looked, time.monotonic()
        parsed = [parse_line(line) for line in lines[known:]]
        if looked - before < 0.1:
            lags += [(now_ns - p.wall_ns) / NS for p in parsed if p.user == SPAMMER[0] and p.event == "CONNECT"]
        known = len(lines)
        time.sleep(0.005)
    return sorted(lags)


def test_a_hanging_tenant_delays_nobody_and_not_the_end(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with Host(rules=[RULE], attribution={"rdns": False}) as host:
        host.start()
        with lying(host, tmp_path, rate=20):
            wait_for(lambda: [row for row in host.events("CONNECT") if row["USER"] == SPAMMER[0]], 5)
            status = wait_for(lambda: text if " 2 hanging" in (text := host.cli("status", "-v").stdout) else None, 5)
            assert "attribution" in status
            own = lags_of_own_lines(host, 13)
            print(f"the tenant's own lines came after {own[0] * 1000:.0f} to {own[-1] * 1000:.0f} ms")
            assert own[len(own) // 2] < BAR_S
            waits = sorted(seconds_until_line(host, INNOCENT) for _ in range(7))
            print(f"lines of others came after {waits[0] * 1000:.0f} to {waits[-1] * 1000:.0f} ms")
            assert waits[len(waits) // 2] < BAR_S
            innocent = [row for row in host.events("CONNECT") if row["USER"] == INNOCENT[0]]
            assert {row["ATTR"] for row in innocent} & {"live", "guess"}, "others' processes are still looked at"
            # The tenant's own verdict comes in time too, and names at least the account.
            verdict = wait_for(lambda: [row for row in host.events("EXCEEDED") if row["USER"] == SPAMMER[0]], 5)
            assert verdict[0]["MODE"] == "enforce"
            assert host.cli("blocks").stdout.count(SPAMMER[0]) == 1
            assert host.connect(INNOCENT, 5).refused == 0
            begun = time.monotonic()
            assert host.stop() == 0
            assert time.monotonic() - begun < 5
