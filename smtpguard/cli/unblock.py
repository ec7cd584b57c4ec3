"""`smtpguard unblock USER`: let a user send again."""

from typing import Any

import click

from smtpguard.cli.common import config_option, find_socket, socket_option, warn_broken
from smtpguard.cli.tables import print_lines


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
    from smtpguard.control.client import ask
    from smtpguard.errors import NoDaemonError

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
    try:
        answer = ask(find_socket(config_path, socket_path), "unblock", **args)
    except NoDaemonError:
        from smtpguard.settings.load import load_places
        from smtpguard.standalone.unblock import unblock

        settings, problem = load_places(config_path, ["nft", "state"])
        if problem is not None:
            warn_broken(problem, f"table inet {settings.nft_table} and {settings.state_path} are changed")
        answer = {"text": unblock(settings, user=user, uid=number, everybody=everybody, source=source)}
    print_lines([answer["text"]])
