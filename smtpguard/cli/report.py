"""`smtpguard report`: what happened on this host in a span of time, for people, cron and mail."""

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from smtpguard.cli.common import config_option, socket_option
from smtpguard.cli.messages import print_message

if TYPE_CHECKING:
    from collections.abc import Iterable

    from smtpguard.report.host_report import HostReport


@click.command("report")
@click.option("--since", default="24h", show_default=True, metavar="T", help="From then on: 24h, 'yesterday 00:00'.")
@click.option("--until", default=None, metavar="T", help="Until then; now if it is not given.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "html", "json"]),
    default="text",
    show_default=True,
    help="For a terminal and mail, for a browser, or for programs.",
)
@click.option("--out", default=None, metavar="F", help="Write to this file, readable by you alone; else to stdout.")
@click.option("--names", is_flag=True, help="Look up names and providers of destinations; 3 s at most.")
@config_option
@socket_option
def command(
    config_path: str | None,
    socket_path: str | None,
    since: str,
    until: str | None,
    form: str,
    out: str | None,
    names: bool,
) -> None:
    """Show what happened on this host: users, scripts, destinations, verdicts, blocks, and what was not seen.

    A span that is given as a duration begins at a full hour.
    """
    from smtpguard.cli.report_source import ReportSource

    since_ns, until_ns = _read_times(since, until)
    source = ReportSource(config_path, socket_path)
    report = source.build(since_ns, until_ns, ends_now=until is None)
    if names:
        from smtpguard.enrich.confirmed_names import confirm_names, find_provider_trouble
        from smtpguard.report.providers import name_report

        report = name_report(report, confirm_names(place.address for place in report.destinations))
        if trouble := find_provider_trouble():
            print_message(f"smtpguard: {trouble}")
    pieces = _render(report, form)
    if out is None:
        sys.stdout.writelines(pieces)
    else:
        _write(out, pieces)


def _read_times(since: str, until: str | None) -> tuple[int, int]:
    """Full minutes; a duration from a full hour on, so that users and places are of the same time."""
    import time

    from smtpguard.cli.history_options import build_times
    from smtpguard.settings import HOUR_NS, MINUTE_NS

    times = build_times(since, until)
    since_ns, until_ns = times["since_ns"], time.time_ns() if until is None else times["until_ns"]
    unit_ns = HOUR_NS if re.fullmatch(r"\s*\d+[hd]\s*", since.lower()) else MINUTE_NS
    return since_ns // unit_ns * unit_ns, until_ns if until is None else -(-until_ns // MINUTE_NS) * MINUTE_NS


def _render(report: "HostReport", form: str) -> "Iterable[str]":
    if form == "json":
        from smtpguard.report.host_report import render_json

        return render_json(report)
    if form == "html":
        from smtpguard.report.report_html import render_html

        return [render_html(report)]
    from smtpguard.report.report_text import render_text

    return (f"{line}\n" for line in render_text(report))


def _write(out: str, pieces: "Iterable[str]") -> None:
    """A report names customers: nobody else reads it, and what stands there is replaced in one step."""
    import os
    import tempfile

    from smtpguard.errors import GuardError

    path = Path(out)
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
                file.writelines(pieces)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise GuardError(f"can't be written: {error.strerror}", where=out, fix="name another file by --out") from error
