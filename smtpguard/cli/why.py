"""`smtpguard why`: who, since when, is it stopped, is that right, and how to undo it, on one card."""

from typing import TYPE_CHECKING, Any

import click

from smtpguard.cli.common import config_option, json_option, print_json, socket_option
from smtpguard.cli.history_options import find_uid
from smtpguard.cli.messages import print_message
from smtpguard.cli.past_source import PastSource

if TYPE_CHECKING:
    from smtpguard.state.history import History


@click.command("why")
@click.argument("user", metavar="USER")
@click.option("--at", default=None, metavar="T", help="As it was then: 2h (ago), 14:05, 'yesterday 12:00'.")
@click.option("--ticket", is_flag=True, help="Print all of it as plain text, for a support system.")
@click.option("--customer", is_flag=True, help="Print a text for the customer: no paths, nobody else's data.")
@click.option(
    "--language", default=None, metavar="L", help="Language of either text: en, de; else the customer's own, or en."
)
@click.option("--names", is_flag=True, help="Look up names and providers of destinations; 3 s at most.")
@json_option
@config_option
@socket_option
def command(
    config_path: str | None,
    socket_path: str | None,
    as_json: bool,
    user: str,
    at: str | None,
    ticket: bool,
    customer: bool,
    language: str | None,
    names: bool,
) -> None:
    """Show what is known of a user: since when, by which script, where to, and how to undo it.

    The first line answers a customer's call: US, NOT US, or UNKNOWN where nothing was watched. Own texts for
    --ticket and --customer: /etc/smtpguard/templates/LANGUAGE/ticket.txt and customer.txt.
    """
    from datetime import UTC, datetime

    from smtpguard.cli.moments import parse_moment
    from smtpguard.report.why import build_why
    from smtpguard.report.why_card import render_card

    if as_json + ticket + customer > 1:
        raise click.UsageError("--json, --ticket or --customer, not two of them")
    if language is not None and not (ticket or customer):
        raise click.UsageError("--language goes with --ticket or --customer")
    if language is not None:
        _check_language(language)
    at_ns = None if at is None else parse_moment(at, datetime.now(UTC).astimezone(), "--at")

    def read(history: "History") -> dict[str, Any]:
        return _read(history, find_uid(user, config_path), at_ns)

    answer = PastSource(config_path, socket_path).ask("why", read, user=user, at_ns=at_ns)
    standing = answer.get("standing")
    why = build_why(answer["live"], answer["past"], answer["name"], is_past=at is not None, standing=standing)
    if names:
        from smtpguard.enrich.confirmed_names import confirm_names, find_provider_trouble
        from smtpguard.report.providers import name_places

        places = why["destinations"]
        why["destinations"] = name_places(places, confirm_names(place["address"] for place in places))
        if trouble := find_provider_trouble():
            print_message(f"smtpguard: {trouble}")
    if as_json:
        print_json(why)
        return
    if ticket or customer:
        click.echo(_write_text(why, language, is_for_customer=customer), nl=False)
        return
    for line in render_card(why):
        click.echo(line)


def _check_language(language: str) -> None:
    from smtpguard.report.templates import list_languages
    from smtpguard.resources import OWN_FILES

    there = list_languages(OWN_FILES)
    if language not in there:
        known = f"there are {', '.join(there)}; own ones: {OWN_FILES}/templates"
        raise click.UsageError(f"there are no templates for the language {language!a}: {known}")


def _write_text(why: dict[str, Any], language: str | None, *, is_for_customer: bool) -> str:
    import socket

    from smtpguard.report.customer_text import write_customer_text
    from smtpguard.report.templates import DEFAULT_LANGUAGE, render_template
    from smtpguard.report.why_texts import build_ticket

    host = socket.gethostname()
    if is_for_customer:
        return write_customer_text(why, host, language=language).body
    return render_template("ticket.txt", build_ticket(why, host), language=language or DEFAULT_LANGUAGE)


def _read(history: "History", whose: tuple[int | None, str | None], at_ns: int | None) -> dict[str, Any]:
    """The same from the file, where no daemon runs."""
    import time

    from smtpguard.state.history_page import unknown_user
    from smtpguard.state.user_history import collect_user, show_block

    uid, name = whose
    now_ns = time.time_ns()
    names = [] if uid is None or (found := _find_name(uid)) is None else [found]
    past = collect_user(history, uid=uid, name=name, now_ns=at_ns or now_ns, names=names, is_past=at_ns is not None)
    if past["uid"] is None:
        raise unknown_user(name or "")
    if at_ns is None:
        past["blocks"] = [show_block(row) for row in history.blocks_of(past["uid"], now_ns)]
    return {"live": None, "past": past, "name": name or (names[0] if names else None)}


def _find_name(uid: int) -> str | None:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return None
