"""`smtpguard doctor`: what this host has, what it lacks, what that means, and the fix."""

import click

from smtpguard.cli.common import EXIT_FAILED, EXIT_PRIVILEGE, config_option, json_option, print_json
from smtpguard.cli.messages import print_message
from smtpguard.cli.tables import INDENT, find_width, wrap_line
from smtpguard.text import join_sentences

_NAMES = frozenset({"auditd", "bpf", "cgroup", "fail2ban", "libnftables", "nft", "nflog", "nftables", "proc", "audit"})
_LEAST_ROOM = 30
"""Cells beside the names of checks: with less a finding begins below them."""
_COLOURS = {"ok": "green", "note": "cyan", "unknown": "yellow", "bad": "red", "fatal": "red"}


@click.command("doctor")
@config_option
@json_option
@click.pass_context
def command(ctx: click.Context, config_path: str | None, as_json: bool) -> None:
    """Look at the host: what is there, what is missing, what that means, the fix. Changes nothing.

    Exits 1 if nobody could be stopped at all, 4 if it was not run as root.
    """
    import os
    from dataclasses import asdict

    from smtpguard.doctor import examine
    from smtpguard.doctor.finding import ExaminedHost
    from smtpguard.errors import ConfigError
    from smtpguard.settings.load import load_settings, read_shipped

    problem: ConfigError | None = None
    try:
        settings = load_settings(config_path)
    except ConfigError as error:
        problem, settings = error, read_shipped()
    findings = examine(ExaminedHost(settings, problem=problem, path=config_path))
    if as_json:
        print_json({"findings": [asdict(finding) for finding in findings]})
    else:
        width = max(len(finding.name) for finding in findings)
        for finding in findings:
            level = click.style(f"{finding.level:<8}", fg=_COLOURS[finding.level], bold=finding.level == "fatal")
            text = join_sentences(finding.found, _capitalise(finding.means), _render_fix(finding.fix))
            colour = False if os.environ.get("NO_COLOR") else None  # None: on a terminal only
            first, *more = _wrap(_printable(text), 8 + width + 2)
            click.echo(f"{level}{finding.name:<{width}}  {first}".rstrip(), color=colour)
            for line in more:
                click.echo(line)
    if os.geteuid() != 0:
        print_message("smtpguard: not root: what needs a privilege could not be looked at")
        ctx.exit(EXIT_PRIVILEGE)
    if any(finding.level == "fatal" for finding in findings):
        ctx.exit(EXIT_FAILED)


def _wrap(text: str, at: int) -> list[str]:
    """A finding as lines that are not wider than the terminal, below each other from column `at` on."""
    width = find_width()
    if width is None:
        return [text]
    if width - at < _LEAST_ROOM:
        return ["", *(INDENT + line for line in wrap_line(text, width - len(INDENT), indent="", keeps_all=True))]
    first, *more = wrap_line(text, width - at, indent="", keeps_all=True)
    return [first, *(" " * at + line for line in more)]


def _capitalise(text: str) -> str:
    """A sentence as the second one of a line; names of programs and keys stay as they are written."""
    word = text.split(" ", 1)[0]
    return text[:1].upper() + text[1:] if word.isalpha() and word not in _NAMES else text


def _render_fix(fix: str) -> str:
    """A whole sentence stands for itself; keys and commands are said to be the fix."""
    return fix if not fix or fix[0].isupper() else f"Fix: {fix}"


def _printable(text: str) -> str:
    """Text in one line of ASCII: errors of the system carry names that somebody else chose."""
    return ascii(text)[1:-1].replace("\\'", "'").replace("\\\\", "\\")
