"""`smtpguard off`: the panic switch."""

from typing import Any

import click

from smtpguard.cli.common import config_option, find_socket, socket_option
from smtpguard.cli.tables import print_lines


@click.command("off")
@config_option
@socket_option
@click.option(
    "--for",
    "span",
    default=None,
    metavar="D",
    help="Switch on again by itself after this time: 30m, 2h, or ever for never. 4h if not given.",
)
def command(config_path: str | None, socket_path: str | None, span: str | None) -> None:
    """Stop refusing at once: lift every block, throttle and limit. Watching goes on.

    It survives a restart, and `status` shows it first. `smtpguard on` ends it.
    """
    from smtpguard.cli.answers import ask
    from smtpguard.cli.times import parse_span

    args: dict[str, Any] = {"ever": True} if span == "ever" else {}
    if span not in (None, "ever"):
        args["for_ns"] = parse_span(str(span))
    answer = ask(find_socket(config_path, socket_path), "off", **args)
    print_lines([answer["text"]])
