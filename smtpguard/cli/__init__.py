"""The command line: a thin skin over the typed API; the only place that prints and exits.

Commands live in modules of their own and are imported when they are called: `status` and `exempt` answer in 0.15 s.
"""

import importlib

import click

from smtpguard import __version__
from smtpguard.cli.common import GuardGroup

_COMMANDS: dict[str, tuple[str, str]] = {
    "run": ("smtpguard.cli.run", "Watch, decide and respond, in the foreground."),
    "status": ("smtpguard.cli.status", "Show whether smtpguard is working."),
    "blocks": ("smtpguard.cli.blocks", "Show who is refused, and who may send more."),
    "block": ("smtpguard.cli.block", "Block a user's SMTP for a time."),
    "unblock": ("smtpguard.cli.unblock", "Let a user send again."),
    "allow": ("smtpguard.cli.allow", "Give a user higher limits for a time."),
    "off": ("smtpguard.cli.off", "Stop refusing at once, go on watching."),
    "on": ("smtpguard.cli.on", "Refuse again after `off`."),
    "reload": ("smtpguard.cli.reload", "Load the configuration again."),
    "watch": ("smtpguard.cli.watch", "Show every SMTP connection as it happens."),
    "why": ("smtpguard.cli.why", "Show what is known of a user, and how to undo it."),
    "events": ("smtpguard.cli.events", "Show what happened, the newest first."),
    "incidents": ("smtpguard.cli.incidents", "Show incidents, the newest first, or close one."),
    "report": ("smtpguard.cli.report", "Show a day, or another time, of the whole host."),
    "note": ("smtpguard.cli.note", "Keep a note about a user."),
    "notify": ("smtpguard.cli.notify", "Try out who is told of blocks."),
    "replay": ("smtpguard.cli.replay", "Show what the rules would have done with an audit log."),
    "demo": ("smtpguard.cli.demo", "Show a hacked site being stopped, in namespaces of its own."),
    "exempt": ("smtpguard.cli.exempt", "Exit 0 if the user is exempt."),
    "nft": ("smtpguard.cli.nft", "Show, load or delete the nftables table."),
    "doctor": ("smtpguard.cli.doctor", "Look at this host: what is missing, and the fix."),
    "check": ("smtpguard.cli.check", "Check the configuration."),
    "setup": ("smtpguard.cli.setup", "Install the service, fail2ban's files, logrotate and a configuration."),
}
"""Command name to (module, one-line help); the module has a click command named `command`."""


class LazyGroup(GuardGroup):
    """A group that imports a command's module only when the command is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Names in the order of the table."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """The command object, imported now."""
        entry = _COMMANDS.get(cmd_name)
        if entry is None:
            return None
        command: click.Command = importlib.import_module(entry[0]).command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does it; a mistyped command is answered with the nearest one."""
        if args and args[0] not in _COMMANDS and not args[0].startswith("-"):
            import difflib

            near = difflib.get_close_matches(args[0], _COMMANDS, 1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            ctx.fail(f"No such command {args[0]!r}.{hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands from the table, without importing them."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="smtpguard")
def main() -> None:
    """Sees every outbound SMTP connection of a shared web host and stops the offender alone."""
