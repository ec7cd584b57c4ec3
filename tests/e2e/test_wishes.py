"""Blocks, allowances and the panic switch as people type them, with the real daemon."""

import json
import re
from collections.abc import Iterator

import pytest

from smtpguard.control.client import ask
from tests.support.host import INNOCENT, SPAMMER, Host

pytestmark = pytest.mark.kernel

RULES = [
    {"name": "mx-fanout", "ports": [25], "count": "networks", "limit": 0, "window": "10m", "action": "throttle"},
    {"name": "busy", "ports": [587], "count": "connections", "limit": 5, "window": "10m", "action": "throttle"},
]


@pytest.fixture
def host() -> Iterator[Host]:
    with Host(rules=RULES, sources=["bpf"], attribution={"process": False}) as made:
        made.start()
        yield made


def test_a_second_block_and_the_panic_switch(host: Host) -> None:
    assert host.cli("block", SPAMMER[0], "--for", "2h", "--reason", "called").returncode == 0
    longer = ask(f"{host.lab.directory}/control.sock", "blocks")["items"][0]["until"]
    assert host.cli("block", SPAMMER[0]).returncode == 0
    (row,) = ask(f"{host.lab.directory}/control.sock", "blocks")["items"]
    assert (row["until"], row["why"]) == (pytest.approx(longer, abs=0.1), "called")
    assert re.search(r"until .* \(was until .*, now ", host.cli("block", SPAMMER[0], "--for", "10m").stdout)
    assert host.cli("blocks").stdout.startswith("USER")

    assert re.match(r"OFF until 2", host.cli("off").stdout)
    shown = host.cli("blocks").stdout
    assert re.match(r"OFF until 2.*: nobody is refused", shown)
    assert "suspended" in shown
    assert [row["suspended"] for row in json.loads(host.cli("blocks", "--json").stdout)] == [True]
    off = ask(f"{host.lab.directory}/control.sock", "blocks")["off"]
    assert off["until"] - row["since"] == pytest.approx(4 * 3600, abs=60)
    assert not host.connect(SPAMMER).refused
    assert host.cli("off", "--for", "ever").stdout.startswith("OFF until `smtpguard on`")
    assert host.cli("on").returncode == 0
    assert host.connect(SPAMMER).refused


def test_an_allowance_opens_no_more_than_it_says(host: Host) -> None:
    assert host.connect(SPAMMER, 20, port=587).ok == 5
    assert host.connect(SPAMMER, 8).refused >= 1
    assert host.cli("allow", SPAMMER[0], "--for", "1h").returncode == 0
    assert host.connect(SPAMMER, 100, port=587).ok == 50, "ten times as many"
    assert host.connect(SPAMMER, 60).ok == 0, "mail servers of strangers are no newsletter's"
    assert host.cli("allow", SPAMMER[0], "--for", "1h", "--everything").returncode == 0
    assert (host.connect(SPAMMER, 80, port=587).ok, host.connect(SPAMMER, 5).ok) == (80, 5)
    assert host.cli("allow", INNOCENT[0], "--for", "32d").returncode == 1


def test_what_goes_on_during_an_allowance_is_exact_in_the_kernel() -> None:
    rules = [
        RULES[0] | {"limit": 3, "action": "block", "block": "1h"},
        RULES[1] | {"ports": [25, 587], "limit": 5},
    ]
    fan = [f"198.18.{number}.1" for number in range(40)]
    with Host(rules=rules, sources=["bpf"], cap={"rate": "1/hour", "burst": 2}) as host:
        host.start()
        limits = json.loads(host.cli("status", "--json").stdout)["limits"]
        assert limits == {"exact": ["mx-fanout", "busy"], "judged": {}}
        assert host.connect(SPAMMER, 4, port=587).ok == 2
        assert host.cli("allow", SPAMMER[0], "--for", "1h").returncode == 0
        assert host.connect(SPAMMER, 60, port=587).ok == 50, "ten times as many, and no cap"
        assert host.cli("allow", SPAMMER[0], "--for", "1h", "--limit", "100/1h").returncode == 0
        assert host.connect(SPAMMER, 70, port=587).ok == 70, "no other rule"
        assert host.connect(SPAMMER, 40, to=fan).ok == 3
        assert host.cli("unblock", SPAMMER[0]).returncode == 0
        assert host.connect(SPAMMER, 40, to=fan[20:]).ok == 3, "its window is empty"
        assert host.cli("allow", SPAMMER[0], "--end").returncode == 0
        assert host.connect(SPAMMER, 10, port=587).ok <= 2, "the cap again"
        assert host.connect(INNOCENT, 10, port=587).ok == 2
