"""`smtpguard blocks`: blocks, throttles and allowances in force."""

from typing import Any

import click

from smtpguard.cli.common import config_option, find_socket, json_option, print_json, print_table, socket_option


@click.command("blocks")
@config_option
@socket_option
@json_option
def command(config_path: str | None, socket_path: str | None, as_json: bool) -> None:
    """Show who is refused or allowed now: until when, by whom, why, and how much was refused so far."""
    import time

    from smtpguard.cli.times import render_moment, render_span
    from smtpguard.control.client import ask

    answer = ask(find_socket(config_path, socket_path), "blocks")
    if as_json:
        print_json(answer["items"])
        return
    off = answer.get("off")
    if off is not None:
        until = "until `smtpguard on`" if off["until"] is None else f"until {render_moment(off['until'])}"
        click.echo(f"OFF {until}: nobody is refused. What is suspended holds again after `smtpguard on`.")
    rows: list[dict[str, Any]] = answer["items"]
    if not rows:
        click.echo("Nobody is blocked, throttled or allowed.")
        return
    now = time.time()
    head = ("USER", "UID", "KIND", "PORTS", "UNTIL", "LEFT", "BY", "MODE", "REFUSED", "WHY")
    print_table(
        head,
        [
            (
                row["user"],
                str(row["uid"]),
                row["kind"],
                "all" if row["ports"] is None else ",".join(map(str, row["ports"])),
                render_moment(row["until"]),
                render_span(row["until"] - now),
                row["by"],
                "suspended" if row["suspended"] else row["mode"],
                str(row["refused"]),
                row["why"],
            )
            for row in rows
        ],
    )
