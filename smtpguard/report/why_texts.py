"""`why --ticket` and `why --customer`: one user in a plain text for a support system, or for the customer. Pure.

What a template may use is listed here, name by name. The customer's text is given no path, name or address but the mail
server that refuses their mail, so that not even an administrator's own template can tell of anything else.
"""

from collections.abc import Mapping
from typing import Any

from smtpguard.errors import GuardError
from smtpguard.report.report_html import REPORT
from smtpguard.report.templates import Names
from smtpguard.report.why import is_refusing

Json = dict[str, Any]
TICKET: Names = {
    "host": None,
    "verdict": None,
    "verdict_for_customer": None,
    "user": None,
    "uid": None,
    "time": None,
    "standing": None,
    "standing_why": None,
    "mode": None,
    "watch": dict.fromkeys(("since", "until", "by", "reason", "allowed_until")),
    "account": dict.fromkeys(("domain", "domains", "reseller", "package", "contact", "language")),
    "notice": dict.fromkeys(("template", "language", "reseller_contact")),
    "attempts": dict.fromkeys(("hour", "day")),
    "refused": dict.fromkeys(("hour", "day")),
    "failed": dict.fromkeys(("hour",)),
    "blocks": dict.fromkeys(("kind", "ports", "since", "until", "by", "rule", "why", "mode", "suspended", "refused"))
    | {"refused_to": dict.fromkeys(("address", "port", "count"))},
    "rules": dict.fromkeys(("name", "count", "limit", "window", "action", "mode", "now", "next", "limit_by"))
    | {"usual": dict.fromkeys(("p50", "p95", "days"))},
    "incident": dict.fromkeys(
        ("id", "first", "last", "verdicts", "connects", "refused", "peak_per_minute", "rules", "over")
    ),
    "scripts": dict.fromkeys(("script", "line", "stack", "count", "attr", "owner", "ctime", "sha256"))
    | {"drivers": dict.fromkeys(("address", "count"))},
    "files": dict.fromkeys(("path", "owner", "mode", "size", "ctime", "sha256")),
    "destinations": dict.fromkeys(("address", "name", "provider", "port", "count", "refused", "connected", "failed"))
    | {"last_failure": dict.fromkeys(("error", "time"))},
    "own_addresses": dict.fromkeys(("address", "connected", "failed", "first", "last")),
    "own_unknown": None,
    "usual": {minutes: dict.fromkeys(("p50", "p95", "days")) for minutes in ("1", "10", "60", "1440")},
    "blind": None,
    "lost": None,
    "notes": dict.fromkeys(("time", "by", "who", "reason")),
    "changes": dict.fromkeys(("time", "kind", "by", "who", "until", "reason")),
    "commands": None,
}
"""What a ticket may use: the fields of `why --json`, and the host's name."""

CUSTOMER: Names = dict.fromkeys(
    (
        *("host", "user", "domain", "time", "state", "cause", "ports", "since", "until"),
        *("attempts", "refused", "failed", "server", "port"),
    )
)
"""What a customer's text may use; `state` is refused, slowed, was_refused, free or unknown, `cause` limit or person."""

TEMPLATES: Mapping[str, Names] = {
    "ticket.txt": TICKET, "customer.txt": CUSTOMER, "customer_subject.txt": CUSTOMER, "report.html": REPORT
}  # fmt: skip


def build_ticket(why: Mapping[str, Any], host: str) -> Json:
    """What a ticket is given.

    Args:
        why: From `build_why`.
        host: This host's name.
    """
    return _pick({**why, "host": host}, TICKET)


def build_customer(why: Mapping[str, Any], host: str) -> Json:
    """What a customer's text is given.

    Args:
        why: From `build_why`.
        host: This host's name.

    Raises:
        GuardError: The account is not known to be one customer's: what it did may concern another one.
    """
    if why["standing"] != "tenant":
        known = why["standing"] or "not known: the account is gone, or no guard runs"
        what = f"{why['user']} may be no customer's own account ({known}): what it did may concern other customers"
        raise GuardError(what, fix=f"smtpguard why {why['user']} --ticket")
    block = next(filter(is_refusing, why["blocks"]), None)
    if block is not None:
        state = "slowed" if block["kind"] == "throttle" else "refused"
    else:
        state = {"us": "was_refused", "not_us": "free"}.get(why["verdict_for_customer"], "unknown")
    failures = [place for place in why["destinations"] if why["failed"]["hour"] and place["last_failure"]]
    worst: Mapping[str, Any] = max(failures, key=lambda place: str(place["last_failure"]["time"]), default={})
    return {
        "host": host,
        "user": why["user"],
        "domain": (why["account"] or {}).get("domain"),
        "time": why["time"],
        "state": state,
        "cause": _find_cause(why, block, state),
        "ports": None if block is None else block["ports"],
        "since": None if block is None else block["since"],
        "until": None if block is None else block["until"],
        "attempts": why["attempts"]["hour"],
        "refused": why["refused"]["hour"],
        "failed": why["failed"]["hour"],
        "server": worst.get("address"),
        "port": worst.get("port"),
    }


def _find_cause(why: Mapping[str, Any], block: Mapping[str, Any] | None, state: str) -> str | None:
    """Whether a limit or a person stopped it; of what is over a person, where one had a hand in it."""
    if block is not None:
        return "limit" if block["rule"] else "person"
    if state != "was_refused":
        return None
    by_person = any(change["kind"] == "block" and change["by"] == "admin" for change in why["changes"])
    return "person" if by_person else "limit"


def _pick(values: Mapping[str, Any], names: Names) -> Json:
    """The named fields alone; one that is missing is null."""
    picked: Json = {}
    for name, below in names.items():
        value = values.get(name)
        if below is None or value is None:
            picked[name] = value
        elif isinstance(value, list):
            picked[name] = [_pick(row, below) for row in value]
        else:
            picked[name] = _pick(value, below)
    return picked
