"""The service's own log says each beginning and end of a block; the event log's lines go to a journal, too."""

import json
import re
import socket

import pytest

from tests.support.host import OTHER, SPAMMER, Host, wait_for

pytestmark = pytest.mark.kernel

BLOCK = {"name": "burst", "ports": [25], "count": "connections", "limit": 3, "window": "10m", "action": "block",
         "block": "1s"}  # fmt: skip
THROTTLE = {"name": "slow", "ports": [587], "count": "connections", "limit": 3, "window": "1m", "action": "throttle"}


def test_each_beginning_and_end_is_one_line_that_stands_alone() -> None:
    with Host(
        rules=[BLOCK, THROTTLE], breaker={"blocks": 100, "per": "10m"},
        escalation={"factor": 1, "max": "1s", "still_trying": "end"},
    ) as host:  # fmt: skip
        journald = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        journald.bind(f"{host.lab.directory}/journal")
        journald.settimeout(10)
        host.configure(log={"path": f"{host.lab.directory}/events.log", "journal": f"{host.lab.directory}/journal"})
        host.start()
        begin = rf"{SPAMMER[0]} BLOCKED on port 25 until \d\d:\d\d: 4 connections in 10 min, limit 3 \(rule burst\)\."
        end = rf"{SPAMMER[0]} no longer BLOCKED on port 25: over after 1 s \(rule burst\)\. 3 attempts refused\."
        for number in (1, 2):  # the second one too, although it is the same incident
            host.connect(SPAMMER, 6)
            wait_for(lambda number=number: len(re.findall(begin, host.stderr())) == number)  # type: ignore[misc]
            wait_for(lambda number=number: len(re.findall(end, host.stderr())) == number)  # type: ignore[misc]

        assert host.cli("block", OTHER[0], "--for", "1h", "--ports", "25").returncode == 0
        assert host.connect(OTHER, 3).refused == 3
        wait_for(lambda: [block["refused"] for block in json.loads(host.cli("blocks", "--json").stdout)] == [3])
        assert host.cli("unblock", OTHER[0]).returncode == 0
        end = rf"{OTHER[0]} no longer BLOCKED on port 25: ended by admin after .*\. 3 attempts refused\."
        wait_for(lambda: re.search(end, host.stderr()))
        assert f"{OTHER[0]} BLOCKED on port 25 until" in host.stderr()

        # A throttle lets go and takes hold again all the time: it begins once.
        for _ in range(2):
            host.connect(OTHER, 8, port=587)
        wait_for(lambda: f"{OTHER[0]} THROTTLED on port 587 until" in host.stderr())
        assert host.cli("unblock", OTHER[0]).returncode == 0
        wait_for(lambda: f"{OTHER[0]} no longer THROTTLED on port 587: ended by admin" in host.stderr())
        assert len(re.findall(f"{OTHER[0]} THROTTLED", host.stderr())) == 1

        lines = host.log_lines()
        entries = [journald.recv(1 << 16).decode("ascii").splitlines() for _ in lines]
        assert [entry[-4] for entry in entries] == [f"MESSAGE={line}" for line in lines]
        first = next(entry for entry in entries if "EVENT=BLOCK" in entry)
        assert {f"USER_UID={SPAMMER[1]}", "RULE=burst", "PORTS=25", "SYSLOG_IDENTIFIER=smtpguard-events"} <= set(first)
        journald.close()
