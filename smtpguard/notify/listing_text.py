"""What people read of a listing: where, since when, who sent most before, and what to type next. Pure."""

from collections.abc import Collection, Mapping
from typing import Any

from smtpguard.text import render_minute

_NAMED = 3
_MAX_ZONES = 4


def render_listing(listing: Mapping[str, Any], share: Collection[str]) -> str:
    """A listing in one line.

    Args:
        listing: From the daemon.
        share: What may leave this host.
    """
    address, zones = listing["address"], listing["zones"]
    names = ", ".join(row["zone"] for row in zones[:_MAX_ZONES])
    if len(zones) > _MAX_ZONES:
        names += f" and {len(zones) - _MAX_ZONES} more"
    if not listing["holds"]:
        since = render_minute(zones[0]["since"])
        return f"{address} is no longer listed on {names}. It was since {since}."
    codes = ", ".join(dict.fromkeys(code for row in zones for code in row["codes"]))
    text = f"LISTED: {address} is on {names} ({codes}). {_render_senders(listing['senders'], share)}"
    reason = next((row["reason"] for row in zones if row["reason"]), "")
    return f"{text} See: {list_listing_commands(listing)[0]}" + (f". The list says: {reason}" if reason else "")


def list_listing_commands(listing: Mapping[str, Any]) -> list[str]:
    """What to type next; nothing where it is over."""
    senders = listing["senders"]
    if not listing["holds"]:
        return []
    whole = "smtpguard report --since 48h"
    if senders is not None and senders["scope"] == "host":
        return [whole]
    return [f"smtpguard incidents --src {listing['address']} --since 48h", whole]


def _render_senders(senders: Mapping[str, Any] | None, share: Collection[str]) -> str:
    if senders is None:
        return "Who sent before is not known: the record can't be read."
    where = "" if senders["scope"] == "address" else " of the whole host (from that address none is known)"
    if not senders["users"]:
        return f"Nobody{where} sent in the 48 h before."
    count = len(senders["users"])
    rows = [f"{row['user']} {row['connects']}" for row in senders["users"][:_NAMED]] if "user" in share else []
    named = f": {', '.join(rows)}" if rows else f": {count}, the largest with {senders['users'][0]['connects']}"
    unknown = f" ({senders['unknown']} attempts from an address that is not known)" if senders["unknown"] else ""
    return f"Largest senders{where} in the 48 h before{named}{unknown}."
