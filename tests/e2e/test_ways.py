"""How long the ways are: of one connect from the ring to block and log line, and of one `unblock`, in files.

A file is on the way if it is on the stack when an adapter is told (whom to refuse, whom no more, a line, an answer), or
if one of its functions gives back what came of the event (Connect, Excess, Verdict, Block, Deny, line; request, Ended).
How an adapter does it is its own business. The real daemon tells the files; docs/architecture.md tells the same.
"""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.host import SPAMMER, Host, wait_for

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(120)]
TOP = Path(__file__).resolve().parents[2]
TRACED = [sys.executable, str(TOP / "tests" / "support" / "traced_daemon.py")]
RULE = {"name": "burst", "count": "connections", "limit": 3, "window": "10m", "action": "block", "block": "30m"}


def trace(host: Host, do: Callable[[], object]) -> list[str]:
    """The files on the way of what is done meanwhile."""
    directory = host.lab.directory
    (directory / "trace").touch()
    wait_for((directory / "tracing").exists)
    do()
    (directory / "tracing").unlink()
    (directory / "trace").unlink()
    wait_for((directory / "traced").exists)
    files: list[str] = json.loads((directory / "traced").read_text())
    (directory / "traced").unlink()
    return files


def read_told(title: str) -> list[str]:
    """The files that docs/architecture.md names under a title."""
    text = (TOP / "docs" / "architecture.md").read_text("utf-8")
    section = text.split(f"### {title}\n", 1)[1].split("\n#", 1)[0]
    return re.findall(r"^\d+\. `([\w/]+\.py)`", section, re.MULTILINE)


def test_both_ways_are_short_and_told_as_they_are() -> None:
    with Host(rules=[RULE]) as host:
        host.start(command=[*TRACED, str(host.lab.directory)])
        host.connect(SPAMMER, 3)
        wait_for(lambda: len(host.events("CONNECT")) == 3)

        def exceed() -> None:
            host.connect(SPAMMER, 1)
            wait_for(lambda: host.events("BLOCK"))
            wait_for(lambda: str(SPAMMER[1]) in host.nft("list", "table", "inet", "smtpguard"))

        def free() -> None:
            assert host.cli("unblock", SPAMMER[0]).returncode == 0
            wait_for(lambda: host.events("UNBLOCK"))

        connect, unblock = trace(host, exceed), trace(host, free)
    assert len(connect) <= 30
    assert len(unblock) <= 20
    assert sorted(connect) == sorted(read_told("The way of a connect"))
    assert sorted(unblock) == sorted(read_told("The way of an `unblock`"))
