"""Attacks 2, 3 and 11 at once, by one tenant: idle sessions, a flood that counts for nothing, refused long paths."""

import json
import sys
import time

import pytest

from smtpguard.demo.lab import HOST4
from tests.support.attackers import FLOOD, begin_crowd, make_deep_folder
from tests.support.host import INNOCENT, OTHER, SPAMMER, Host, wait_for
from tests.support.standstill import Standstill

pytestmark = pytest.mark.kernel

RULE = {"name": "burst", "count": "connections", "limit": 20, "window": "10m", "action": "block", "block": "10m"}
NETWORKS = [f"198.18.{number}.1" for number in range(60)]
STALL_MS = 3 * 50  # three times the bar
LONG_STALL_MS = 500  # in a minute of three floods on two CPUs: a turn takes 3 ms of CPU, and waits for one
FROM_DEEP = """
import os, sys
os.chdir({top!r}); os.chdir({deep!r})
sys.argv[1:] = [{uid!r}, {seconds!r}, "192.0.2.2"]
exec({flood!r})
"""


def attack(sessions: int, seconds: int, spare: int, stall_ms: float) -> None:
    """All of it for some seconds.

    Args:
        sessions: Idle ones on loopback to a guarded port.
        seconds: How long the floods last.
        spare: In how many rounds another user's 20, and another spammer, come beside them.
        stall_ms: The longest turn of the daemon's loop must be shorter.
    """
    with Host(rules=[RULE]) as host, Standstill() as standstill:
        begin_crowd(host, SPAMMER[1], sessions, [f"127.0.0.{number}" for number in range(1, 9)])
        host.start()
        assert host.cli("block", SPAMMER[0]).returncode == 0
        top, deep = make_deep_folder(host)
        uid, length = str(SPAMMER[1]), str(seconds)
        script = FROM_DEEP.format(top=top, deep=deep, uid=uid, seconds=length, flood=FLOOD)
        floods = [
            host.lab.start([sys.executable, "-c", FLOOD, uid, length, address], inside=True)
            for address in ("127.0.0.1", HOST4)
        ]
        floods.append(host.lab.start([sys.executable, "-c", script], inside=True))
        for flood in floods:
            assert flood.stdout is not None
            assert flood.stdout.readline() == "flooding\n"
        for number in range(spare):
            assert host.connect(INNOCENT, 20 // spare).ok == 20 // spare
            assert host.connect(OTHER, 60, to=NETWORKS).ok == RULE["limit"], f"round {number}"
            wait_for(lambda: OTHER[0] in {row["USER"] for row in host.events("BLOCK")})
            if number + 1 < spare:
                assert host.cli("unblock", OTHER[0]).returncode == 0
        attempts = [int(flood.communicate(timeout=seconds + 30)[0]) for flood in floods]
        time.sleep(1.2)  # losses are looked at once a second,
        host.is_ready()  # and in this turn of the loop at the latest
        status = json.loads(host.cli("status", "--json").stdout)
        lost, stall, part = status["sources"][0]["lost"], status["worst_stall_ms"], status["worst_stall_in"]
        assert host.stop() == 0
        size = sum(len(line) + 1 for line in host.log_lines())
        print(f"{sessions} sessions, {attempts} attempts: stall {stall} ms in {part}; lost {lost}; {size} bytes of log")
        assert stall < stall_ms + 1000 * standstill.worst_s(), part
        assert {row["user"] for row in status["not_recorded"]} == {SPAMMER[0]}
        assert {row["USER"] for row in host.events("EXCEEDED")} == {OTHER[0]}
        assert size < 2_000_000


def test_all_at_once() -> None:
    attack(2000, seconds=3, spare=1, stall_ms=STALL_MS)


@pytest.mark.long
def test_all_at_once_for_long() -> None:
    attack(99_000, seconds=60, spare=5, stall_ms=LONG_STALL_MS)
