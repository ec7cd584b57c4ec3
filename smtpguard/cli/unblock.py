"""`smtpguard unblock USER`: let a user send again."""

import time
from typing import Any

import click

from smtpguard.cli.common import config_option, find_socket, socket_option, warn_broken
from smtpguard.cli.tables import print_lines

_STARTING_S = 5.0
"""A guard that starts has its lock 0.5 to 2 s before it answers."""
_PAUSE_S = 0.1


@click.command("unblock")
@config_option
@socket_option
@click.argument("user", metavar="USER", required=False)
@click.option("--all", "everybody", is_flag=True, help="Everybody who is blocked or throttled.")
@click.option("--reason", default="", metavar="T", help="Written to the event log.")
@click.option("--source", metavar="fail2ban:JAIL", help="End only this source's block; for fail2ban's action.")
@click.option("--uid", type=str, metavar="N", help="With --source: the uid of the user.")
def command(
    config_path: str | None,
    socket_path: str | None,
    user: str | None,
    everybody: bool,
    reason: str,
    source: str | None,
    uid: str | None,
) -> None:
    """Let USER send again: end every block and throttle, set all counters to 0, and tell fail2ban.

    Works without the daemon too: then the kernel and the state file are changed directly.
    """
    from smtpguard.cli.arguments import check_source, check_uid

    number = check_uid(uid)
    if source is None and uid is not None:
        raise click.UsageError("--uid goes with --source")
    if everybody and (user is not None or number is not None):
        raise click.UsageError("USER or --all, not both")
    if not everybody and user is None and number is None:
        raise click.UsageError("whom? Give USER, a name or uid:N, or --all")
    args: dict[str, Any] = {"user": user, "reason": reason, "all": everybody, "uid": number}
    if source is not None:
        args["source"] = check_source(source)
    print_lines([_unblock(config_path, socket_path, args)])


def _unblock(config_path: str | None, socket_path: str | None, args: dict[str, Any]) -> str:
    """Have it done, or do it; by a guard that is just starting, as soon as it answers. What was done."""
    from smtpguard.cli.answers import ask
    from smtpguard.errors import BusyError, NoDaemonError
    from smtpguard.settings.load import load_places

    socket = find_socket(config_path, socket_path)
    try:
        return str(ask(socket, "unblock", **args)["text"])
    except NoDaemonError:
        pass
    from smtpguard.standalone.unblock import unblock

    settings, problem = load_places(config_path, ["nft", "state"])
    if problem is not None:
        warn_broken(problem, f"table inet {settings.nft_table} and {settings.state_path} are changed")
    whom = {"user": args["user"], "uid": args["uid"], "everybody": args["all"], "source": args.get("source")}
    deadline = time.monotonic() + _STARTING_S
    while True:
        try:
            return unblock(settings, **whom)
        except BusyError as error:
            busy = error
        time.sleep(_PAUSE_S)
        try:
            return str(ask(socket, "unblock", **args)["text"])
        except NoDaemonError as silence:
            if time.monotonic() > deadline:
                what = f"{silence.what}, though a guard runs: {busy.what}"
                raise NoDaemonError(
                    what, where=silence.where, fix="see what its log says; --socket names where another one answers"
                ) from busy
