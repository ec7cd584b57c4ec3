"""Whose accounts are, with the real daemon: a panel's files or a command; limits by package; domains where users go."""

import json
import os
import shutil
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from smtpguard.control.client import subscribe
from smtpguard.control.watch_item import TOPIC
from tests.support.host import INNOCENT, OTHER, SPAMMER, Host, wait_for
from tests.support.standstill import Standstill

if TYPE_CHECKING:
    from smtpguard.control.protocol import Json

pytestmark = pytest.mark.kernel

RULE = {"name": "burst", "count": "connections", "limit": 3, "window": "10m", "action": "block", "block": "30m"}
MORE = {"burst": {"limit": 6}}
CALM = {"blocks": 100, "per": "10m"}


class Panel:
    """HestiaCP's files, where programs of the laboratory see them."""

    def __init__(self, host: Host, folder: Path) -> None:
        self.users = folder / "hestia/data/users"
        self.users.mkdir(parents=True)
        host.lab.lay_directory_over("/usr/local", folder)

    def put(self, user: str, package: str, *domains: str) -> None:
        fresh = self.users / f".{user}"
        fresh.mkdir()
        (fresh / "user.conf").write_text(
            f"NAME='x'\nPACKAGE='{package}'\nCONTACT='owner@{domains[0]}'\nLANGUAGE='de'\n"
        )
        (fresh / "web.conf").write_text("".join(f"DOMAIN='{domain}' ALIAS='' SSL='no'\n" for domain in domains))
        shutil.rmtree(self.users / user, ignore_errors=True)
        fresh.rename(self.users / user)


def read_account(host: Host, user: str) -> dict[str, str] | None:
    """What the panel says of a user; None where it says nothing, as while its files are replaced."""
    found: dict[str, str] | None = json.loads(host.cli("why", user, "--json").stdout)["account"]
    return found


def test_limits_follow_the_package_and_people_may_name_a_domain(standstill: Standstill, tmp_path: Path) -> None:
    overrides = [{"match": {"packages": ["business"]}, "rules": MORE}]
    tmp_path.chmod(0o755)
    with Host(rules=[RULE], breaker=CALM, users=overrides) as host:
        panel = Panel(host, tmp_path / "local")
        panel.put(SPAMMER[0], "business", "shop.example", "shared.example")
        panel.put(INNOCENT[0], "small", "other.example", "shared.example")
        panel.put(OTHER[0], "small", "third.example")
        host.start()
        wait_for(lambda: "HestiaCP: 3 accounts" in host.cli("status").stdout)
        watched: list[Json] = []
        has_begun = threading.Event()
        stream = subscribe(f"{host.lab.directory}/control.sock", TOPIC, begun=has_begun.set)
        reader = threading.Thread(target=lambda: watched.append(next(stream)))
        reader.start()
        has_begun.wait(10)
        assert host.connect(SPAMMER, 8).ok == 6
        reader.join(10)
        stream.close()
        assert [item["domain"] for item in watched] == ["shop.example"], "what `watch` shows"
        assert host.connect(INNOCENT, 8).ok == 3
        wait_for(lambda: f"{INNOCENT[0]} (other.example) BLOCKED" in host.stderr())

        # A domain, and an address at one, mean their account, and the answer says which.
        done = host.cli("unblock", "info@Other.example")
        assert done.returncode == 0
        assert f"{INNOCENT[0]} may send again" in done.stdout
        assert f"info@Other.example is a domain of {INNOCENT[0]}" in done.stdout
        why = json.loads(host.cli("why", "www.shop.example", "--json").stdout)
        assert why["user"] == SPAMMER[0]
        assert why["account"] == {
            "domain": "shop.example", "domains": ["shop.example", "shared.example"], "reseller": None,
            "package": "business", "contact": "owner@shop.example", "language": "de",
        }  # fmt: skip
        assert (
            "E-Mails, die shop.example" in host.cli("why", "shop.example", "--customer").stdout
        )  # the panel's language
        blocks = json.loads(host.cli("blocks", "--json").stdout)
        assert [row["domain"] for row in blocks] == ["shop.example"]
        for words in (("unblock", "shared.example"), ("exempt", "--", "shared.example")):
            done = host.cli(*words)
            assert done.returncode == 1
            assert f"{SPAMMER[0]} (uid {SPAMMER[1]}) and {INNOCENT[0]} (uid {INNOCENT[1]})" in done.stderr
        assert json.loads(host.cli("blocks", "--json").stdout) == blocks
        assert f"(third.example is a domain of {OTHER[0]})" in host.cli("exempt", "--", "third.example").stdout

        # The panel changes while the guard runs. What a tenant could have written is not used, and named.
        # It is read a tenth of the time at most: after a reading of two seconds not before twenty more.
        panel.put(OTHER[0], "business", "third.example")
        wait_for(lambda: (read_account(host, OTHER[0]) or {}).get("package") == "business", 30)
        assert host.connect(OTHER, 8).ok == 6
        os.chown(panel.users / SPAMMER[0] / "user.conf", SPAMMER[1], SPAMMER[1])
        panel.put(INNOCENT[0], "business", "other.example")
        wait_for(lambda: f"{SPAMMER[0]}/user.conf: belongs to uid {SPAMMER[1]}" in host.cli("status").stdout, 30)
        assert read_account(host, SPAMMER[0]) is None
        stall = json.loads(host.cli("status", "--json").stdout)["worst_stall_ms"]
        assert stall - standstill.worst_s() * 1000 < 500


@pytest.mark.long  # tests/unit/test_customer_watch.py has its short form
def test_what_a_command_said_holds_while_it_fails_and_over_a_restart(tmp_path: Path) -> None:
    overrides = [{"match": {"resellers": ["res*"]}, "rules": MORE}]
    program, answer = tmp_path / "who", tmp_path / "answer.json"
    tmp_path.chmod(0o755)
    answer.write_text(json.dumps({"accounts": [{"user": SPAMMER[0], "domain": "shop.example", "reseller": "res1"}]}))
    program.write_text(f"#!/bin/sh\nexec cat {answer}\n")
    program.chmod(0o755)
    with Host(rules=[RULE], breaker=CALM, users=overrides, accounts=[str(program), "x"]) as host:
        host.start()
        wait_for(lambda: "command: 1 accounts" in host.cli("status").stdout)
        answer.unlink()
        host.stop()
        host.start()
        assert host.connect(SPAMMER, 8).ok == 6
        wait_for(lambda: f"{program}: exit code 1" in host.cli("status").stdout)
        assert "command: 1 accounts" in host.cli("status").stdout
        assert host.cli("unblock", "shop.example").returncode == 0
        host.stop()
        kept = host.lab.directory / "accounts.cache"
        assert kept.stat().st_mode & 0o777 == 0o600
        # Without a daemon, too: what was kept says whose it is.
        why = host.cli("why", "shop.example", "--json")
        assert json.loads(why.stdout)["uid"] == SPAMMER[1]
        assert f"shop.example is a domain of {SPAMMER[0]}" in why.stderr
        assert SPAMMER[0] in host.cli("events", "--user", "a@shop.example").stdout
        host.configure(
            users=[
                *overrides,
                {"match": {"resellers": ["none", "res1"], "packages": ["p"]}, "rules": {"burst": {"limit": 7}}},
            ]
        )
        said = host.cli("check").stdout + host.cli("check").stderr
        assert "users[1].match.resellers: no account has 'none' by command" in said
        assert "users[1].match.packages: no account has 'p' by command" in said
        assert "'res" not in said.replace("'none'", "")
        host.configure(users=overrides)
        assert f"shop.example is a domain of {SPAMMER[0]}" in host.cli("unblock", "shop.example").stdout
