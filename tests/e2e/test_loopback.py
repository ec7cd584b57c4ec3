"""`loopback: count`: connections to this host's own mail server are judged as any other, and refused."""

import math
import sys
from pathlib import Path
from typing import Any

import pytest

from smtpguard.demo.lab import HOST4
from tests.support.host import INNOCENT, OTHER, SPAMMER, Host, wait_for
from tests.support.standstill import Standstill

pytestmark = pytest.mark.kernel

RULE = {"name": "few", "count": "connections", "limit": 10, "window": "10m", "block": "5m"}
LOCAL4, LOCAL6 = "127.0.0.1", "::1"


def start_local_server(host: Host) -> None:
    """A mail server on every address of the guarded host."""
    server = host.lab.start([sys.executable, str(Path(__file__).parents[1] / "support" / "sink.py")])
    assert server.stdout is not None
    assert server.stdout.readline() == "ready\n"


def destinations_of(host: Host, user: tuple[str, int]) -> set[str]:
    return {row["DST"] for row in host.events("CONNECT") if row["USER"] == user[0]}


@pytest.mark.parametrize("source", ["bpf", "nflog"])
def test_connections_to_loopback_make_a_verdict(standstill: Standstill, source: str) -> None:
    settings: dict[str, Any] = {"rules": [RULE], "loopback": "count", "sources": [source]}
    with Host(**settings) as host:
        start_local_server(host)
        host.start()
        for user, address in ((SPAMMER, LOCAL4), (OTHER, LOCAL6)):
            waited_s = host.read_waited()
            done = host.connect(user, 100, rate=100, to=[address])
            waited_s = host.read_waited() - waited_s  # the guard, while others had the processor
            most = 10 if source == "bpf" else 14 + math.ceil(100 * standstill.worst_s()) + int(100 * waited_s)
            assert 10 <= done.ok <= most, done
            assert done.refused == 100 - done.ok
        wait_for(lambda: {row["USER"] for row in host.events("EXCEEDED")} == {SPAMMER[0], OTHER[0]})
        assert host.connect(INNOCENT, 30, rate=1000, to=[HOST4]).ok == 30, "own addresses never count"
        assert host.connect(SPAMMER, 3, to=[HOST4]).ok == 3, "nor are they refused"
        host.configure(loopback="ignore")
        assert host.cli("reload").returncode == 0
        assert host.connect(SPAMMER, 30, to=[LOCAL4]).ok == 30, "loopback passes for the blocked too, once ignored"
        assert host.connect(INNOCENT, 3, to=[LOCAL4]).ok == 3
        wait_for(lambda: HOST4 in destinations_of(host, INNOCENT))
        assert LOCAL4 not in destinations_of(host, INNOCENT)
