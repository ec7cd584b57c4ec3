"""Containers whose uids are root's subordinate ones, on the host's own network: LXC without a network, `nspawn -U`."""

import time
from collections.abc import Iterator

import pytest

from tests.support.host import SPAMMER, SUBUIDS, Host, wait_for

pytestmark = pytest.mark.kernel

RULE = {"name": "burst", "count": "connections", "limit": 5, "window": "2s", "action": "block", "block": "30m"}
INSIDE = ("uid:900033", 900_033)
"""A user of a container, uid 33 inside."""


@pytest.fixture(params=["bpf", "nflog"])
def host(request: pytest.FixtureRequest) -> Iterator[Host]:
    with Host(rules=[RULE], sources=[request.param], cap={"rate": "60/minute", "burst": 10}) as made:
        made.lab.lay_over("/etc/subuid", f"root:900000:65536\n{SPAMMER[0]}:{SUBUIDS[0]}:{SUBUIDS[1]}\n")
        made.start()
        yield made


def users(host: Host, event: str) -> set[str]:
    return {row["USER"] for row in host.events(event)}


def test_a_uid_of_a_container_of_roots_is_itself_told_of_and_never_refused(host: Host) -> None:
    assert host.connect(INSIDE, 40).ok == 40, "neither rule nor credit nor cap refuses it"
    wait_for(lambda: len(host.events("CONNECT")) == 40)
    wait_for(lambda: users(host, "EXCEEDED"))
    assert users(host, "CONNECT") == users(host, "EXCEEDED") == {INSIDE[0]}
    assert {row["MODE"] for row in host.events("EXCEEDED")} == {"dry-run"}
    assert "root" not in host.cli("status").stdout.replace("as root", "")
    assert host.connect(SPAMMER, 100, rate=200).refused > 20, "a customer is refused as ever"


def test_a_persons_word_refuses_it_and_takes_that_back(host: Host) -> None:
    assert host.connect(INSIDE, 6).ok == 6
    assert host.cli("block", INSIDE[0], "--for", "10m").returncode == 0
    assert host.connect(INSIDE, 3).refused == 3
    assert INSIDE[0] in host.cli("blocks").stdout
    assert host.cli("unblock", INSIDE[0]).returncode == 0
    assert host.connect(INSIDE, 8).ok == 8


def test_fail2ban_refuses_neither_it_nor_root_in_its_stead(host: Host) -> None:
    now = str(int(time.time()))
    words = ["block", "--source", "fail2ban:x", "--uid", str(INSIDE[1]), "--at", now, "--for", "600", "--"]
    done = host.cli(*words, INSIDE[0])
    assert done.returncode == 1
    assert "uid:900033 is not blocked: container" in done.stderr
    assert host.connect(INSIDE, 3).ok == 3


def test_a_range_that_becomes_roots_while_the_guard_runs_is_a_containers_from_then_on(host: Host) -> None:
    host.lab.lay_over("/etc/subuid", "root:900000:65536\nroot:800000:65536\n")

    def is_let_be() -> bool:
        return host.connect(("uid:800001", 800_001), 20).ok == 20

    wait_for(is_let_be, 15)
