"""What commands share: options, exit codes, and how errors and lists are shown.

Exit codes (CONTRACT): 0 ok, 1 failed, 2 usage, 3 no daemon, 4 lacks privilege, 78 bad configuration.
"""

import atexit
import contextlib
import errno
import gc
import json
import os
import sys
from typing import Any

import click

from smtpguard.cli.messages import print_error, print_message, wrap_usage
from smtpguard.errors import UNREADABLE, ConfigError, GuardError, NoDaemonError, PrivilegeError

EXIT_FAILED = 1
EXIT_NO_DAEMON = 3
EXIT_PRIVILEGE = 4
EXIT_CONFIG = 78
_CANNOT_PRINT = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)

SOCKET_ENVIRONMENT = "SMTPGUARD_SOCKET"

config_option = click.option(
    "--config",
    "config_path",
    metavar="F",
    default=None,
    help="Configuration file; else $SMTPGUARD_CONFIG, else /etc/smtpguard/smtpguard.yaml, else the shipped defaults.",
)
socket_option = click.option(
    "--socket",
    "socket_path",
    metavar="PATH",
    default=None,
    help="The daemon's control socket; else $SMTPGUARD_SOCKET, else the configuration's.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def exit_code(error: GuardError) -> int:
    """The exit code of an error's class."""
    if isinstance(error, ConfigError):
        return EXIT_CONFIG
    if isinstance(error, PrivilegeError):
        return EXIT_PRIVILEGE
    if isinstance(error, NoDaemonError):
        return EXIT_NO_DAEMON
    return EXIT_FAILED


def find_socket(config_path: str | None, socket_path: str | None) -> str:
    """Where the daemon is; a broken configuration is named on stderr and never stops a command that only asks.

    Args:
        config_path: --config.
        socket_path: --socket.
    """
    named = socket_path or os.environ.get(SOCKET_ENVIRONMENT)
    if named:
        return named
    from smtpguard.settings.load import load_places

    settings, problem = load_places(config_path, ["control"])
    if problem is not None:
        warn_broken(problem, f"the daemon is asked at {settings.control_socket}; --socket names another")
    return settings.control_socket


def warn_broken(problem: ConfigError, instead: str) -> None:
    """Name a broken configuration on stderr, once a command, and what is done although it is."""
    told = click.get_current_context().meta.setdefault("smtpguard.broken", [])
    if str(problem) not in told:
        told.append(str(problem))
        print_error(problem, begin="")
    print_message(f"smtpguard: the configuration is broken: {instead}")


class GuardGroup(click.Group):
    """A group that turns a GuardError, and what can't be read, into a message on stderr and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - click's signature
        """Run the command; a GuardError ends it in one clear line."""
        try:
            return super().invoke(ctx)
        except GuardError as error:
            print_error(error)
            ctx.exit(exit_code(error))
        except click.UsageError as error:
            raise wrap_usage(error) from error
        except (OSError, *UNREADABLE) as error:
            if isinstance(error, OSError) and error.errno != errno.EOVERFLOW:  # a time that no calendar has
                raise
            from smtpguard.cli.answers import find_reading

            tell = find_reading(ctx)
            if tell is None:
                raise
            told = tell(error)
            print_error(told)
            ctx.exit(exit_code(told))

    def main(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - click's signature
        """As click does it; an output that can't be written, be it only a help text, ends in one clear line."""
        atexit.register(gc.freeze)  # a last search for cycles, 30 to 60 ms, frees nothing that the kernel does not free
        try:
            return super().main(*args, **kwargs)
        except OSError as error:
            if error.filename is not None or error.errno not in _CANNOT_PRINT:
                raise
            _end_output()
            with contextlib.suppress(OSError):  # stderr may be as full
                print_message(f"smtpguard: the output can't be written: {error.strerror}")
            sys.exit(EXIT_FAILED)


def _end_output() -> None:
    """Nothing more goes to stdout: Python would fail at it once more when it flushes at the end."""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # no stdout at all
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def print_json(value: object) -> None:
    """Print one JSON document, ASCII only so that no terminal is driven by it."""
    click.echo(json.dumps(value, ensure_ascii=True, indent=None if not sys.stdout.isatty() else 2))
