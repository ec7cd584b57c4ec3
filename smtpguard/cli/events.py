"""`smtpguard events`: what happened, the newest first."""

from typing import Any

import click

from smtpguard.cli.common import config_option, json_option, print_json, socket_option
from smtpguard.cli.csv_output import render_csv
from smtpguard.cli.history_options import (
    Ask,
    HistorySource,
    Json,
    build_times,
    check_source,
    filter_options,
    name_source,
    parse_networks,
    print_more,
    print_source,
    without_time,
)
from smtpguard.cli.tables import print_lines, print_table

COLUMNS = (
    *(
        "time",
        "kind",
        "user",
        "uid",
        "mode",
        "rule",
        "count",
        "limit",
        "window",
        "action",
        "block",
        "by",
        "who",
        "until",
    ),
    *("block_kind", "ports", "port", "dst", "pid", "sensor", "attr", "proc", "exe", "cwd", "script", "rdns", "reason"),
)
"""Of the CSV."""
_HEAD = ("TIME", "USER", "KIND", "MODE", "WHAT")
_FOLLOW_S = 1.0


@click.command("events")
@filter_options
@click.option("--kind", "kinds", default=None, metavar="K,..", help="Only these: exceeded, block, unblock, allow, ...")
@click.option("--port", type=click.IntRange(1, 65_535), default=None, help="Only about this port.")
@click.option("--dst", multiple=True, metavar="NET", help="Only attempts at a destination in this network.")
@click.option("--script", default=None, metavar="S", help="Only attempts whose script has this in its path.")
@click.option("--sha256", default=None, metavar="SUM", help="Only where a file with this sum was found.")
@click.option("--follow", is_flag=True, help="Go on with what happens, the oldest first, until Ctrl-C.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV; no cell begins a formula.")
@json_option
@config_option
@socket_option
def command(
    config_path: str | None,
    socket_path: str | None,
    as_json: bool,
    as_csv: bool,
    follow: bool,
    kinds: str | None,
    dst: tuple[str, ...],
    since: str | None,
    until: str | None,
    rows: int,
    **filters: Any,  # noqa: ANN401 - what click parsed
) -> None:
    """Show what happened, the newest first: verdicts, blocks and their ends, and what people did."""
    if as_json and as_csv:
        raise click.UsageError("--json or --csv, not both")
    args: Ask = {name: value for name, value in filters.items() if value not in (None, "")}
    args |= build_times(since, until)
    if kinds:
        args["kinds"] = _check_kinds(kinds)
    if dst:
        parse_networks(dst)
        args["dst"] = list(dst)
    check_source(args)
    source = HistorySource(config_path, socket_path)
    found = source.find("events", rows, args)
    if follow:
        _follow(source, args, found.items, as_json=as_json, as_csv=as_csv)
    elif as_json:
        events = [without_time("events", event) for event in found.items]
        more = {} if found.source is None else {"source": name_source(found.source)}
        print_json({"events": events, "more": found.has_more} | more)
    elif as_csv:
        click.echo(render_csv(COLUMNS, found.items, head=True), nl=False)
    elif not found.items:
        print_source(found.source)
        click.echo("Nothing of that kind has happened.")
    else:
        print_source(found.source)
        print_table(_HEAD, [_row(event) for event in found.items])
    if not follow and not as_json:
        print_more(found, rows, "time")


def describe_event(event: Json) -> str:
    """What happened, in words; hostile text is escaped."""
    from smtpguard.text import render_duration, render_ports, render_words

    if event["kind"] == "exceeded":
        script = f" by {event['script']}" if event.get("script") else ""
        done = "" if event["action"] == "warn" else f": {event['action']}, {render_duration(event['block'])}"
        window = render_duration(event["window"])
        where = f", last to {event['dst']} port {event['port']}{script}"
        return f"{event['rule']}: {event['count']} in {window}, limit {event['limit']}{done}{where}"
    parts = []
    if event.get("incident"):
        parts.append(f"incident {event['incident']}")
    if event.get("block_kind"):
        parts.append(f"{event['block_kind']}{render_ports(event.get('ports')) or ' on all ports'}")
    if event.get("rule"):
        parts.append(f"rule {event['rule']}")
    if event.get("until"):
        parts.append(f"until {event['until'][:19].replace('T', ' ')}")
    by = event.get("who") or event["by"]
    parts.append(f"by {render_words(str(by))}")
    if event.get("reason"):
        parts.append(render_words(str(event["reason"]), max_bytes=200))
    return ", ".join(parts)


def _row(event: Json) -> tuple[str, ...]:
    time = event["time"]
    return (
        f"{time[:10]} {time[11:19]}",
        event["user"] or "everybody",
        event["kind"].upper(),
        event.get("mode") or "",
        describe_event(event),
    )


def _check_kinds(text: str) -> list[str]:
    from smtpguard.state.event_query import KINDS

    kinds = [kind.strip().lower() for kind in text.split(",")]
    for kind in kinds:
        if kind == "connect":
            hint = "single connections are in the log file; the history keeps their sums. See: smtpguard why USER"
            raise click.BadParameter(hint, param_hint="--kind")
        if kind not in KINDS:
            raise click.BadParameter(f"{kind!r} is none of {', '.join(KINDS)}", param_hint="--kind")
    return kinds


def _follow(source: HistorySource, args: Ask, events: list[Json], *, as_json: bool, as_csv: bool) -> None:
    """Print what there was, the oldest first, and then what comes."""
    import sys
    import time

    from smtpguard.text import render_visible

    head, seen = True, set[str]()
    while True:
        fresh = [event for event in reversed(events) if repr(event) not in seen]
        if as_csv:
            click.echo(render_csv(COLUMNS, fresh, head=head), nl=False)
        for event in [] if as_csv else fresh:
            if as_json:
                print_json(without_time("events", event))
            else:
                print_lines([render_visible("  ".join(cell for cell in _row(event) if cell))])
        sys.stdout.flush()
        head = False
        if events:
            seen = set(map(repr, events))
        last_ns = max((event["time_ns"] for event in events), default=args["since_ns"])
        try:
            time.sleep(_FOLLOW_S)
            # A verdict may be written a moment after something newer.
            events = source.find(
                "events", 10_000, {**args, "since_ns": max(args["since_ns"], last_ns - 5 * 10**9)}
            ).items
        except KeyboardInterrupt:
            return
