"""`smtpguard off`: the panic switch."""

import click

from smtpguard.cli.common import config_option, find_socket, socket_option


@click.command("off")
@config_option
@socket_option
@click.option("--for", "span", default=None, metavar="D", help="Switch on again by itself after this time.")
def command(config_path: str | None, socket_path: str | None, span: str | None) -> None:
    """Lift every block, throttle and limit at once, and respond to nothing; watching goes on.

    It survives a restart, and `status` shows it loudly. `smtpguard on` ends it.
    """
    from smtpguard.cli.client import ask
    from smtpguard.cli.times import parse_span

    answer = ask(find_socket(config_path, socket_path), "off", for_ns=None if span is None else parse_span(span))
    click.echo(answer["text"])
