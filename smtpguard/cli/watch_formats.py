"""One connection as one line, in the formats of `watch`: guard, classic, json. Pure.

`guard` is the event log's CONNECT line. `classic` is the line of a known C monitor, for scripts that read it:
left-aligned in columns, local time, hostile bytes escaped. `json` has the same fields, one object a line.
"""

import json
from datetime import UTC, datetime
from typing import Literal

from smtpguard.logline import render_connect, render_time
from smtpguard.model import NS, Account, Connect
from smtpguard.text import render_address, render_escaped, render_user

Format = Literal["guard", "classic", "json"]


def render_watch(form: Format, connect: Connect, account: Account, wall_ns: int) -> str:
    """One line without its newline.

    Args:
        form: Which format.
        connect: The attempt.
        account: Whose it is.
        wall_ns: When it was, nanoseconds since the epoch.
    """
    if form == "classic":
        return render_classic(connect, account, wall_ns)
    if form == "json":
        return render_json(connect, account, wall_ns)
    return render_connect(connect, account, wall_ns)


def render_classic(connect: Connect, account: Account, wall_ns: int) -> str:
    """The classic monitor's line: columns of 33, 8, 25, 5 and 40 characters, then the working directory."""
    moment = datetime.fromtimestamp(wall_ns // NS, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    user = render_user(account.uid, account.name)
    pid = "-" if connect.pid is None else str(connect.pid)
    destination = render_address(connect.address)
    return (
        f"[{moment}] USER={user:<33} PID={pid:<8} PROC={render_escaped(connect.proc):<25} "
        f"PORT={connect.port:<5} DST={destination:<40} CWD={render_escaped(connect.cwd)}"
    )


def render_json(connect: Connect, account: Account, wall_ns: int) -> str:
    """One JSON object, ASCII only; what is not known is null."""

    def text(value: bytes | None) -> str | None:
        return None if value is None else render_escaped(value)

    return json.dumps(
        {
            "time": render_time(wall_ns),
            "user": render_user(account.uid, account.name),
            "uid": account.uid,
            "pid": connect.pid,
            "port": connect.port,
            "dst": render_address(connect.address),
            "sensor": connect.sensor,
            "result": connect.result,
            "attr": connect.attr,
            "proc": text(connect.proc),
            "exe": text(connect.exe),
            "cwd": text(connect.cwd),
            "script": text(connect.script),
            "rdns": text(connect.rdns),
        },
        ensure_ascii=True,
    )
