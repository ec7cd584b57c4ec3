"""`smtpguard incidents`: one user's verdicts merged, the newest first; and closing them."""

from typing import Any

import click

from smtpguard.cli.common import config_option, find_socket, json_option, print_json, socket_option
from smtpguard.cli.csv_output import render_csv
from smtpguard.cli.history_options import (
    Ask,
    HistorySource,
    Json,
    build_times,
    check_source,
    filter_options,
    name_source,
    print_more,
    print_source,
    without_time,
)
from smtpguard.cli.tables import print_lines, print_table
from smtpguard.errors import PolicyError

COLUMNS = (
    *("id", "user", "uid", "first", "last", "mode", "rules", "verdicts", "connects", "refused", "peak_per_minute"),
    *("scripts", "destinations", "destination_count", "over", "closed_time", "closed_by", "closed_reason"),
)
"""Of the CSV."""
_HEAD = ("ID", "USER", "FIRST", "LAST", "MODE", "VERDICTS", "ATTEMPTS", "REFUSED", "PEAK/MIN", "STATE", "RULES")
_FOLD = ("PEAK/MIN", "VERDICTS", "LAST", "MODE", "ATTEMPTS", "FIRST", "REFUSED", "STATE")


@click.group("incidents", invoke_without_command=True)
@filter_options
@click.option("--open", "is_open", is_flag=True, help="Only those that nobody has closed.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV; no cell begins a formula.")
@json_option
@config_option
@socket_option
@click.pass_context
def command(
    ctx: click.Context,
    /,
    config_path: str | None,
    socket_path: str | None,
    as_json: bool,
    as_csv: bool,
    since: str | None,
    until: str | None,
    rows: int,
    **filters: Any,  # noqa: ANN401 - what click parsed
) -> None:
    """Show incidents, the newest first: whose, since when, how much, and whether they are over."""
    if ctx.invoked_subcommand is not None:
        return
    if as_json and as_csv:
        raise click.UsageError("--json or --csv, not both")
    args: Ask = {name: value for name, value in filters.items() if value not in (None, "")}
    args |= build_times(since, until)
    check_source(args)
    found = HistorySource(config_path, socket_path).find("incidents", rows, args)
    if as_json:
        items = [without_time("incidents", item) for item in found.items]
        more = {} if found.source is None else {"source": name_source(found.source)}
        print_json({"incidents": items, "more": found.has_more} | more)
        return
    if as_csv:
        click.echo(render_csv(COLUMNS, map(_flatten, found.items), head=True), nl=False)
        print_more(found, rows, "last")
        return
    print_source(found.source)
    if not found.items:
        click.echo("There are no such incidents.")
        return
    print_table(_HEAD, [_row(item) for item in found.items], moments=("FIRST", "LAST"), fold=_FOLD)
    print_more(found, rows, "last")


@command.command("close")
@click.argument("incident", metavar="ID")
@click.option("--reason", default="", metavar="T", help="What was done about it.")
@click.option("--watch", "span", default=None, metavar="D", help="Halve the user's limits for so long: 7d.")
@config_option
@socket_option
@click.pass_context
def close(
    ctx: click.Context,
    /,
    config_path: str | None,
    socket_path: str | None,
    incident: str,
    reason: str,
    span: str | None,
) -> None:
    """Close an incident: it is dealt with. Blocks stay as they are.

    With --watch each limit of the user is halved for that time. Their first verdict is told, whatever it is.
    """
    from smtpguard.cli.answers import ask
    from smtpguard.cli.times import parse_span

    for_ns = None if span is None else parse_span(span, "--watch")
    socket = _find_socket(ctx, config_path, socket_path)
    closed = ask(socket, "close", incident=incident, reason=reason)
    print_lines([closed["text"]])
    if for_ns is None:
        return
    if closed["user"] is None:
        raise PolicyError("nobody is watched: the incident is a container's, which has no account")
    more = {"reason": reason, "incident": closed["incident"]}
    print_lines([ask(socket, "halve", user=closed["user"], for_ns=for_ns, **more)["text"]])


@command.command("unwatch")
@click.argument("user", metavar="USER")
@config_option
@socket_option
@click.pass_context
def unwatch(ctx: click.Context, /, config_path: str | None, socket_path: str | None, user: str) -> None:
    """End a watch: the user's limits are again what they were."""
    from smtpguard.cli.answers import ask

    print_lines([ask(_find_socket(ctx, config_path, socket_path), "halve", user=user)["text"]])


def _find_socket(ctx: click.Context, config_path: str | None, socket_path: str | None) -> str:
    above = ctx.parent.params if ctx.parent is not None else {}
    return find_socket(config_path or above.get("config_path"), socket_path or above.get("socket_path"))


def _flatten(item: Json) -> Json:
    """An incident as cells of CSV: of what is counted, each with its number."""
    counted = {
        name: [f"{place[key]} {place['count']}" for place in item[name]]
        for name, key in (("scripts", "script"), ("destinations", "address"))
    }
    closed = item["closed"] or {}
    return item | counted | {f"closed_{name}": closed.get(name) for name in ("time", "by", "reason")}


def _row(item: Json) -> tuple[str, ...]:
    state = "closed" if item["closed"] else "over" if item["over"] else "goes on"
    return (
        item["id"],
        item["user"],
        item["first"][:19].replace("T", " "),
        item["last"][:19].replace("T", " "),
        item["mode"],
        str(item["verdicts"]),
        str(item["connects"]),
        str(item["refused"]),
        str(item["peak_per_minute"]),
        state,
        ",".join(item["rules"]),
    )
