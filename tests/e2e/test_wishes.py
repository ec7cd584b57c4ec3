"""Blocks, allowances and the panic switch as people type them, with the real daemon."""

import json
import os
import re
from collections.abc import Iterator

import pytest

from smtpguard.control.client import ask
from smtpguard.errors import GuardError, PrivilegeError
from smtpguard.model import NS
from tests.fakes.namespaces import run_forked
from tests.support.host import INNOCENT, OTHER, SPAMMER, Host, wait_for

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
    assert host.cli("blocks").stdout.startswith("REFUSED NOW\nUSER")

    assert re.match(r"OFF until 2", host.cli("off").stdout)
    shown = host.cli("blocks").stdout
    assert re.match(r"OFF until 2.*: nobody is refused", shown)
    assert "suspended" in shown
    assert [row["suspended"] for row in json.loads(host.cli("blocks", "--json").stdout)] == [True]
    off = ask(f"{host.lab.directory}/control.sock", "blocks")["off"]
    assert off["until"] - row["since"] == pytest.approx(4 * 3600, abs=60)
    assert not host.connect(SPAMMER).refused
    said = host.cli("block", INNOCENT[0], "--for", "1h").stdout
    assert "smtpguard is OFF: nothing is refused before `smtpguard on`" in said
    assert not host.connect(INNOCENT).refused
    assert host.cli("off", "--for", "ever").stdout.startswith("OFF until `smtpguard on`")
    assert host.cli("on").returncode == 0
    assert host.connect(SPAMMER).refused
    assert host.connect(INNOCENT).refused, "what was asked for meanwhile holds now"


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


def test_an_allowance_ends_with_a_line(host: Host) -> None:
    assert host.cli("allow", SPAMMER[0], "--for", "2s", "--reason", "campaign").returncode == 0
    first, last = wait_for(lambda: rows if len(rows := host.events("ALLOW")) == 2 else None)
    assert (first["BY"], first["REASON"], last["BY"], last["REASON"]) == ("admin", "campaign", "time", "ended")
    assert last["UNTIL"] == first["UNTIL"]
    assert host.cli("allow", SPAMMER[0], "--for", "1h").returncode == 0
    assert host.cli("allow", SPAMMER[0], "--end").returncode == 0
    rows = wait_for(lambda: rows if len(rows := host.events("ALLOW")) == 4 else None)
    assert (rows[3]["BY"], rows[3]["REASON"]) == ("admin", "ended")
    assert rows[3]["UNTIL"] < rows[2]["UNTIL"]


def test_whom_nothing_refuses_needs_no_allowance(host: Host) -> None:
    for name in ("root", "uid:0"):
        done = host.cli("allow", name, "--for", "1h")
        assert done.returncode == 1
        assert "root is never refused and never counted: there is nothing to allow" in done.stderr
    assert json.loads(host.cli("blocks", "--json").stdout) == []
    assert "is never refused anyway" in host.cli("allow", "postfix", "--for", "1h").stdout


def test_the_door_of_the_groups_members() -> None:
    """A member of control.group: at most allow_max, nothing for whom an administrator blocked, no other verb."""
    control = {"group": "mailers", "verbs": ["status", "blocks", "allow"], "allow_max": "2h"}
    with Host(rules=RULES, attribution={"process": False}) as host:
        socket = f"{host.lab.directory}/control.sock"
        host.configure(control={"socket": socket, **control})
        host.lab.directory.chmod(0o755)
        host.start()
        gid = next(
            int(row.split(":")[2]) for row in host.lab.read("/etc/group").splitlines() if row.startswith("mailers:")
        )
        assert host.cli("block", INNOCENT[0], "--for", "1h").returncode == 0

        def member() -> None:
            os.setgroups([gid])
            os.setresgid(OTHER[1], OTHER[1], OTHER[1])
            os.setresuid(OTHER[1], OTHER[1], OTHER[1])
            hour_ns = 3600 * NS
            assert ask(socket, "status")["status"]["ready"]
            with pytest.raises(GuardError, match="may allow at most 2 h"):
                ask(socket, "allow", user=SPAMMER[0], for_ns=2 * hour_ns + 1)
            with pytest.raises(GuardError, match="an administrator has blocked this user"):
                ask(socket, "allow", user=INNOCENT[0], for_ns=hour_ns)
            for verb, more in (("block", {"user": SPAMMER[0]}), ("unblock", {"user": INNOCENT[0]}), ("off", {}),
                               ("learn", {"spans": [[1, 2]]}), ("reload", {})):  # fmt: skip
                with pytest.raises(PrivilegeError):
                    ask(socket, verb, **more)
            assert "may open 10 times" in ask(socket, "allow", user=SPAMMER[0], for_ns=2 * hour_ns)["text"]

        run_forked(member)
        assert host.connect(INNOCENT).refused == 1
        assert host.connect(SPAMMER, 20, port=587).ok == 20
        rows = json.loads(host.cli("blocks", "--json").stdout)
        assert sorted((row["user"], row["kind"]) for row in rows) == [(SPAMMER[0], "allow"), (INNOCENT[0], "block")]
        assert "asked by web03" in host.stderr()
        assert host.cli("allow", INNOCENT[0], "--for", "20d").returncode == 0, "root may, for longer too"
