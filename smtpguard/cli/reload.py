"""`smtpguard reload`: the configuration again, whole or not at all."""

import click

from smtpguard.cli.common import SOCKET_ENVIRONMENT, config_option, socket_option
from smtpguard.cli.messages import print_message
from smtpguard.cli.tables import print_lines
from smtpguard.errors import ConfigError


@click.command("reload")
@config_option
@socket_option
def command(config_path: str | None, socket_path: str | None) -> None:
    """Let the running guard read its configuration again; windows and blocks go on.

    A bad file changes nothing: it is named with its line, and the old configuration stays active.
    """
    import os
    from pathlib import Path

    from smtpguard.cli.answers import ask
    from smtpguard.settings.load import load_settings

    try:
        settings = load_settings(config_path)
    except ConfigError as error:
        raise ConfigError(f"{error}\nThe old configuration stays active.") from None
    socket_path = socket_path or os.environ.get(SOCKET_ENVIRONMENT) or settings.control_socket
    answer = ask(socket_path, "reload")
    print_lines([answer["text"]])
    read = answer.get("config")
    if read == "":
        print_message("smtpguard: there is no configuration file any more: the shipped defaults hold")
    elif config_path is not None and read is not None and read != str(Path(config_path).absolute()):
        print_message(
            f"smtpguard: the guard has read {read}, which it was started with, not {config_path}", read, config_path
        )
