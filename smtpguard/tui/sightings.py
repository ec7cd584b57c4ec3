"""One attempt as the screen keeps it: texts are escaped already, so that nothing in them drives a terminal. Pure."""

import json
from dataclasses import dataclass
from datetime import datetime
from sys import intern
from typing import Any

from smtpguard.control.watch_item import parse_item
from smtpguard.errors import DecodeError
from smtpguard.model import NS, Account, Connect
from smtpguard.text import CONTAINED, render_address, render_escaped, render_user
from smtpguard.tui.pieces import clean

PROTOCOLS = {25: "SMTP", 465: "SMTPS", 587: "SUBMISSION", 2525: "SMTP-ALT"}


@dataclass(frozen=True, slots=True)
class Sighting:
    """One attempt to connect; `-` is what is not known.

    Attributes:
        wall_ns: When.
        user: Whose, as the log writes it.
        uid: Of that account.
        is_contained: Whether the uid is one of a container, and nobody's on this host.
        pid, port: None where it is not known.
        address, result, sensor, attr, proc, exe, cwd, script, rdns: As the log writes them.
        domain: With which they are a customer.
    """

    wall_ns: int
    user: str
    uid: int
    is_contained: bool
    pid: int | None
    port: int
    address: str
    result: str
    sensor: str
    attr: str
    proc: str
    exe: str
    cwd: str
    script: str
    rdns: str
    domain: str = "-"

    @property
    def account_uid(self) -> int | None:
        """The uid of the host's account; None where it is a container's."""
        return None if self.is_contained else self.uid

    @property
    def protocol(self) -> str:
        """What the port is for."""
        return PROTOCOLS.get(self.port, "-")

    @property
    def is_refused(self) -> bool:
        """Whether it was refused here."""
        return self.result == "refused"


def _keep(value: bytes | None) -> str:
    return intern(render_escaped(value))


def read_item(item: dict[str, Any]) -> Sighting:
    """An attempt from the daemon's stream.

    Args:
        item: As watch_item.render_item has made it.

    Raises:
        DecodeError: It is no such item.
    """
    connect, account, wall_ns = parse_item(item)
    try:
        return _show(connect, account, wall_ns)
    except (TypeError, ValueError, OverflowError, AttributeError) as error:
        raise DecodeError(f"not an item of the live stream: {error}") from error


def _show(connect: Connect, account: Account, wall_ns: int) -> Sighting:
    is_contained = connect.netns is not None or account.standing == "container"
    user = render_user(account.uid, account.name)
    domain = None if is_contained or account.customer is None else account.customer.domain
    return Sighting(
        wall_ns=wall_ns,
        user=intern(f"{user}@{CONTAINED}" if is_contained else user),
        uid=account.uid,
        is_contained=is_contained,
        pid=None if connect.pid is None else int(connect.pid),
        port=int(connect.port),
        address=intern(render_address(connect.address)),
        result=intern(clean(connect.result or "-")),
        sensor=intern(clean(connect.sensor)),
        attr=intern(clean(connect.attr or "-")),
        proc=_keep(connect.proc),
        exe=_keep(connect.exe),
        cwd=_keep(connect.cwd),
        script=_keep(connect.script),
        rdns=_keep(connect.rdns),
        domain=intern(clean(domain or "-")),
    )


def read_line(line: bytes) -> Sighting:
    """An attempt from `watch --format json`.

    Args:
        line: One line.

    Raises:
        DecodeError: It is no such line.
    """

    def text(name: str) -> str:
        return intern(clean(str(row.get(name) or "-")))

    try:
        row = json.loads(line)
        return Sighting(
            wall_ns=round(datetime.fromisoformat(row["time"]).timestamp() * NS),
            user=text("user"),
            uid=int(row["uid"]),
            is_contained=False,
            pid=None if row["pid"] is None else int(row["pid"]),
            port=int(row["port"]),
            **{name: text(name) for name in ("result", "sensor", "attr", "proc", "exe", "cwd", "script", "rdns")},
            address=text("dst"),
        )
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise DecodeError(f"not a line of `watch --format json`: {error}") from error
