"""`smtpguard why`: who, since when, is it stopped, is that right, and how to undo it, on one card."""

from typing import Any

import click

from smtpguard.cli.common import config_option, find_socket, json_option, print_json, socket_option
from smtpguard.cli.history_options import find_history_file, find_uid
from smtpguard.errors import NoDaemonError, StateError


@click.command("why")
@click.argument("user", metavar="USER")
@click.option("--at", default=None, metavar="T", help="As it was then: 2h (ago), 14:05, 'yesterday 12:00'.")
@json_option
@config_option
@socket_option
def command(config_path: str | None, socket_path: str | None, as_json: bool, user: str, at: str | None) -> None:
    """Show what is known of a user: since when, by which script, where to, and how to undo it.

    The first line answers a customer's call: US, NOT US, or UNKNOWN where nothing was watched.
    """
    from datetime import UTC, datetime

    from smtpguard.cli.moments import parse_moment
    from smtpguard.control.client import ask
    from smtpguard.report.why import build_why
    from smtpguard.report.why_card import render_card

    at_ns = None if at is None else parse_moment(at, datetime.now(UTC).astimezone(), "--at")
    try:
        answer: dict[str, Any] = ask(find_socket(config_path, socket_path), "why", user=user, at_ns=at_ns)
    except NoDaemonError as nobody:
        answer = _read(find_history_file(config_path, nobody), user, at_ns)
    why = build_why(answer["live"], answer["past"], answer["name"], is_past=at is not None)
    if as_json:
        print_json(why)
        return
    for line in render_card(why):
        click.echo(line)


def _read(path: str, user: str, at_ns: int | None) -> dict[str, Any]:
    """The same from the file, where no daemon runs."""
    import time

    from smtpguard.state.history import History
    from smtpguard.state.user_history import collect_user, show_block

    uid, name = find_uid(user)
    now_ns = time.time_ns()
    with History(path) as history:
        past = collect_user(history, uid=uid, name=name, now_ns=at_ns or now_ns)
        if past["uid"] is None:
            raise StateError("no account of that name on this host, and none in the history", fix="give uid:N")
        blocks = history.blocks_of(past["uid"], now_ns) if at_ns is None else []
    if name is None:
        import pwd

        try:
            name = pwd.getpwuid(past["uid"]).pw_name
        except KeyError:
            name = None
    return {"live": None, "past": past | {"blocks": [show_block(row) for row in blocks]}, "name": name}
