"""What `status` says of block lists: where this host is listed, and which lists can't be asked."""

from collections.abc import Iterator, Mapping
from typing import Any

from smtpguard.text import render_count, render_minute

_MAX_SHOWN = 5


def render_listed(listed: Mapping[str, Any] | None) -> Iterator[str]:
    """Lines for people; none where no list is named.

    Args:
        listed: As the guard answers.
    """
    if not listed:
        return
    for row in listed["listings"][:_MAX_SHOWN]:
        yield f"listed: {_show(row)}. Who sent: smtpguard incidents --src {row['address']}"
    if (more := listed["count"] - _MAX_SHOWN) > 0:
        yield f"listed: {more} more. See: smtpguard status --json"
    if listed["why"]:
        yield f"listed: can't be asked: {listed['why']}"
    elif listed["asked"] is None:
        yield f"listed: not known yet, {render_count(listed['zones'], 'block list')} to be asked"
    elif not listed["count"] and len(listed["not_asked"]) < listed["zones"]:
        lists = render_count(listed["zones"] - len(listed["not_asked"]), "block list")
        addresses = ", ".join(listed["addresses"][:_MAX_SHOWN])
        yield f"listed: nowhere ({addresses}; {lists} asked {render_minute(listed['asked'])})"
    for row in listed["not_asked"]:
        yield f"listed: {row['zone']} can't be asked: {row['why']}"


def find_listed_warning(listed: Mapping[str, Any] | None) -> str | None:
    """What is worth a warning; None if nothing is."""
    if not listed:
        return None
    if listed["listings"]:
        more = f" and {listed['count'] - 1} more" if listed["count"] > 1 else ""
        return f"LISTED: {_show(listed['listings'][0])}{more}"
    if listed["why"]:
        return f"block lists can't be asked: {listed['why']}"
    if len(listed["not_asked"]) == listed["zones"]:
        row = listed["not_asked"][0]
        return f"no block list can be asked: {row['zone']}: {row['why']}"
    return None


def _show(row: Mapping[str, Any]) -> str:
    return f"{row['address']} on {row['zone']} since {render_minute(row['since'])} ({', '.join(row['codes'])})"
