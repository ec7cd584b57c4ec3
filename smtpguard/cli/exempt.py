"""`smtpguard exempt -- USER`: fail2ban's ignorecommand. Asked before each ban, so it answers in 0.15 s."""

import click

from smtpguard.cli.common import EXIT_FAILED, config_option, find_socket
from smtpguard.cli.messages import print_error
from smtpguard.cli.tables import print_lines
from smtpguard.errors import GuardError, NoDaemonError

PATIENCE_S = 1.0
"""For the guard to say whether somebody is watched."""


@click.command("exempt")
@config_option
@click.option(
    "--name", "is_name", is_flag=True, help="USER is a login name, as in the event log, even if it is digits."
)
@click.argument("user", metavar="USER")
@click.pass_context
def command(ctx: click.Context, config_path: str | None, is_name: bool, user: str) -> None:
    """Exit 0 if the user is exempt, 1 if not or if there is no such user.

    Exempt are root, mail server accounts, and whom the configuration exempts. Put -- before a USER that may be
    anything.
    """
    from smtpguard.enrich.accounts.directory import AccountDirectory
    from smtpguard.panels.customers_on_demand import CustomersOnDemand
    from smtpguard.settings.load import load_part, load_settings
    from smtpguard.text import render_user

    if "." in user and not is_name:  # perhaps a domain: whose it is, other keys say
        settings = load_settings(config_path)
    else:
        settings = load_part(config_path, ["exempt", "shared_users"])
    accounts = AccountDirectory(settings, customers=None if is_name else CustomersOnDemand(settings))
    account = accounts.lookup.by_login(user) if is_name else accounts.lookup.by_person(user)
    if account is None:
        print_lines(["no: no such account on this host"])
        ctx.exit(EXIT_FAILED)
    if account.standing not in ("root", "mta", "exempt"):
        accounts.wait_for_spellings()
        account = accounts.account(account.uid)
    shown = render_user(account.uid, account.name)
    if not is_name and (namesake := accounts.lookup.find_namesake(user)) is not None:
        shown = f"{shown} (taken as a uid; the account called {user} is uid:{namesake})"
    if not is_name and (whose := accounts.lookup.tell_domain(user)):
        shown = f"{shown} ({whose})"
    if account.standing in ("root", "mta", "exempt"):
        print_lines([f"yes: {shown}: {account.reason}"])
        return
    watched = "" if is_name else _tell_watch(config_path, account.uid)
    print_lines([f"no: {shown}: {account.standing}{watched}"])
    ctx.exit(EXIT_FAILED)


def _tell_watch(config_path: str | None, uid: int) -> str:
    """That a running guard has their limits halved. Files know nothing of it, and without a guard it is not so."""
    from smtpguard.cli.answers import ask, reading
    from smtpguard.text import render_minute, tell_limits

    socket = find_socket(config_path, None)
    try:
        with reading(socket):
            (found,) = ask(socket, "why", timeout_s=PATIENCE_S, uids=[uid])["items"]
            watch = found.get("watch")
            return "" if watch is None else f"; watched until {render_minute(watch['until'])}: {tell_limits(watch)}"
    except NoDaemonError:
        return ""
    except GuardError as error:
        print_error(error, begin="smtpguard: whether they are watched is not known: ")
        return ""
