"""`smtpguard on`: ends the panic switch."""

import click

from smtpguard.cli.common import config_option, find_socket, socket_option
from smtpguard.cli.tables import print_lines


@click.command("on")
@config_option
@socket_option
def command(config_path: str | None, socket_path: str | None) -> None:
    """Refuse again after `smtpguard off`. Blocks are in force again for the rest of their time."""
    from smtpguard.cli.answers import ask

    print_lines([ask(find_socket(config_path, socket_path), "on")["text"]])
