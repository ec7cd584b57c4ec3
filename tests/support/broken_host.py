"""A guarded host whose daemon has parts that break when a file of their name is touched (broken_daemon.py)."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from smtpguard.control.client import ask
from tests.support.host import Host

RULE = {"name": "burst", "count": "connections", "limit": 5, "window": "10m", "action": "block", "block": "30m"}


@contextmanager
def broken_host() -> Iterator[Host]:
    with Host(sources=["bpf"], rules=[RULE]) as made:
        program = str(Path(__file__).with_name("broken_daemon.py"))
        made.start(command=[sys.executable, "-P", program, str(made.lab.directory)])
        yield made


def status(host: Host) -> dict[str, Any]:
    found: dict[str, Any] = ask(f"{host.lab.directory}/control.sock", "status")["status"]
    return found
