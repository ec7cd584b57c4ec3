"""The cap with the real daemon: exactly the bucket, for the right people, whatever becomes of us; told in `status`."""

import json
import re
import signal
import time
from collections.abc import Iterator

import pytest

from tests.support.host import INNOCENT, OTHER, POSTFIX, ROOT, SHARED, SPAMMER, Host, wait_for

pytestmark = pytest.mark.kernel

BURST = 30
NEVER_REFILLED = {"rate": "1/hour", "burst": BURST}
HIGH = {"name": "high", "count": "connections", "limit": BURST + 5, "window": "10m", "action": "block"}
SOURCES = ["bpf", "nflog"]


def rule(host: Host) -> list[str]:
    """The cap's rule in the kernel."""
    return [line.strip() for line in host.nft("list", "ruleset").splitlines() if "@ratecap" in line]


@pytest.fixture(params=SOURCES)
def host(request: pytest.FixtureRequest) -> Iterator[Host]:
    with Host(rules=[HIGH], sources=[request.param], cap=NEVER_REFILLED, exempt={"users": [OTHER[0]]}) as made:
        made.start()
        yield made


def test_six_processes_get_exactly_the_bucket_and_no_verdict(host: Host) -> None:
    children = [host.begin(SPAMMER, 300) for _ in range(6)]
    assert sum(host.outcome(child).ok for child in children) == BURST
    assert host.connect(INNOCENT, 10).ok == 10, "each user has a bucket of their own"
    wait_for(lambda: any(row["RESULT"] == "refused" for row in host.events("CONNECT")))
    time.sleep(0.3)
    assert host.events("EXCEEDED") == [], f"{BURST} of 1,800 attempts are in a window that holds {BURST + 5}"
    assert host.cli("blocks").stdout.count("web01") == 0


@pytest.mark.parametrize("source", SOURCES)
def test_the_bucket_refills_at_its_rate(source: str) -> None:
    with Host(rules=[], sources=[source], cap={"rate": "10/second", "burst": BURST}) as host:
        host.start()
        begun = time.monotonic()
        children = [host.begin(SPAMMER, 200) for _ in range(6)]
        before = sum(host.outcome(child).ok for child in children)
        time.sleep(1)
        passed = host.connect(SPAMMER, 100).ok
        took = time.monotonic() - begun
        assert passed >= 10
        assert BURST + 10 <= before + passed <= BURST + 10 * took + 1, f"in {took:.1f} s"


def test_who_may_not_be_refused_never_meets_it(host: Host) -> None:
    for user in (ROOT, POSTFIX, SHARED, OTHER):
        assert host.connect(user, 3 * BURST).ok == 3 * BURST, user
    assert host.cli("allow", SPAMMER[0], "--for", "1h").returncode == 0
    assert host.connect(SPAMMER, 3 * BURST).ok == 3 * BURST
    assert host.cli("allow", SPAMMER[0], "--end").returncode == 0
    assert host.connect(SPAMMER, 3 * BURST).ok <= BURST


def test_the_rule_stays_when_the_daemon_is_killed(host: Host) -> None:
    assert host.connect(SPAMMER, 2 * BURST).ok == BURST
    before = rule(host)
    assert len(before) == 1
    host.stop(signal.SIGKILL)
    assert rule(host) == before
    assert host.connect(SPAMMER, 10).ok == 0, "what was used stays used"
    children = [host.begin(INNOCENT, 100) for _ in range(6)]
    assert sum(host.outcome(child).ok for child in children) == BURST
    assert host.connect(OTHER, 2 * BURST).ok == 2 * BURST
    assert host.connect(SHARED, 2 * BURST).ok == 2 * BURST


def test_status_tells_whom_it_refused_and_how_often(host: Host) -> None:
    shown = json.loads(host.cli("status", "--json").stdout)
    assert (shown["cap"], shown["capped"]) == ({"rate": 1, "per": 3600.0, "burst": BURST}, [])
    assert re.search(rf"cap: {BURST} at once, 1 in 1 h\. Refused: nobody", host.cli("status").stdout)
    host.connect(SPAMMER, BURST + 7)
    host.connect(INNOCENT, BURST + 1)
    shown = json.loads(host.cli("status", "--json").stdout)
    assert shown["capped"] == [
        {"user": SPAMMER[0], "uid": SPAMMER[1], "refused": 7},
        {"user": INNOCENT[0], "uid": INNOCENT[1], "refused": 1},
    ]
    assert "Refused: web01 7 times, web02 1 times" in host.cli("status").stdout


def test_a_reload_takes_it_away_and_brings_another(host: Host) -> None:
    assert host.connect(SPAMMER, 2 * BURST).ok == BURST
    host.configure(cap=None, rules=[])
    assert host.cli("reload").returncode == 0
    assert rule(host) == []
    assert host.connect(SPAMMER, 2 * BURST).ok == 2 * BURST
    host.configure(cap={"rate": "1/hour", "burst": 5})
    assert host.cli("reload").returncode == 0
    assert host.connect(INNOCENT, 20).ok == 5


@pytest.mark.parametrize("source", SOURCES)
def test_dry_run_has_no_cap(source: str) -> None:
    with Host(rules=[HIGH], sources=[source], cap=NEVER_REFILLED, dry_run=True) as host:
        host.start()
        assert host.connect(SPAMMER, 3 * BURST).ok == 3 * BURST
        assert rule(host) == []
        assert json.loads(host.cli("status", "--json").stdout)["cap"] is None


def test_off_lifts_it_and_on_brings_it_back(host: Host) -> None:
    assert host.connect(SPAMMER, 2 * BURST).ok == BURST
    assert host.cli("off").returncode == 0
    assert host.connect(SPAMMER, 2 * BURST).ok == 2 * BURST
    assert host.cli("on").returncode == 0
    assert host.connect(INNOCENT, 2 * BURST).ok == BURST
