"""`smtpguard status`: is it guarding, by what, and what has it lost."""

from typing import Any

import click

from smtpguard.cli.common import EXIT_NO_DAEMON, config_option, find_socket, json_option, print_json, socket_option


@click.command("status")
@config_option
@socket_option
@json_option
@click.pass_context
def command(ctx: click.Context, config_path: str | None, socket_path: str | None, as_json: bool) -> None:
    """Show sources, losses, enforcement, refusals and versions.

    Exits 3 until sources and enforcement are in place, and while a part that verdicts depend on fails; else 0.
    """
    from smtpguard.control.client import ask

    answer = ask(find_socket(config_path, socket_path), "status")
    status: dict[str, Any] = answer["status"]
    if as_json:
        print_json(status)
    else:
        for line in render_status(status):
            click.echo(line)
    if not status["ready"]:
        ctx.exit(EXIT_NO_DAEMON)


def render_status(status: dict[str, Any]) -> list[str]:
    """The status as lines for people; what is wrong stands first."""
    from smtpguard.clock import render_moment
    from smtpguard.text import render_duration

    lines = [f"!! {text}" for text in status["troubles"]]
    mode = {"dry-run": "dry run: nobody is refused", "enforce": "enforcing", "off": "OFF: nobody is refused"}
    lines.append(
        f"smtpguard {status['version']}, pid {status['pid']}, "
        f"up {render_duration(status['uptime'])}, {mode[status['mode']]}"
    )
    if status["off_until"] is not None:
        lines.append(f"  off until    {render_moment(status['off_until'])}; `smtpguard on` ends it")
    lines.extend(_render_source(source) for source in status["sources"])
    lines.extend(f"  enforcement  {means['name']:<9} {means['state']}" for means in status["enforcement"])
    lines.append(
        f"  blocks       {status['blocks']} blocked, {status['throttles']} throttled, "
        f"{status['would']} would be; {status['refused']} attempts refused"
    )
    if cap := status["cap"]:
        capped = status["capped"]
        who = ", ".join(f"{row['user']} {row['refused']} times" for row in capped or ())
        shown = "not known" if capped is None else f"refused {who}" if who else "refused nobody"
        bucket = f"{cap['burst']} at once, {cap['rate']} in {render_duration(cap['per'])}"
        lines.append(f"  cap          {bucket}: {shown}")
    for row in status["not_recorded"] or ():
        counts = f"{row['attempts']} attempts, {row['refused']} refused ones, {row['reports']} outcomes"
        lines.append(f"  not recorded {row['user']}: {counts}: too many at once, the kernel counted them alone")
    lines.extend(f"  {name:<12} {text}" for name, text in status["parts"].items())
    return lines


def _render_source(source: dict[str, Any]) -> str:
    counts = [f"{source['events']} seen", f"{source['lost']} lost", f"{source['garbled']} garbled"]
    counts += [f"{value} {name.replace('_', ' ')}" for name, value in source["notes"].items() if value]
    if source["restarts"]:
        counts.append(f"died {'once' if source['restarts'] == 1 else str(source['restarts']) + ' times'}")
    why = f": {source['why']}" if source["why"] else ""
    return f"  source       {source['name']:<9} {source['state']:<8} {', '.join(counts)}{why}"
