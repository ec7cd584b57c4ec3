"""Whether a customer is told of a block, asked at the very moment of telling. Pure.

Only a person's word keeps a true block from being told: one that has ended by its time is told as well.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from smtpguard.notify.customer_book import CustomerLetter, Whom

FIRST_DAYS_S = 7 * 86_400.0
"""Limits that are wrong show in the first days of enforcement: nobody is told then."""
LATEST_S = 86_400.0
"""What could not be told for so long is old news."""
UNDONE = ("unblock", "allow")
TOLD_STATES = frozenset({"refused", "slowed", "was_refused"})
"""Of a customer's text: there is something to tell them."""


def find_objection(letter: CustomerLetter, now_s: float, status: Mapping[str, Any]) -> str | None:
    """Why nobody is told, by how the guard fares; None if nothing is against it.

    Args:
        letter: What is to be told.
        now_s: Now.
        status: What `status` shows.
    """
    since_s = status["enforcing_since"]
    if now_s - letter.begun_s > LATEST_S:
        return "it is too old"
    if status["mode"] != "enforce":
        return "the guard is off" if status["mode"] == "off" else "dry run"
    if status["breaker_tripped"]:
        return "the safety brake holds"
    if since_s is None or letter.begun_s < since_s + FIRST_DAYS_S:
        return "enforcement was in its first 7 days"
    return None


def find_undoing(changes: Iterable[Mapping[str, Any]]) -> str | None:
    """Who has undone a block; None if nobody has.

    Args:
        changes: What `events` shows of the user since then, of the kinds UNDONE.
    """
    for change in changes:
        is_end = change["kind"] == "unblock" or _is_later(change["until"], change["time"])
        if is_end and change["by"] in ("admin", "exempt", "name"):  # not by time, nor by a jail whose time was over
            return f"{change['kind']} by {change.get('who') or change['by']}"
    return None


def find_doubt(letter: CustomerLetter, why: Mapping[str, Any]) -> str | None:
    """Why it is not known whom it concerns; None if it is.

    Args:
        letter: What is to be told.
        why: From `build_why`.
    """
    if why["user"] != letter.user:
        return "the uid is another account's now"
    if why["standing"] != "tenant":
        return f"no customer's own account ({why['standing'] or 'gone'})"
    return None if why["account"] is not None else "nobody says whose the account is"


def list_recipients(why: Mapping[str, Any], also: Iterable[str]) -> list[tuple[Whom, str | None]]:
    """Who is told, and where: the reseller in place of the customer, if there is one.

    Args:
        why: From `build_why`.
        also: Who is told besides.
    """
    account = why["account"]
    customer: tuple[Whom, str | None] = ("customer", account["contact"])
    if not account["reseller"]:
        return [customer]
    reseller: tuple[Whom, str | None] = ("reseller", why["notice"]["reseller_contact"])
    if "customer" in also and customer[1] != reseller[1]:
        return [reseller, customer]
    return [reseller]


def _is_later(until: str | None, time: str) -> bool:
    """Whether an allowance goes on: its end is written as one that ends now."""
    return until is not None and datetime.fromisoformat(until) > datetime.fromisoformat(time)
