"""Attack: root of a container takes the number of a customer of the host, and floods, so that it falls on the customer.

In a container without a user namespace of its own (Docker's default) every uid is free to take. What it does is told
of as a container's (THREATS 4), but its floods used up the customer's budgets of events, lines and looks, and `status`
named the customer.
"""

import ctypes
import json
import os
import sys
from dataclasses import replace

import pytest

from smtpguard.actions.suppression import LINES_BEYOND_LIMIT, Suppression
from smtpguard.clock import boottime_ns
from smtpguard.logline import render_suppressed
from smtpguard.model import NS, Account, SocketReport
from smtpguard.sources.bpf.untracked import Untracked
from tests.kernel.bpf_lab import dial, open_lab, read_while
from tests.support.attackers import FLOOD
from tests.support.evasion_lab import Container
from tests.support.host import SPAMMER, Host, wait_for

CLONE_NEWNET = 0x40000000
RULE = {"name": "many", "count": "connections", "limit": 50, "window": "10m", "action": "block", "block": "10m"}
CUSTOMER = Account(uid=SPAMMER[1], name=SPAMMER[0], standing="tenant")
CONTAINED = Account(uid=SPAMMER[1], name=None, standing="container", reason="in another network namespace")


def test_lines_of_a_container_are_not_the_customers() -> None:
    lines = Suppression()
    while lines.admit(CONTAINED, NS, 0):
        lines.charge(CONTAINED, 300)
    assert lines.admit(CUSTOMER, NS, 0)
    [suppressed] = lines.close()
    assert suppressed.account == CONTAINED
    text = render_suppressed(suppressed.account, NS, count=suppressed.count, seconds=60)
    assert f" USER=uid:{SPAMMER[1]}@container UID=" in text, "it can't be taken for the customer's"


def test_any_number_of_uids_is_one_share_of_the_log() -> None:
    lines = Suppression(max_users=8)
    admitted = 0
    for uid in range(100_000, 100_500):
        contained = replace(CONTAINED, uid=uid)
        admitted += lines.admit(contained, NS, 0)
    assert admitted == LINES_BEYOND_LIMIT
    assert lines.admit(CUSTOMER, NS, 0)
    assert lines.crowded == 0


@pytest.mark.kernel
def test_any_number_of_uids_is_one_share_of_the_ring() -> None:
    with open_lab() as lab:

        def flood() -> int:
            """As root of a container does, who is not root of another user namespace; 4000 more than a share holds."""
            assert ctypes.CDLL(None).unshare(CLONE_NEWNET) == 0
            begun_ns, count = boottime_ns(), 0
            while count < 6000 + 2000 * (boottime_ns() - begun_ns) / NS:
                for uid in range(100_000 + count, 101_000 + count):
                    os.setresuid(uid, 0, 0)
                    dial("198.18.0.1", nonblocking=True)
                count += 1000
            return count

        begun_ns = boottime_ns()
        attempts, seen = read_while(lab, 0, flood)
        took_s = (boottime_ns() - begun_ns) / NS
        assert len(seen) <= 2000 + 2000 * took_s + 1, "one share: so many at once, and so many a second"
        assert len(seen) < attempts
        assert len(lab.source.guard.map("budgets").read_all()) < 10
        rows = [(row.owner, row.elsewhere, row.count) for row in lab.source.read_unsent()]
        assert rows == [(0, True, attempts - len(seen))]


def test_hidden_sessions_of_a_container_are_not_the_customers() -> None:
    untracked = Untracked()
    for netns in (7, None):
        untracked.note(report(netns))
    contained, own = untracked.warnings(NS)
    assert contained.startswith("somebody in other network namespaces hides its sessions: 1 sockets")
    assert own.startswith(f"uid {SPAMMER[1]} hides")


def report(netns: int | None) -> SocketReport:
    return SocketReport(
        time_ns=NS,
        kind="untracked",
        uid=SPAMMER[1],
        netns=netns,
        cookie=1,
        connect_time_ns=NS,
        port=25,
        address=bytes(4),
        latency_ns=None,
        bytes_sent=0,
        bytes_received=0,
        retransmissions=0,
    )


@pytest.mark.kernel
def test_with_the_real_guard() -> None:
    with Host(rules=[RULE], attribution={"process": False, "rdns": False}) as host:
        box = Container(host.lab)
        try:
            host.start()
            words = [sys.executable, "-c", FLOOD, str(SPAMMER[1]), "60", "203.0.113.9"]
            flood = host.lab.start(words, inside=True, net=box.path)
            wait_for(lambda: read_not_recorded(host))
            assert host.connect(SPAMMER, 20).ok == 20
            wait_for(lambda: len([row for row in host.events("CONNECT") if row["USER"] == SPAMMER[0]]) == 20)
            assert {row["user"] for row in read_not_recorded(host)} == {"@container"}
            assert f"not recorded {SPAMMER[0]}" not in host.cli("status").stdout
            flood.kill()
            flood.wait()
        finally:
            box.close()
        assert host.stop() == 0
        assert {row["USER"] for row in host.events("SUPPRESSED")} == {f"uid:{SPAMMER[1]}@container"}


def read_not_recorded(host: Host) -> list[dict[str, str]]:
    found: list[dict[str, str]] = json.loads(host.cli("status", "--json").stdout)["not_recorded"]
    return found
