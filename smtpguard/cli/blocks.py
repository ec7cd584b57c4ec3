"""`smtpguard blocks`: blocks, throttles and allowances in force."""

from collections.abc import Sequence
from typing import Any

import click

from smtpguard.cli.common import config_option, find_socket, json_option, print_json, socket_option
from smtpguard.cli.tables import find_width, print_lines, render_table
from smtpguard.clock import render_moment
from smtpguard.text import list_ports, render_duration, render_minute, tell_limits

_HEAD = ("USER", "UID", "KIND", "PORTS", "UNTIL", "LEFT", "BY", "REFUSED", "WHY")
_FOLD = ("UID", "BY", "LEFT", "DOMAIN", "KIND", "PORTS", "REFUSED", "UNTIL")
_WATCHED = ("USER", "UID", "UNTIL", "BY", "WHY")


@click.command("blocks")
@config_option
@socket_option
@json_option
def command(config_path: str | None, socket_path: str | None, as_json: bool) -> None:
    """Show who is refused, allowed or watched now: until when, by whom and why, and how much was refused."""
    import time

    from smtpguard.cli.answers import ask

    answer = ask(find_socket(config_path, socket_path), "blocks")
    if as_json:
        print_json(answer["items"])
        return
    watched = answer.get("watched", ())
    print_lines(render_blocks(answer["items"], answer.get("off"), watched, now=time.time(), width=find_width()))


def render_blocks(
    rows: Sequence[dict[str, Any]],
    off: dict[str, Any] | None,
    watched: Sequence[dict[str, Any]] = (),
    *,
    now: float,
    width: int | None = None,
) -> list[str]:
    """What the guard listed, as lines for people: who is refused, who would be, who may send more, who less.

    Args:
        rows: One for each block, throttle and allowance.
        off: Until when the guard is off; None if it is on.
        watched: Whose limits are halved, as `status` has it.
        now: Seconds since the epoch.
        width: Cells of the terminal; None where it is none.
    """
    lines = []
    if off is not None:
        until = "until `smtpguard on`" if off["until"] is None else f"until {render_moment(off['until'])}"
        lines.append(f"OFF {until}: nobody is refused. What is suspended holds again after `smtpguard on`.")
    if not rows:
        lines.append("Nobody is blocked, throttled or allowed.")
    held = [row for row in rows if row["kind"] != "allow"]
    refused = [row for row in held if row["mode"] == "enforce"]
    lines += _render_group("REFUSED NOW" if off is None else "SUSPENDED (off)", refused, now, width)
    lines += _render_group("WOULD BE REFUSED (dry run)", [row for row in held if row["mode"] != "enforce"], now, width)
    lines += _render_group("ALLOWED MORE", [row for row in rows if row["kind"] == "allow"], now, width)
    return [*lines, *_render_watched(watched, width)]


def _render_watched(watched: Sequence[dict[str, Any]], width: int | None) -> list[str]:
    if not watched:
        return []
    is_halved = not all(row.get("allowed_until") for row in watched)
    cells = [
        (row["user"], str(row["uid"]), render_minute(row["until"]), row["by"], _tell_reason(row)) for row in watched
    ]
    title = f"WATCHED ({'limits are halved; ' if is_halved else ''}end: smtpguard incidents unwatch USER)"
    return [title, *render_table(_WATCHED, cells, fold=_FOLD, width=width)]


def _tell_reason(row: dict[str, Any]) -> str:
    """Why somebody is watched; and what a person who gave an allowance would take for a mistake."""
    allowed = f"({tell_limits(row)})" if row.get("allowed_until") else ""
    return " ".join(part for part in (row["reason"], allowed) if part) or "-"


def _render_group(title: str, rows: Sequence[dict[str, Any]], now: float, width: int | None) -> list[str]:
    if not rows:
        return []
    # Where no panel is known there are no domains to show.
    domains = [row["domain"] or "-" for row in rows] if any(row.get("domain") for row in rows) else None
    cells = [
        (
            row["user"],
            *([] if domains is None else [domains[index]]),
            str(row["uid"]),
            row["kind"],
            list_ports(row["ports"]),
            render_moment(row["until"]),
            render_duration(row["until"] - now),
            row["by"],
            str(row["refused"]),
            row["why"],
        )
        for index, row in enumerate(rows)
    ]
    head = _HEAD if domains is None else (_HEAD[0], "DOMAIN", *_HEAD[1:])
    return [title, *render_table(head, cells, moments=("UNTIL",), fold=_FOLD, width=width)]
