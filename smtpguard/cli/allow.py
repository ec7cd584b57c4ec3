"""`smtpguard allow USER`: an allowance that ends by itself."""

import re

import click

from smtpguard.cli.common import config_option, find_socket, socket_option
from smtpguard.cli.tables import print_lines


@click.command("allow")
@config_option
@socket_option
@click.argument("user", metavar="USER")
@click.option("--for", "span", default=None, metavar="D", help="How long it holds: 2h, 7d. Needed without --end.")
@click.option(
    "--limit",
    default=None,
    metavar="N/D",
    help="So many connections in a time, as in 500/1h; else ten times each rule.",
)
@click.option("--everything", is_flag=True, help="Also lift the rules that count networks on port 25.")
@click.option("--reason", default="", metavar="T", help="Kept with the allowance and shown to people.")
@click.option("--end", is_flag=True, help="End the allowance now; normal limits apply again.")
def command(
    config_path: str | None,
    socket_path: str | None,
    user: str,
    span: str | None,
    limit: str | None,
    everything: bool,
    reason: str,
    end: bool,
) -> None:
    """Give USER higher limits for a time. Blocks and throttles of USER end at once.

    Without --limit it is ten times each rule. Rules that count networks on port 25 still apply, unless --everything.
    An allowance survives a restart, ends by itself after 31 days at most, and shows in `blocks`.
    """
    from smtpguard.cli.answers import ask
    from smtpguard.cli.times import parse_span

    if end == (span is not None):
        raise click.UsageError("give --for, or --end")
    if end:
        answer = ask(find_socket(config_path, socket_path), "allow", user=user, reason=reason, end=True)
    else:
        count, window_ns = parse_limit(limit)
        answer = ask(
            find_socket(config_path, socket_path),
            "allow",
            user=user,
            for_ns=parse_span(span or ""),
            limit=count,
            window_ns=window_ns,
            everything=everything,
            reason=reason,
        )
    print_lines([answer["text"]])


def parse_limit(text: str | None) -> tuple[int | None, int | None]:
    """`500/1h` as a count and nanoseconds; a usage error (exit 2) else."""
    from smtpguard.settings.notations import parse_duration

    if text is None:
        return None, None
    found = re.fullmatch(r"([1-9][0-9]{0,8})/([0-9]+[smhd])", text)
    if found is None:
        raise click.BadParameter("it must be a number and a time, as in 500/1h", param_hint="--limit")
    try:
        return int(found[1]), parse_duration(found[2])
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--limit") from None
