"""What commands read from outside, the daemon's answers and the state file, and what is said where they can't read it.

A daemon goes on with the code it was started with, so after an update a command may be answered by an older one; a disk
may change a row. Neither is to end in a traceback: commands ask here, and `GuardGroup` tells what could not be read.
Light to import: `status` does.
"""

import contextlib
from collections.abc import Generator
from functools import partial
from typing import Any, Protocol

import click

from smtpguard import __version__
from smtpguard.errors import UNREADABLE, GuardError, StateError

Json = dict[str, Any]
_VERSION_S = 1.0
_KEY = "smtpguard.read"


class TellUnreadable(Protocol):
    """Says that something from outside could not be read."""

    def __call__(self, error: Exception, /) -> GuardError:
        """The error for people.

        Args:
            error: Of UNREADABLE, as it was met.
        """
        ...


def ask(socket_path: str, verb: str, **args: Any) -> Json:  # noqa: ANN401 - any JSON
    """As control.client.ask, for a command."""
    from smtpguard.control import client

    with reading(socket_path):
        answer = client.ask(socket_path, verb, **args)
    _note(partial(tell_answer, socket_path))
    return answer


def subscribe(socket_path: str, verb: str) -> Generator[Json]:
    """As control.client.subscribe, for a command."""
    from smtpguard.control import client

    for item in client.subscribe(socket_path, verb):
        _note(partial(tell_answer, socket_path))
        yield item


@contextlib.contextmanager
def reading(socket_path: str) -> Generator[None]:
    """Where an answer is read that must not end the command: what can't be read is an error as of `tell_answer`."""
    try:
        yield
    except UNREADABLE as error:
        raise tell_answer(socket_path, error) from error


def note_file(path: str) -> None:
    """From now on, until it asks a daemon, the command works on what the state file holds."""
    _note(partial(_tell_file, path))


def find_reading(context: click.Context) -> TellUnreadable | None:
    """Who tells of what a command has read last; None where it has read nothing from outside."""
    found: TellUnreadable | None = context.meta.get(_KEY)
    return found


def tell_answer(socket_path: str, error: Exception) -> GuardError:
    """An answer that is not what a command reads: after an update, as the guard goes on with what it was started with.

    Args:
        socket_path: Who gave it.
        error: As TellUnreadable.
    """
    fault = _name_fault(error)
    version = _ask_version(socket_path)
    if version in (None, __version__):
        what = f"the guard's answer is not what this command reads: {fault}"
        fix = "if smtpguard was updated: systemctl restart smtpguard; else report this"
    else:
        what = f"the guard is smtpguard {version}, this command {__version__}, and can't read its answer: {fault}"
        fix = "restart it: systemctl restart smtpguard"
    return GuardError(what, where=socket_path, fix=fix)


def _tell_file(path: str, error: Exception) -> GuardError:
    """Rows of another kind, a disk's doing or a person's."""
    what = f"holds what no smtpguard has written, or smtpguard reads it wrong: {_name_fault(error)}"
    return StateError(what, where=path, fix="leave it there, keep a copy of it, and report this")


def _note(tell: TellUnreadable) -> None:
    context = click.get_current_context(silent=True)
    if context is not None:
        context.meta[_KEY] = tell


def _name_fault(error: Exception) -> str:
    """The error, and the line that met it."""
    from pathlib import PurePath
    from traceback import extract_tb

    frames = extract_tb(error.__traceback__)
    place = f" ({PurePath(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{place}"


def _ask_version(socket_path: str) -> str | None:
    """Which smtpguard the guard is; None where it does not say."""
    from smtpguard.control import client

    try:
        return str(client.ask(socket_path, "status", timeout_s=_VERSION_S)["status"]["version"])
    except (GuardError, *UNREADABLE):
        return None
