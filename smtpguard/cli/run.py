"""`smtpguard run`: watch, decide, respond, in the foreground."""

import click

from smtpguard.cli.common import config_option


@click.command("run")
@config_option
@click.option(
    "--dry-run", is_flag=True, help="Refuse nobody, whatever the configuration says; tell what would be done."
)
@click.option("--source", "sources", metavar="S", multiple=True, help="Use this source instead of the configured ones.")
@click.option("-v", "--verbose", is_flag=True, help="Say more on stderr.")
def command(config_path: str | None, dry_run: bool, sources: tuple[str, ...], verbose: bool) -> None:
    """Watch, decide and respond, in the foreground.

    SIGINT and SIGTERM stop it cleanly, SIGHUP reloads the configuration and reopens the log.
    """
    import logging
    import sys

    from smtpguard.daemon.service import serve
    from smtpguard.text import render_escaped, to_bytes

    class Escaped(logging.Formatter):
        """Diagnostics carry tenants' text too: one line each, nothing that drives a terminal."""

        def format(self, record: logging.LogRecord) -> str:
            lines = super().format(record).splitlines()
            return "\n".join(
                " ".join(render_escaped(to_bytes(w), max_bytes=4096) for w in line.split(" ")) for line in lines
            )

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Escaped("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.DEBUG if verbose else logging.INFO, handlers=[handler])
    serve(config_path, dry_run=dry_run, sources=sources)
