"""Attack: SYNs at full speed, so that the `nflog` source tells of another's late or not at all; also to loopback."""

import json
import sys
import time
from typing import Any

import pytest

from smtpguard.decode.netlink.nft_elements import read_port_counts
from smtpguard.sources.nflog_table import RATE
from tests.support.attackers import FLOOD
from tests.support.host import INNOCENT, OTHER, SHARED, SPAMMER, Host, wait_for

pytestmark = pytest.mark.kernel

RULE = {"name": "burst", "count": "connections", "limit": 20, "window": "10m", "action": "block", "block": "10m"}
NETWORKS = [f"198.18.{number}.1" for number in range(60)]
SECONDS = 3


def flood(host: Host, address: str) -> tuple[int, float]:
    """Two processes of a tenant's, and beside them another spammer and an innocent user.

    Returns:
        How many attempts the two made, and how many seconds lay between the first and the last.
    """
    begun = time.monotonic()
    words = [sys.executable, "-c", FLOOD, str(SPAMMER[1]), str(SECONDS), address]
    children = [host.lab.start(words, inside=True) for _ in range(2)]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "flooding\n"
    assert host.connect(INNOCENT, 20).ok == 20
    other = host.connect(OTHER, 60, rate=100, to=NETWORKS)
    print(f"{address}: {other.ok} of another's passed, limit {RULE['limit']}")
    wait_for(lambda: OTHER[0] in {row["USER"] for row in host.events("BLOCK")})
    attempts = sum(int(child.communicate(timeout=SECONDS + 30)[0]) for child in children)
    return attempts, time.monotonic() - begun


def read_status(host: Host) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(host.cli("status", "--json").stdout)
    return found


def test_a_uid_is_told_of_so_often_and_counted_beyond() -> None:
    """To an exempt network: no rule counts these, so no limit ends them."""
    quiet = {"process": False, "rdns": False}
    with Host(rules=[RULE], sources=["nflog"], exempt={"destinations": ["203.0.113.0/24"]}, attribution=quiet) as host:
        host.start()
        attempts, took_s = flood(host, "203.0.113.9")
        assert host.connect(SHARED).ok == 1  # the number of what is told of it shows a gap before it

        def told() -> int:
            """How many the source has told of, once those, what it lost and what was counted are all."""
            status = read_status(host)
            source = status["sources"][0]
            found: int = source["events"] + source["lost"] - 81
            rows = [(row["user"], row["attempts"] + found) for row in status["not_recorded"]]
            print(f"{attempts} attempts, {source['events']} events, {source['lost']} lost, {rows} with them")
            return found if rows == [(SPAMMER[0], attempts)] else 0

        found = wait_for(told)
        assert found <= RATE * (took_s + 1), "so many at once, and so many a second"
        assert attempts > found


def test_loopback_is_not_told_of_where_it_does_not_count() -> None:
    with Host(rules=[RULE], sources=["nflog"]) as host:
        host.start()
        assert flood(host, "127.0.0.1")[0] > 1000
        wait_for(lambda: read_status(host)["sources"][0]["events"] == 80)
        assert read_status(host)["not_recorded"] == []
        host.configure(loopback="count")
        assert host.cli("reload").returncode == 0
        assert host.connect(SPAMMER, 1, to=["127.0.0.1"]).refused == 1, "nobody listens there"
        wait_for(lambda: read_status(host)["sources"][0]["events"] == 81)
        assert host.cli("reload").returncode == 0


@pytest.mark.parametrize("key", [bytes(4), bytes(12)])
def test_counts_by_another_key_are_nobodys(key: bytes) -> None:
    """A template of the administrator's may have a set of that name."""
    element = b"".join(attribute(number, value) for number, value in ((1, attribute(1, key)), (7, counter())))
    assert read_port_counts([attribute(1, element)]) == {}


def attribute(kind: int, value: bytes) -> bytes:
    return (
        (len(value) + 4).to_bytes(2, sys.byteorder) + kind.to_bytes(2, sys.byteorder) + value + bytes(-len(value) % 4)
    )


def counter() -> bytes:
    return attribute(1, b"counter\0") + attribute(2, attribute(2, (3).to_bytes(8, "big")))
