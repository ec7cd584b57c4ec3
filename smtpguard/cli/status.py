"""`smtpguard status`: whether smtpguard is working, worst first; every counter with -v."""

from typing import Any

import click

from smtpguard.cli.block_lists import render_listed
from smtpguard.cli.common import EXIT_NO_DAEMON, config_option, find_socket, json_option, print_json, socket_option
from smtpguard.cli.tables import print_lines
from smtpguard.clock import render_moment
from smtpguard.text import render_count, render_duration, render_minute, tell_limits

_MODES = {"enforce": "enforcing", "off": "OFF: nobody is refused"}
_WORDS = frozenset({"inactive", "newcomers", "exempt names", "nat64", "accounts", "customers", "failures"})
"""Parts that say something in words; the others are counters."""
_FEW_ANSWERS = 0.5
_MAX_WATCHED = 5


@click.command("status")
@config_option
@socket_option
@json_option
@click.option("-v", "--verbose", is_flag=True, help="Show every counter.")
@click.option("--check", "is_check", is_flag=True, help="One line for Icinga, Nagios and Zabbix; exits 0, 1, 2 or 3.")
@click.option(
    "--warn-dry-run", default="14d", show_default=True, metavar="TIME", help="With --check: warn of a longer dry run."
)
@click.pass_context
def command(
    ctx: click.Context,
    config_path: str | None,
    socket_path: str | None,
    as_json: bool,
    verbose: bool,
    is_check: bool,
    warn_dry_run: str,
) -> None:
    """Show whether smtpguard is working: what is wrong, who is refused, what it watches with.

    Exits 3 until sources and enforcement are in place, and while a part that verdicts depend on fails; else 0.
    """
    from smtpguard.cli.answers import ask

    if is_check:
        ctx.exit(_check(config_path, socket_path, warn_dry_run))
    answer = ask(find_socket(config_path, socket_path), "status")
    status: dict[str, Any] = answer["status"]
    if as_json:
        print_json(status)
    else:
        print_lines(render_status(status, verbose=verbose))
    if not status["ready"]:
        ctx.exit(EXIT_NO_DAEMON)


def _check(config_path: str | None, socket_path: str | None, warn_dry_run: str) -> int:
    """Print the line of a check; its exit code."""
    from smtpguard.cli.answers import ask, reading
    from smtpguard.cli.status_check import check_failure, check_status
    from smtpguard.errors import GuardError
    from smtpguard.model import NS
    from smtpguard.settings.notations import parse_duration

    try:
        warn_ns = parse_duration(warn_dry_run)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--warn-dry-run") from None
    try:
        socket = find_socket(config_path, socket_path)
        with reading(socket):  # a traceback's exit code would be a warning of Icinga's
            code, line = check_status(ask(socket, "status")["status"], warn_dry_run_s=warn_ns / NS)
    except GuardError as error:
        code, line = check_failure(error)
    click.echo(line)
    return code


def render_status(status: dict[str, Any], *, verbose: bool = False) -> list[str]:
    """The status as lines for people: what is wrong, then who is refused, then what watches and acts.

    Args:
        status: As the guard answers.
        verbose: With every counter.
    """
    from smtpguard.cli.status_check import tell_dry_run

    lines = [f"!! {text}" for text in status["troubles"]]
    mode = f"dry run: {tell_dry_run(status)}" if status["mode"] == "dry-run" else _MODES[status["mode"]]
    lines.append(f"smtpguard {status['version']}: {mode}; up {render_duration(status['uptime'])}, pid {status['pid']}")
    if status["off_until"] is not None:
        lines.append(f"off until {render_moment(status['off_until'])}. Switch on: smtpguard on")
    would = status["would"]
    dry = f" Dry run: {render_count(would, 'user')} would be." if would else ""
    held = f"{status['blocks']} blocked, {status['throttles']} throttled."
    lines.append(f"refused now: nobody. Suspended: {held}" if status["mode"] == "off" else f"refused now: {held}{dry}")
    lines.append(f"refused attempts: {status['refused']}")
    lines.extend(_render_cap(status))
    lines.extend(_render_watched(status.get("watched", [])))
    lines.extend(render_listed(status.get("listed")))
    for row in status["not_recorded"] or ():
        counts = f"{row['attempts']} attempts, {row['refused']} refused, {row['reports']} outcomes"
        lines.append(f"not recorded: {row['user']}: {counts}. Too many at once: the kernel only counted them")
    lines.extend(_render_sources(status["sources"]))
    lines.extend(f"kernel ({row['name']}): {row['state']}" for row in status["enforcement"])
    lines.append(f"script names: {_render_script_names(status['script_names'])}")
    if exact := status["limits"]["exact"]:
        lines.append(f"exact limits: {', '.join(exact)}")
    if status["mode"] == "enforce":
        judged = status["limits"]["judged"]
        lines.extend(f"not exact: rule {name}: beyond its limit {beyond}" for name, beyond in judged.items())
    lines.extend(f"{name}: {text}" for name, text in status["parts"].items() if name in _WORDS)
    lines.extend(f"state: {note}" for note in status["notes"])
    if verbose:
        lines.extend(_render_counters(status))
    return lines


def _render_watched(rows: list[dict[str, Any]]) -> list[str]:
    """Whose limits are halved."""
    lines = [
        f"watched: {row['user']}: {_tell_watch(row)}. Undo: smtpguard incidents unwatch {row['user']}"
        for row in rows[:_MAX_WATCHED]
    ]
    more = len(rows) - _MAX_WATCHED
    return [*lines, f"watched: {more} more"] if more > 0 else lines


def _tell_watch(row: dict[str, Any]) -> str:
    until = f"until {render_minute(row['until'])}"
    return f"{until}; {tell_limits(row)}" if row.get("allowed_until") else f"{tell_limits(row)} {until}"


def _render_cap(status: dict[str, Any]) -> list[str]:
    cap, capped = status["cap"], status["capped"]
    if not cap:
        return []
    bucket = f"{cap['burst']} at once, {cap['rate']} in {render_duration(cap['per'])}"
    who = ", ".join(f"{row['user']} {row['refused']} times" for row in capped or ())
    return [f"cap: {bucket}. Refused: {'not known' if capped is None else who or 'nobody'}"]


def _render_sources(sources: list[dict[str, Any]]) -> list[str]:
    """Which source leads, which are ready, and why others are not."""
    names = {row["name"]: row["state"] for row in sources}
    watching = ", ".join(name for state in ("leads", "beside") for name in names if names[name] == state) or "nothing"
    standby = ", ".join(name for name in names if names[name] == "standby")
    ready = f" (ready: {standby})" if standby else ""
    lines = [f"watching with: {watching}{ready}"]
    lines += [f"not available: {row['name']}: {row['why']}" for row in sources if row["state"] == "down"]
    for row in sources:
        what = [f"{row[key]} {key}" for key in ("lost", "garbled") if row[key]]
        if row["restarts"]:
            what.append(f"died {'once' if row['restarts'] == 1 else str(row['restarts']) + ' times'}")
        if what:
            lines.append(f"source {row['name']}: {', '.join(what)}")
    return lines


def _render_script_names(figures: dict[str, Any] | None) -> str:
    if figures is None:
        return "off (attribution.process)"
    if figures["off"]:
        return f"not working: {figures['off']}"
    if not figures["asked"]:
        return "working"
    share = figures["answered"] / figures["asked"]
    few = " (of a fast burst only some are asked)" if share < _FEW_ANSWERS else ""
    return f"working, {share:.0%} answered{few}"


def _render_counters(status: dict[str, Any]) -> list[str]:
    lines = ["counters:"]
    for row in status["sources"]:
        counts = [f"{row['events']} seen", f"{row['lost']} lost", f"{row['garbled']} garbled"]
        counts += [f"{value} {name.replace('_', ' ')}" for name, value in row["notes"].items() if value]
        lines.append(f"  source {row['name']} {row['state']}: {', '.join(counts)}")
    return lines + [f"  {name}: {text}" for name, text in status["parts"].items() if name not in _WORDS]
