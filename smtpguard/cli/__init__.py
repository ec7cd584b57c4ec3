"""The command line: a thin skin over the typed API; the only place that prints and exits."""

import click


@click.group()
def main() -> None:
    """Sees every outbound SMTP connection of a shared web host and stops the offender alone."""
