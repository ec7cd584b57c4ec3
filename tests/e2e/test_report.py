"""`report` of a real host: from the guard, from the file after it was killed, and against the event log."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from smtpguard.control.client import ask as ask_daemon
from smtpguard.demo.lab import HOST4, HOST6, PEER4, PEER6
from smtpguard.errors import PrivilegeError
from tests.fakes.namespaces import run_forked
from tests.support.host import INNOCENT, OTHER, SPAMMER, Host, wait_for

pytestmark = pytest.mark.kernel

RULE = {"name": "burst", "count": "connections", "limit": 30, "window": "10m", "action": "block", "block": "30m"}
OWN = {"match": {"users": [INNOCENT[0]]}, "rules": {"burst": {"limit": 20}}}
COUNT_LOG = Path(__file__).parents[1] / "support" / "count_log.py"


def ask(host: Host, *times: str) -> dict[str, Any]:
    done = host.cli("report", "--format", "json", *times)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def count(host: Host) -> dict[str, Any]:
    log = Path(host.lab.directory) / "events.log"
    command = [sys.executable, "-I", str(COUNT_LOG), str(log), "0", str(int(time.time()) + 60)]
    counted: dict[str, Any] = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    return counted


def ask_as_member(host: Host) -> None:
    """A member of control.group is told the same, and may ask for nothing else."""
    groups = host.lab.read("/etc/group").splitlines()
    gid = next(int(row.split(":")[2]) for row in groups if row.startswith("mailers:"))
    socket = f"{host.lab.directory}/control.sock"

    def member() -> None:
        os.setgroups([gid])
        os.setresgid(OTHER[1], OTHER[1], OTHER[1])
        os.setresuid(OTHER[1], OTHER[1], OTHER[1])
        found = ask_daemon(socket, "report", part="users", since_ns=0)
        assert sorted(row[1] for row in found["items"]) == [7, 50]
        with pytest.raises(PrivilegeError):
            ask_daemon(socket, "events")

    run_forked(member)


def check_own(host: Host, report: dict[str, Any], passed: int) -> None:
    """From which of the host's own addresses who came: the event log has none, the kernel has told."""
    own = {row["address"]: row for row in report["own_addresses"]}
    assert own.keys() == {HOST4, HOST6}
    assert (sum(row["connected"] for row in own.values()), report["own_unknown"]) == (passed, 0)
    used = {(user["user"], address): user["connected"] for address, row in own.items() for user in row["users"]}
    assert used.keys() == {(SPAMMER[0], HOST4), (SPAMMER[0], HOST6), (INNOCENT[0], HOST4)}
    assert used[INNOCENT[0], HOST4] == 7
    assert f"{HOST6}\n{'':26}{SPAMMER[0]} {used[SPAMMER[0], HOST6]}\n" in host.cli("report").stdout


def test_a_report_says_what_the_log_says_with_and_without_a_guard() -> None:
    with Host(rules=[RULE], users=[OWN], breaker={"blocks": 100, "per": "10m"}, ports=[25]) as host:
        socket = f"{host.lab.directory}/control.sock"
        host.configure(control={"socket": socket, "group": "mailers", "verbs": ["report"]})
        host.lab.directory.chmod(0o755)
        host.start()
        done = host.connect(SPAMMER, 50, 400, to=[PEER4, PEER6])
        host.connect(INNOCENT, 7, 400)
        wait_for(lambda: len(host.events("CONNECT")) == 57)
        passed = 57 - done.refused

        def is_whole() -> bool:
            """What became of the last one, and all else with it: summed up each second, written within the next."""
            found = ask(host, "--since", "1h")["destinations"]
            return sum(row["connected"] or 0 for row in found) == passed  # null: not known yet

        wait_for(is_whole)
        report, log = ask(host, "--since", "1h"), count(host)
        users = {
            row["user"]: [row["connects"], row["refused"], row["verdicts"], row["would"]] for row in report["users"]
        }
        assert users == log["users"] == {SPAMMER[0]: [50, done.refused, 1, 0], INNOCENT[0]: [7, 0, 0, 0]}
        places = {
            f"{row['address']} {row['port']}": [row["connects"], row["refused"]] for row in report["destinations"]
        }
        assert places == log["places"]
        check_own(host, report, passed)
        (block,) = report["blocks"]
        assert [block["until"]] == log["ends_at"]
        assert (block["user"], block["by"], block["rule"], block["ended"]) == (SPAMMER[0], "guard", "burst", None)
        assert report["fullest"] == [
            {"user": INNOCENT[0], "uid": INNOCENT[1], "rule": "burst", "count": "connections", "window": 600, "held": 7,
             "limit": 20, "at_most": False}
        ]  # fmt: skip
        assert any(sentence.startswith("The record begins") for sentence in report["unseen"])
        times = ("--since", report["since"], "--until", report["until"])
        before = ask(host, *times)
        ask_as_member(host)
        host.stop(signal.SIGKILL)
        assert ask(host, *times) == before
