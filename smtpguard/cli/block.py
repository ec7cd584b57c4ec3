"""`smtpguard block USER`: refuse a user's SMTP for a time; with --source, fail2ban's way in."""

from typing import Any

import click

from smtpguard.cli.common import config_option, find_socket, socket_option
from smtpguard.cli.tables import print_lines

_LAST_S = 1 << 40


@click.command("block")
@config_option
@socket_option
@click.argument("user", metavar="USER", required=False)
@click.option("--for", "span", metavar="D", help="How long: 30m, 2h, 1d, or seconds. If not given: 1h, or as it was.")
@click.option("--ports", metavar="P,P", help="Only these destination ports, such as 25,587; else all.")
@click.option("--reason", default="", metavar="T", help="Kept with the block and shown to people.")
@click.option("--force", is_flag=True, help="Even if the user is exempt.")
@click.option("--source", metavar="fail2ban:JAIL", help="Who asks; for fail2ban's action.")
@click.option("--uid", type=str, metavar="N", help="With --source: the uid of the user.")
@click.option("--at", "at_s", type=float, metavar="T", help="With --source: when the ban began, seconds since 1970.")
def command(
    config_path: str | None,
    socket_path: str | None,
    user: str | None,
    span: str | None,
    ports: str | None,
    reason: str,
    force: bool,
    source: str | None,
    uid: str | None,
    at_s: float | None,
) -> None:
    """Block the SMTP of USER for a time, open sessions included: all of it, or some ports.

    A block is never shortened silently: without --for a later end stays, and so does its reason.

    It is enforced even in dry run, and says so. Root is never blocked, an exempt user only with --force.
    """
    from smtpguard.cli.answers import ask
    from smtpguard.cli.arguments import check_ports, check_source, check_uid
    from smtpguard.cli.times import parse_span

    if source is None and (uid is not None or at_s is not None):
        raise click.UsageError("--uid and --at go with --source")
    if at_s is not None and not 0 <= at_s < _LAST_S:
        raise click.BadParameter("it must be seconds since 1970", param_hint="--at")
    number = check_uid(uid)
    if user is None and number is None:
        raise click.UsageError("whom? Give USER, a name or uid:N")
    args: dict[str, Any] = {"user": user, "reason": reason, "ports": check_ports(ports)}
    if span is not None:
        args["for_ns"] = parse_span(span, endless=source is not None)
    elif source is not None:
        args["for_ns"] = parse_span("1h")
    if source is None:
        answer = ask(find_socket(config_path, socket_path), "block", **args, force=force)
    else:
        answer = ask(
            find_socket(config_path, socket_path), "block", **args, source=check_source(source), uid=number, at=at_s
        )
    print_lines([answer["text"]])
