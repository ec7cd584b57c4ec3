"""`smtpguard run`: watch, decide, respond, in the foreground."""

import os
from pathlib import Path

import click

from smtpguard.cli.common import config_option


@click.command("run")
@config_option
@click.option(
    "--dry-run", is_flag=True, help="Refuse nobody, whatever the configuration says; report what would be done."
)
@click.option("--source", "sources", metavar="S", multiple=True, help="Use this source instead of the configured ones.")
@click.option(
    "--service",
    is_flag=True,
    help="For the unit: a wrong configuration file brings up the last good one, and `status` says so.",
)
@click.option("-v", "--verbose", is_flag=True, help="Say more on stderr.")
def command(config_path: str | None, *, dry_run: bool, sources: tuple[str, ...], service: bool, verbose: bool) -> None:
    """Watch, decide and respond, in the foreground.

    SIGINT and SIGTERM stop it cleanly, SIGHUP reloads the configuration and reopens the log.
    """
    from smtpguard.cli.arguments import check_sensors
    from smtpguard.daemon.startup.handoff import Start, check_privilege, execute
    from smtpguard.settings.load import ENVIRONMENT, load_settings

    check_sensors(sources)
    wrong: str | None = None
    if service:
        from smtpguard.daemon.startup.configuration import load_for_service

        check_privilege()
        settings, wrong = load_for_service(config_path)
    else:
        settings = load_settings(config_path)
        check_privilege()
    named = config_path or os.environ.get(ENVIRONMENT) or None
    config_path = named and str(Path(named).absolute())  # the daemon works in /: a reload must find the file again
    start = Start(config_path=config_path, dry_run=dry_run, sources=sources, verbose=verbose, wrong_file=wrong)
    execute(settings, start)
