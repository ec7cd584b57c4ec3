"""`smtpguard notify test`: try out who is told."""

import click

from smtpguard.cli.common import EXIT_FAILED, config_option


@click.group("notify")
@config_option
@click.pass_context
def command(ctx: click.Context, config_path: str | None) -> None:
    """Try out who is told of blocks."""
    ctx.obj = config_path


@command.command("test", short_help="Send one message of each kind, for real, and say what came back.")
@config_option
@click.option("--kind", "kinds", multiple=True, metavar="K", help="Only this kind, such as incident-begins or digest.")
@click.pass_context
def send(ctx: click.Context, config_path: str | None, kinds: tuple[str, ...]) -> None:
    """Send one message of each kind, for real, and say what came back. Exit 0 if all were taken.

    Each message says first that it is a test. No daemon is needed, but root's rights for the files with secrets.
    """
    from smtpguard.notify.attempt import send_samples
    from smtpguard.notify.samples import KINDS
    from smtpguard.settings.load import load_settings

    strange = [kind for kind in kinds if kind not in KINDS]
    if strange:
        raise click.BadParameter(f"{strange[0]!r} is not one of {', '.join(KINDS)}", param_hint="--kind")
    wanted = [kind for kind in KINDS if not kinds or kind in kinds]
    failed = False
    for attempt in send_samples(load_settings(config_path or ctx.obj).notify, wanted):
        failed = failed or not attempt.is_sent
        click.echo(f"{'ok' if attempt.is_sent else 'FAILED':<8}{attempt.kind}: {attempt.channel}: {attempt.answer}")
    if failed:
        ctx.exit(EXIT_FAILED)
