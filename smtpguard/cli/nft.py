"""`smtpguard nft show|ensure|remove`: the ruleset, as it is or as it would be; there again; gone."""

from typing import TYPE_CHECKING

import click

from smtpguard.cli.common import config_option, find_socket, socket_option
from smtpguard.cli.messages import print_message
from smtpguard.cli.tables import print_lines

if TYPE_CHECKING:
    from smtpguard.actions.nft.enforcer import NftEnforcer
    from smtpguard.settings import Settings


@click.group("nft")
@config_option
@click.pass_context
def command(ctx: click.Context, config_path: str | None) -> None:
    """Show, load or delete the nftables table that refuses users. No other table is ever touched."""
    ctx.obj = config_path


@command.command("show", short_help="Print the table as it is in the kernel.")
@config_option
@click.option("--would", is_flag=True, help="Not what is in the kernel, but what `ensure` would load. Needs no root.")
@click.pass_obj
def show(outer: str | None, config_path: str | None, would: bool) -> None:
    """Print the table as it is in the kernel. Where there is none, print what would be loaded."""
    settings = _load(config_path or outer)
    enforcer = make_enforcer(settings)
    installed = None if would else read_table(settings.nft_table)
    if installed is None and not would:
        print_message(f"table inet {settings.nft_table} is not there; this would be loaded:")
    click.echo(installed if installed is not None else enforcer.render(), nl=False)


@command.command("ensure", short_help="Load the table as it ought to be.")
@config_option
@socket_option
@click.pass_obj
def ensure(outer: str | None, config_path: str | None, socket_path: str | None) -> None:
    """Load the table as it ought to be. Who is refused stays refused, other tables stay as they are."""
    text = ask_guard(find_socket(config_path or outer, socket_path), "ensure")
    if text is None:
        from smtpguard.kernel.nft.access import open_nft

        settings = _load(config_path or outer)
        open_nft().start()  # its child is forked before there are threads
        make_enforcer(settings).ensure()
        text = f"table inet {settings.nft_table} is in place (no guard is running)"
    print_lines([text])


@command.command("remove", short_help="Delete the table, and every refusal by it.")
@config_option
@socket_option
@click.pass_obj
def remove(outer: str | None, config_path: str | None, socket_path: str | None) -> None:
    """Delete the table, and with it every refusal by nftables. A running guard does not put it back."""
    text = ask_guard(find_socket(config_path or outer, socket_path), "remove")
    if text is None:
        from smtpguard.decode.netlink.nft_numbers import render_delete_table
        from smtpguard.kernel.nft.access import open_nft

        settings = _load(config_path or outer)
        # The second one is the nflog source's, if its guard was killed.
        tables = (settings.nft_table, f"{settings.nft_table}_watch")
        open_nft().transact([change for table in tables for change in render_delete_table(table)])
        text = f"table inet {settings.nft_table} is removed (no guard is running)"
    print_lines([text])


def ask_guard(socket_path: str, do: str) -> str | None:
    """Let a running guard do it, which then knows whether a lost table is to be healed.

    Args:
        socket_path: Where its socket is.
        do: "ensure" or "remove", argument `do` of the verb `nft`.

    Returns:
        What it did, for people; None if no guard is running.
    """
    from smtpguard.cli.answers import ask
    from smtpguard.errors import NoDaemonError

    try:
        return str(ask(socket_path, "nft", do=do)["text"])
    except NoDaemonError:
        return None


def read_table(name: str) -> str | None:
    """A table of family inet as nft lists it; None if it is not there.

    Raises:
        EnforceError: It can't be listed.
    """
    from smtpguard.kernel.nft.access import NftError
    from smtpguard.kernel.nft.text import open_text_nft

    try:
        return open_text_nft().run(f"list table inet {name}")
    except NftError as error:
        if error.missing:
            return None
        raise


def make_enforcer(settings: "Settings") -> "NftEnforcer":
    """An enforcer as the daemon's, with who passes as it is now. Exempt names are looked up by the daemon only."""
    from smtpguard.actions.nft.enforcer import NftEnforcer
    from smtpguard.actions.nft.render import build_spec
    from smtpguard.clock import boottime_ns
    from smtpguard.daemon.host_watch import HostWatch

    around = HostWatch(settings, boottime_ns)
    try:
        around.open()
        exemptions = around.exemptions()
    finally:
        around.close()
    return NftEnforcer(build_spec(settings), exemptions=exemptions)


def _load(path: str | None) -> "Settings":
    from smtpguard.settings.load import load_settings

    return load_settings(path)
