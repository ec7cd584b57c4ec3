"""`smtpguard notify test`: try out who is told."""

import click

from smtpguard.cli.common import EXIT_FAILED, config_option
from smtpguard.cli.tables import print_lines


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

    Each message says first that it is a test. --kind customer sends what a customer would get to notify.mail, never
    to a customer. No daemon is needed, but root's rights for the files with secrets.
    """
    from smtpguard.notify.attempt import CUSTOMER, send_samples
    from smtpguard.notify.samples import KINDS
    from smtpguard.settings.load import load_settings

    known = (*KINDS, CUSTOMER)
    strange = [kind for kind in kinds if kind not in known]
    if strange:
        raise click.BadParameter(f"{strange[0]!r} is not one of {', '.join(known)}", param_hint="--kind")
    notify = load_settings(config_path or ctx.obj).notify
    # Unasked, a sample of what customers get is sent where they get any, and somebody is there for it.
    unasked = (*KINDS, CUSTOMER) if notify.customers.enabled and notify.mail is not None else KINDS
    wanted = [kind for kind in known if (kind in kinds if kinds else kind in unasked)]
    failed = False
    for attempt in send_samples(notify, wanted):
        failed = failed or not attempt.is_sent
        print_lines([f"{'ok' if attempt.is_sent else 'FAILED':<8}{attempt.kind}: {attempt.channel}: {attempt.answer}"])
    if failed:
        ctx.exit(EXIT_FAILED)
