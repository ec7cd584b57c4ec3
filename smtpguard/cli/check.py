"""`smtpguard check`: is the configuration right, and is it meant so? Reads files only; needs no daemon and no root."""

import click

from smtpguard.cli.common import EXIT_CONFIG, config_option, json_option, print_json
from smtpguard.errors import ConfigError


@click.command()
@config_option
@json_option
@click.pass_context
def command(ctx: click.Context, config_path: str | None, as_json: bool) -> None:
    """Check the configuration.

    Errors go to stderr, one a line with file and line, and end with code 78. Warnings are about what is allowed but
    seldom meant; they leave the code at 0.
    """
    from smtpguard.settings_check import show_sources
    from smtpguard.settings_doubts import find_doubts
    from smtpguard.settings_file import load_settings
    from smtpguard.settings_lines import SettingsError

    try:
        settings = load_settings(config_path)
    except ConfigError as error:
        errors = error.lines if isinstance(error, SettingsError) else [str(error)]
        if as_json:
            print_json({"ok": False, "errors": errors, "warnings": []})
        else:
            click.echo(str(error), err=True)
            click.echo(f"smtpguard: {len(errors)} {'error' if len(errors) == 1 else 'errors'}", err=True)
        ctx.exit(EXIT_CONFIG)
    warnings = find_doubts(settings)
    summary = {
        "ok": True,
        "file": settings.path,
        "dry_run": settings.dry_run,
        "sources": settings.sources if isinstance(settings.sources, str) else list(settings.sources),
        "ports": sorted(settings.ports),
        "rules": [rule.name for rule in settings.rules],
        "errors": [],
        "warnings": warnings,
    }
    if as_json:
        print_json(summary)
        return
    mode = "dry run" if settings.dry_run else "enforcing"
    click.echo(
        f"{settings.path or 'shipped defaults'}: ok: {mode}; sources {show_sources(settings.sources)}; "
        f"ports {' '.join(map(str, sorted(settings.ports)))}; {len(settings.rules)} rules"
    )
    for warning in warnings:
        click.echo(f"warning: {warning}")
