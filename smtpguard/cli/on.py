"""`smtpguard on`: ends the panic switch."""

import click

from smtpguard.cli.common import config_option


@click.command("on")
@config_option
def command(config_path: str | None) -> None:
    """Respond again after `smtpguard off`; what is left of every block holds again."""
    from smtpguard.cli.client import ask
    from smtpguard.settings_file import load_part

    click.echo(ask(load_part(config_path, ["control"]).control_socket, "on")["text"])
