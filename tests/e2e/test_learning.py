"""`novel` learns first: a new guard says nothing of newcomers, logs of before teach it, and it remembers."""

import json
import signal
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.support.audit_records import SECOND, Event, log
from tests.support.host import INNOCENT, OTHER, SMTPGUARD, SPAMMER, Host, wait_for

pytestmark = pytest.mark.kernel

RULE = {
    "name": "newcomer", "ports": [25], "novel": "7d", "count": "connections", "limit": 2, "window": "10m",
    "action": "warn",
}  # fmt: skip
DAY_MS = 86_400_000


def write_log(path: Path, days: range, *users: tuple[str, int]) -> str:
    """An audit log in which users connect once an hour, on some days before now."""
    now_ms = (int(time.time()) - SECOND) * 1000
    events = [
        Event(serial=number, pid=1000 + number, uid=uid, millis=now_ms + moment, address="198.18.7.25")
        for number, (moment, uid) in enumerate(
            (day * DAY_MS + hour * 3_600_000, uid) for day in days for hour in range(24) for _, uid in users
        )
    ]
    path.write_bytes(log([line for event in events for line in event.lines()]))
    return str(path)


def status(host: Host) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(host.cli("status", "--json").stdout)
    return found


def learn(host: Host, *files: str) -> dict[str, Any]:
    done = host.cli("replay", "--learn", "--json", *files)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)["learned"]
    return found


def verdicts(host: Host) -> list[str]:
    return [row["USER"] for row in host.events("EXCEEDED")]


def burst(host: Host, user: tuple[str, int]) -> None:
    """More than the rule's limit, and wait until all of it is in the log."""
    before = len(host.events("CONNECT"))
    assert host.connect(user, 5).ok == 5
    wait_for(lambda: len(host.events("CONNECT")) == before + 5)


def is_kept(host: Host, user: tuple[str, int]) -> bool:
    """Whether the state has what was counted of a user, as it has once a second."""
    with closing(sqlite3.connect(host.lab.directory / "state.db")) as state:
        return bool(state.execute("SELECT 1 FROM windows WHERE uid = ?", (user[1],)).fetchone())


def test_a_new_guard_is_taught_while_it_runs_and_remembers() -> None:
    with Host(rules=[RULE]) as host:
        host.start()
        burst(host, SPAMMER)
        assert verdicts(host) == [], "on the first day everybody would be new"
        line = next(row for row in host.cli("status").stdout.splitlines() if "newcomers" in row)
        assert "newcomer until " in line
        old = write_log(host.lab.directory / "old.log", range(-9, 0), INNOCENT)
        assert learn(host, old)["silent_until"] == {}
        again = learn(host, old)
        assert (again["connects"], again["left_out"]["known"]) == (0, 216)
        assert "newcomers" not in status(host)["parts"]
        burst(host, INNOCENT)
        assert verdicts(host) == [], "whom the log knows is no newcomer"
        burst(host, OTHER)
        assert verdicts(host) == [OTHER[0]]
        wait_for(lambda: is_kept(host, INNOCENT))
        host.stop(signal.SIGKILL)
        host.start()
        assert "newcomers" not in status(host)["parts"]
        burst(host, INNOCENT)
        assert verdicts(host) == [OTHER[0]]


def test_a_guard_is_taught_before_it_starts() -> None:
    with Host(rules=[RULE]) as host:
        first = learn(host, write_log(host.lab.directory / "a.log", range(-3, 0), INNOCENT))
        assert first["users"] == 1
        assert set(first["silent_until"]) == {"newcomer"}, "three days are no week"
        host.start()
        assert "newcomers" in status(host)["parts"]
        burst(host, SPAMMER)
        wait_for(lambda: is_kept(host, SPAMMER))
        host.stop()
        learn(host, write_log(host.lab.directory / "b.log", range(-9, -3), INNOCENT))
        host.start()
        assert "newcomers" not in status(host)["parts"]
        burst(host, INNOCENT)
        burst(host, SPAMMER)
        assert verdicts(host) == []
        burst(host, OTHER)
        assert verdicts(host) == [OTHER[0]]


def test_only_root_teaches() -> None:
    with Host(rules=[RULE], control={"group": "mailers", "verbs": ["status"]}) as host:
        host.configure(control={"socket": f"{host.lab.directory}/control.sock"})
        path = write_log(host.lab.directory / "a.log", range(-3, 0), INNOCENT)
        done = host.lab.run(
            ["setpriv", "--reuid", str(OTHER[1]), "--clear-groups", *SMTPGUARD, "replay", "--learn", path]
        )
        assert done.returncode != 0
        assert not (host.lab.directory / "state.db").exists()
