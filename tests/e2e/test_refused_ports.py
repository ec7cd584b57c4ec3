"""A block refuses the ports that its rule counts, and the user's other mail goes out, whatever happens meanwhile."""

import signal
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from smtpguard.control.client import ask
from smtpguard.demo.lab import PEER4
from tests.support.host import INNOCENT, SPAMMER, SUBUIDS, Host, wait_for

pytestmark = pytest.mark.kernel

OWN = {"block": "1h", "action": "block", "window": "10m", "count": "connections"}
RULES = [
    {"name": "mx", "ports": [25], "limit": 200, **OWN},
    {"name": "submission", "ports": [587], "limit": 500, **OWN, "block": "30m"},
]
SUBUID = (f"uid:{SUBUIDS[0] + 7}", SUBUIDS[0] + 7)


@pytest.fixture
def host(request: pytest.FixtureRequest) -> Iterator[Host]:
    settings: dict[str, Any] = {"sources": ["bpf"]} | getattr(request, "param", {})
    with Host(rules=RULES, breaker={"blocks": 100, "per": "10m"}, attribution={"process": False}, **settings) as made:
        made.start()
        yield made


def list_blocks(host: Host, user: tuple[str, int] = SPAMMER) -> dict[str, dict[str, Any]]:
    """By what they refuse."""
    rows = ask(f"{host.lab.directory}/control.sock", "blocks")["items"]
    return {str(row["ports"]): row for row in rows if row["uid"] == user[1]}


def refused(host: Host, user: tuple[str, int] = SPAMMER) -> list[int]:
    return [port for port in (25, 465, 587, 2525) if host.connect(user, port=port).refused]


def is_in_step(host: Host) -> bool:
    rows = ask(f"{host.lab.directory}/control.sock", "status")["status"]["enforcement"]
    return all(row.get("in_step") in (True, None) for row in rows)


@pytest.mark.parametrize(
    "host",
    [{"sources": ["nflog"]}, {"sources": ["bpf"]}],
    ids=["nft alone", "bpf and nft"],
    indirect=True,
)
def test_only_the_ports_that_the_rule_counts_are_refused(host: Host) -> None:
    on_25 = host.session(SPAMMER, seconds=60, port=25)
    on_587 = host.session(SPAMMER, seconds=4, port=587)
    of_subuid = host.session(SUBUID, seconds=60, port=25)
    host.connect(SPAMMER, 201)
    wait_for(lambda: list_blocks(host))
    assert list_blocks(host).keys() == {"[25]"}
    assert host.connect(SPAMMER).refused == host.connect(SUBUID).refused == 1
    assert [refused(host), refused(host, SUBUID), refused(host, INNOCENT)] == [[25], [25], []]
    assert "reset" in on_25.communicate(timeout=20)[0]
    assert "reset" in of_subuid.communicate(timeout=20)[0]
    assert "reset" not in on_587.communicate(timeout=20)[0], "what was not wrong goes on"
    wait_for(lambda: host.events("BLOCK"))
    assert [(row["KIND"], row["PORTS"]) for row in host.events("BLOCK")] == [("block", "25")]

    host.connect(SPAMMER, 501, port=587)
    wait_for(lambda: len(list_blocks(host)) == 2)
    assert refused(host) == [25, 587], "a second one adds"
    ends = {ports: row["until"] - row["since"] for ports, row in list_blocks(host).items()}
    assert ends["[25]"] < 3700
    assert 3500 < ends["[587]"] < 3700, "half an hour, escalated, and apart from the other's"
    assert is_in_step(host)
    assert host.cli("unblock", SPAMMER[0]).returncode == 0
    assert refused(host) == refused(host, SUBUID) == []
    wait_for(lambda: len(host.events("UNBLOCK")) == 2)
    assert {row["PORTS"] for row in host.events("UNBLOCK")} == {"25", "587"}


@pytest.mark.parametrize("host", [{"block": {"verdict": "tell", "by": "guard"}}], indirect=True)
def test_who_is_told_why_is_told_at_these_ports_alone(host: Host) -> None:
    greet = (
        "import os, socket; os.setresuid(*3 * [{uid}]);"
        " print([socket.create_connection(('{peer}', port), 5).recv(3).decode() for port in (25, 587)])"
    )

    def greetings(user: tuple[str, int]) -> str:
        return host.lab.run([sys.executable, "-c", greet.format(uid=user[1], peer=PEER4)], inside=True).stdout

    host.connect(SPAMMER, 201)
    # nftables, which sends them elsewhere, hears of a verdict 20 ms after the list.
    wait_for(lambda: str(SPAMMER[1]) in host.nft("list", "set", "inet", "smtpguard", "blocked_25"))
    assert [greetings(user).strip() for user in (SPAMMER, SUBUID)] == ["['421', '220']"] * 2


def test_it_lives_through_a_kill_a_flush_a_reload_and_a_restart(host: Host) -> None:
    host.connect(SPAMMER, 201)
    assert host.cli("block", INNOCENT[0], "--ports", "465,2525", "--for", "1h").returncode == 0

    def is_so() -> bool:
        return refused(host) == [25] and refused(host, INNOCENT) == [465, 2525] and is_in_step(host)

    assert is_so()
    until = {ports: row["until"] for ports, row in list_blocks(host).items()}
    host.nft("flush", "ruleset")
    wait_for(is_so)
    assert host.cli("reload").returncode == 0
    assert is_so()
    for number in (signal.SIGKILL, signal.SIGTERM):
        host.stop(number)
        assert refused(host) == [25], "by nft, without a daemon"
        host.start()
        wait_for(is_so)
        kept = {ports: row["until"] for ports, row in list_blocks(host).items()}
        assert kept.keys() == until.keys()
        assert all(abs(kept[ports] - until[ports]) < 0.1 for ports in kept)
    host.configure(ports=[25, 587])
    assert host.cli("reload").returncode == 0
    assert refused(host) == [25]
    host.configure(ports=[25, 465, 587, 2525])
    assert host.cli("reload").returncode == 0
    wait_for(is_so)
    host.nft("add", "element", "inet", "smtpguard", "blocked_587", f"{{ {SPAMMER[1]} timeout 10m }}")
    wait_for(lambda: "[587]" in list_blocks(host))
    assert refused(host) == [25, 587]
    for user in (SPAMMER, INNOCENT):
        assert host.cli("unblock", user[0]).returncode == 0
        assert refused(host, user) == []


def test_by_hand_it_refuses_all_or_what_was_said(host: Host) -> None:
    assert "on ports 25, 587 until" in host.cli("block", SPAMMER[0], "--ports", "587,25", "--for", "2h").stdout
    assert refused(host) == [25, 587]
    assert host.cli("block", SPAMMER[0], "--for", "10m").returncode == 0
    assert refused(host) == [25, 465, 587, 2525]
    table = host.cli("blocks").stdout
    assert "PORTS" in table.splitlines()[1]
    assert {"all", "25,587"} <= set(table.split())
    wrong = host.cli("block", SPAMMER[0], "--ports", "26")
    assert (wrong.returncode, "port 26 is not guarded here" in wrong.stderr) == (1, True)
    assert host.cli("block", SPAMMER[0], "--ports", "25;26").returncode == 2
