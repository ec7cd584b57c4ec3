"""Attack 3: a tenant's attempts that count for nothing, at full speed, push out of the ring what counts for others."""

import ctypes
import json
import signal
import sys
import time
from collections.abc import Iterator
from ipaddress import ip_network

import pytest

from smtpguard.actions.bpf_deny import BpfDeny
from smtpguard.clock import boottime_ns
from smtpguard.model import NS, Connect
from smtpguard.policy.credit_rules import CreditRule
from smtpguard.sources.bpf import maps
from smtpguard.sources.bpf.kernel_credits import Credits
from smtpguard.sources.bpf.source import BpfSource
from tests.kernel.bpf_lab import ADDRESS4, Lab, block, dial, open_lab, read_while, run_as
from tests.support.attackers import FLOOD
from tests.support.host import INNOCENT, OTHER, SPAMMER, Host, wait_for

pytestmark = pytest.mark.kernel

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
RULE = {"name": "burst", "count": "connections", "limit": 20, "window": "10m", "action": "block", "block": "10m"}


@pytest.fixture
def lab() -> Iterator[Lab]:
    with open_lab() as made:
        yield made


def burst(count: int, address: str = ADDRESS4, port: int = 25) -> int:
    for _ in range(count):
        dial(address, port, nonblocking=True)
    return count


def elapsed_s(since_ns: int) -> float:
    return (boottime_ns() - since_ns) / NS


def unsent(source: BpfSource) -> dict[tuple[int, int, str], int]:
    return {(row.owner, row.port, row.news or row.refused_by or "passed"): row.count for row in source.read_unsent()}


def test_loopback_that_does_not_count_sends_nothing(lab: Lab) -> None:
    lab.source.guard.replace_exemptions([], [], loopback=True)
    run_as(61001, lab.cgroup, lambda: [dial("127.0.0.1"), dial("0.0.0.0"), dial("::1"), dial("::ffff:127.0.0.2")])
    assert lab.events() == []
    assert lab.source.take_reports() == []
    lab.source.guard.replace_exemptions([], [], loopback=False)
    run_as(61001, lab.cgroup, lambda: dial("127.0.0.1"))
    assert len(lab.events()) == 1, "where it counts it is told"


def test_one_user_has_one_share_of_the_ring(lab: Lab) -> None:
    begun_ns = boottime_ns()
    _, seen = read_while(lab, 61001, lambda: burst(20_000))
    took_s = elapsed_s(begun_ns)
    _, others = read_while(lab, 61002, lambda: burst(20))
    ours = sum(event.uid == 61001 for event in seen)
    assert sum(event.uid == 61002 for event in others) == 20
    assert 1900 < ours <= 2000 + 2000 * took_s + 1, "so many at once, and so many a second"
    counted = unsent(lab.source)
    assert ours + counted[61001, 25, "passed"] == 20_000
    assert lab.source.guard.read_count(maps.COUNT_LOST) == 0
    assert 61002 not in {owner for owner, _, _ in counted}


def test_refused_attempts_have_a_smaller_share_of_their_own(lab: Lab) -> None:
    deny = BpfDeny(lab.source.guard)
    lab.source.guard.set_enforcing(on=True)
    deny.apply_deny(block(61001))
    run_as(61001, lab.cgroup, lambda: burst(20_000))
    refused = len(lab.events())
    assert refused < 4096
    assert refused + unsent(lab.source)[61001, 25, "block"] == 20_000


def test_networks_that_were_reached_before_are_no_free_share(lab: Lab) -> None:
    """Each attempt there refreshes a key in the kernel: no limit bounds how many these are."""
    lab.source.guard.set_enforcing(on=True)
    rule = CreditRule(ports=frozenset({25}), limit=10, window_ns=600 * NS, name="fanout", count="networks")
    Credits(lab.source.guard, boottime_ns()).start([rule], boottime_ns())
    networks = [f"198.18.{number}.1" for number in range(10)]
    _, seen = read_while(lab, 61001, lambda: sum(burst(2000, address) for address in networks))
    assert len(seen) < 15_000
    assert len(seen) + unsent(lab.source)[61001, 25, "passed"] == 20_000
    assert {event.address[2] for event in seen} == set(range(10)), "a network that is new is always told"


def test_what_goes_where_nothing_counts_hides_nothing_that_does(lab: Lab) -> None:
    """Exempt destinations and the host's own addresses: no limit bounds how many these are."""
    lab.source.guard.set_enforcing(on=True)
    lab.source.guard.replace_exemptions([], [ip_network(ADDRESS4)], loopback=True)

    def flood() -> int:
        """Of what counts nowhere 8000 more than a share holds."""
        count, since_ns = 0, boottime_ns()
        while count < 10_000 + 2000 * elapsed_s(since_ns):
            count += burst(1000)
        return count + burst(200, "198.18.7.7")

    begun_ns = boottime_ns()
    attempts, seen = read_while(lab, 61001, flood)
    took_s = elapsed_s(begun_ns)
    assert sum(event.address == bytes([198, 18, 7, 7]) for event in seen) == 200
    assert len(seen) <= 200 + 2000 + 2000 * took_s + 1, "a share of its own: so many at once, and so many a second"
    assert len(seen) < attempts


def test_namespaces_of_ones_own_are_no_further_shares(lab: Lab) -> None:
    def flood() -> int:
        assert ctypes.CDLL(None).unshare(CLONE_NEWUSER | CLONE_NEWNET) == 0  # nothing is routed there
        return burst(5000)

    begun_ns, seen = boottime_ns(), list[Connect]()
    for _ in range(4):
        seen += read_while(lab, 61001, flood)[1]
    assert len({event.netns for event in seen}) > 1
    assert len(seen) <= 2000 + 2000 * elapsed_s(begun_ns) + 1, "one share"
    assert len(seen) < 20_000
    assert len(seen) + sum(unsent(lab.source).values()) == 20_000


def lost_by_report(host: Host) -> int:
    """What the source lost, as the report has it."""
    done = host.cli("report", "--since", "1h", "--format", "json")
    assert done.returncode == 0, done.stderr
    losses = json.loads(done.stdout)["losses"]
    return int(losses.get("bpf: events", 0) + losses.get("bpf: only counted", 0))


def check_lost(host: Host, lost: int) -> None:
    """What was lost a second ago is in the history, and a kill takes none of it; so is when it was off."""
    assert [host.cli(word).returncode for word in ("off", "on")] == [0, 0]
    wait_for(lambda: lost_by_report(host) == lost)
    host.stop(signal.SIGKILL)
    assert lost_by_report(host) == lost
    events = json.loads(host.cli("events", "--kind", "lost", "--json").stdout)["events"]
    assert sum(sum(count for kind, count in row["losses"].items() if kind != "bpf: outcomes") for row in events) == lost
    host.start()
    assert lost_by_report(host) == lost, "and nothing twice"
    assert len(json.loads(host.cli("report", "--format", "json").stdout)["off"]) == 1
    assert "The guard was off, and refused nobody, from " in host.cli("report").stdout


def test_with_the_real_guard() -> None:
    """Loopback, routes that fail and refused attempts at full speed; an accomplice and an innocent beside it."""
    with Host(rules=[RULE]) as host:
        host.start()
        floods = [
            host.lab.start([sys.executable, "-c", FLOOD, str(SPAMMER[1]), "4", address], inside=True)
            for address in ("127.0.0.1", "100.64.0.1", "192.0.2.2")
        ]
        for flood in floods:
            assert flood.stdout is not None
            assert flood.stdout.readline() == "flooding\n"
        networks = [f"198.18.{number}.1" for number in range(60)]
        accomplice = host.connect(OTHER, 60, to=networks)
        assert accomplice.ok == RULE["limit"]
        assert host.connect(INNOCENT, 20).ok == 20
        wait_for(lambda: [row for row in host.events("EXCEEDED") if row["USER"] == OTHER[0]])
        attempts = [int(flood.communicate(timeout=30)[0]) for flood in floods]
        time.sleep(1.2)  # losses are looked at once a second,
        host.is_ready()  # and in this turn of the loop at the latest
        status = json.loads(host.cli("status", "--json").stdout)
        assert status["sources"][0]["lost"] > 0
        assert any("lost" in text for text in status["troubles"]), status["troubles"]
        assert {row["user"] for row in status["not_recorded"]} == {SPAMMER[0]}
        assert not [row for row in host.events("EXCEEDED") if row["USER"] == INNOCENT[0]]
        print(f"{attempts} attempts; worst stall {status['worst_stall_ms']} ms; lost {status['sources'][0]['lost']}")
        assert f"not recorded: {SPAMMER[0]}" in host.cli("status").stdout
        check_lost(host, status["sources"][0]["lost"])
