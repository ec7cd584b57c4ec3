"""`smtpguard note`: what a person has to say about a user."""

import click

from smtpguard.cli.common import config_option, socket_option
from smtpguard.cli.history_options import ask_daemon
from smtpguard.cli.tables import print_lines


@click.command("note")
@click.argument("user", metavar="USER")
@click.argument("text", metavar="TEXT", nargs=-1, required=True)
@config_option
@socket_option
def command(config_path: str | None, socket_path: str | None, user: str, text: tuple[str, ...]) -> None:
    """Keep a note about a user: with who wrote it and when, `events` shows it."""
    print_lines([ask_daemon(config_path, socket_path, "note", {"user": user, "reason": " ".join(text)})])
