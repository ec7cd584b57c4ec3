"""`smtpguard incidents`: one user's verdicts merged, the newest first; and closing them."""

from typing import Any

import click

from smtpguard.cli.common import config_option, json_option, print_json, print_table, socket_option
from smtpguard.cli.csv_output import render_csv
from smtpguard.cli.history_options import (
    Ask,
    HistorySource,
    Json,
    ask_daemon,
    build_times,
    check_source,
    filter_options,
    name_source,
    print_more,
    print_source,
    without_time,
)

COLUMNS = (
    *("id", "user", "uid", "first", "last", "mode", "rules", "verdicts", "connects", "refused", "peak_per_minute"),
    *("scripts", "destinations", "destination_count", "over", "closed_time", "closed_by", "closed_reason"),
)
"""Of the CSV."""


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
    head = ("ID", "USER", "FIRST", "LAST", "MODE", "VERDICTS", "ATTEMPTS", "REFUSED", "PEAK/MIN", "STATE", "RULES")
    print_table(head, [_row(item) for item in found.items])
    print_more(found, rows, "last")


@command.command("close")
@click.argument("incident", metavar="ID")
@click.option("--reason", default="", metavar="T", help="What was done about it.")
@config_option
@socket_option
@click.pass_context
def close(ctx: click.Context, /, config_path: str | None, socket_path: str | None, incident: str, reason: str) -> None:
    """Close an incident: it is dealt with. Blocks stay as they are."""
    above = ctx.parent.params if ctx.parent is not None else {}
    config_path, socket_path = config_path or above.get("config_path"), socket_path or above.get("socket_path")
    click.echo(ask_daemon(config_path, socket_path, "close", {"incident": incident, "reason": reason}))


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
