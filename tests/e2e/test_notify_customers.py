"""The real daemon, a panel's command and a mail server in another namespace: a block is told to whom it concerns."""

import json
import os
import signal
import sqlite3
import sys
import time
from contextlib import closing
from email import message_from_string
from email.policy import default
from pathlib import Path
from typing import Any

import pytest

from smtpguard.control.client import ask
from smtpguard.demo.lab import PEER4
from smtpguard.model import NS
from smtpguard.state.enforcing_since import FACT
from tests.e2e.test_notify import wait_for_helper
from tests.support.host import INNOCENT, OTHER, SPAMMER, Host, read_lines, wait_for

pytestmark = pytest.mark.kernel

RULE = {
    "name": "mx",
    "ports": [25],
    "count": "connections",
    "limit": 5,
    "window": "10m",
    "action": "block",
    "block": "9m",
}
PORT = 2526
WEEK_S = 7 * 86_400


def start_mailbox(host: Host, file: Path) -> None:
    program = str(Path(__file__).parents[1] / "support" / "mail_receiver.py")
    server = host.lab.start([sys.executable, program, PEER4, str(PORT), str(file)], net=host.lab.peer)
    assert server.stdout is not None
    assert server.stdout.readline() == "ready\n"


def write_panel(folder: Path) -> list[str]:
    """A command that says whose accounts are."""
    accounts = [
        {
            "user": SPAMMER[0],
            "domain": "shop.example",
            "reseller": "res1",
            "contact": "owner@shop.example",
            "language": "de",
        },
        {"user": "res1", "domain": "reseller.example", "contact": "desk@reseller.example"},
        {"user": INNOCENT[0], "domain": "blog.example", "contact": "blog@blog.example"},
    ]
    (folder / "answer.json").write_text(json.dumps({"accounts": accounts}))
    program = folder / "who"
    program.write_text(f"#!/bin/sh\nexec cat {folder}/answer.json\n")
    program.chmod(0o755)
    return [str(program)]


def test_a_block_is_told_to_the_reseller_and_not_if_a_person_undoes_it(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    file = tmp_path / "mails"

    def mails() -> list[dict[str, Any]]:
        return [json.loads(line) for line in read_lines(file)]

    with Host(rules=[RULE], sources=["bpf"], breaker={"blocks": 100}, accounts=write_panel(tmp_path)) as host:
        customers = {"enabled": True, "from": "support@hoster.example", "delay": "1s"}
        host.configure(notify={"smtp": f"{PEER4}:{PORT}", "customers": customers})
        start_mailbox(host, file)
        host.configure(dry_run=True)
        host.start()

        def ask_daemon(verb: str, **args: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
            return ask(f"{host.lab.directory}/control.sock", verb, **args)

        def status() -> str:
            return str(ask_daemon("status")["status"]["parts"])

        wait_for(lambda: "command: 3 accounts" in status())
        # Enforcement begins just now: nobody is told.
        assert ask_daemon("status")["status"]["enforcing_since"] is None
        host.configure(dry_run=False)
        ask_daemon("reload")
        assert host.connect(OTHER, 8).ok == 5
        wait_for(lambda: f"{OTHER[0]} not told: enforcement was in its first 7 days" in status(), 20)
        host.stop()
        with closing(sqlite3.connect(host.lab.directory / "state.db")) as connection, connection:
            (before,) = connection.execute("SELECT value FROM facts WHERE name = ?", (FACT,)).fetchone()
            assert abs(int(before) / NS - time.time()) < 60
            long_ago = str(int(before) - WEEK_S * NS).encode()
            connection.execute("UPDATE facts SET value = ? WHERE name = ?", (long_ago, FACT))
        host.start()
        assert ask_daemon("status")["status"]["enforcing_since"] < time.time() - WEEK_S
        wait_for(lambda: "command: 3 accounts" in status())

        helper = wait_for_helper(host)
        os.kill(helper, signal.SIGSTOP)  # so that nobody races: it hears of both when both are done
        assert host.connect(INNOCENT, 8).ok == 5
        assert ask_daemon("unblock", user="info@blog.example")["freed"] == [INNOCENT[0]]
        assert host.connect(SPAMMER, 8).ok == 5
        os.kill(helper, signal.SIGKILL)  # it loses nothing
        (told,) = wait_for(mails, 20)
        assert (told["from"], told["to"]) == ("support@hoster.example", ["desk@reseller.example"])
        mail = message_from_string(told["mail"], policy=default)
        assert mail["Subject"] == "E-Mails von shop.example werden aufgehalten"
        shown = host.cli("why", SPAMMER[0], "--customer").stdout
        assert mail.get_content().replace("\r\n", "\n").splitlines()[:-1] == shown.splitlines()[:-1]
        wait_for(lambda: f"{INNOCENT[0]} not told: unblock by root" in status())
        # It is kept after sending, and shown.
        wait_for(lambda: "reseller told at desk@reseller.example" in host.cli("why", SPAMMER[0]).stdout)
        (event,) = ask_daemon("events", kinds=["told"])["items"]
        assert {event[name] for name in ("user", "to", "whom", "by")} == {
            *(SPAMMER[0], "desk@reseller.example", "reseller", "guard")
        }
        assert len(mails()) == 1
