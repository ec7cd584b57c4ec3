"""The JSON of a message, as config/notification.schema.json describes it, and docs/notification.md for people. Pure."""

import json
from collections.abc import Collection, Mapping
from typing import Any

from smtpguard.notify.listing_text import list_listing_commands
from smtpguard.notify.texts import render_text, show_script
from smtpguard.report.why import judge

VERSION = 1
MAX_HELD = 20
"""Messages that were held back and are named one by one in the next."""


def render_body(
    occasion: Mapping[str, Any],
    *,
    host: str,
    share: Collection[str],
    held: Collection[Mapping[str, Any]] = (),
    held_count: int = 0,
) -> str:
    """A message.

    Args:
        occasion: From the daemon.
        host: This host's name.
        share: What may leave it.
        held: What was held back before it: kind, time and text of each.
        held_count: How much that was, these included.
    """
    body: dict[str, Any] = {
        "version": VERSION,
        "id": occasion["id"],
        "kind": occasion["kind"],
        "time": occasion["time"],
        "host": host,
        "text": ("TEST, nothing has happened: " if occasion.get("is_test") else "") + render_text(occasion, share),
    }
    if "incident" in occasion:
        body["incident"] = _show_incident(occasion, share)
        body["why"] = _show_why(occasion, share)
    if "brake" in occasion:
        body["breaker"] = dict(occasion["brake"])
    if "condition" in occasion:
        body["condition"] = {"name": occasion["condition"], "holds": occasion["holds"], "status": occasion["what"]}
    if "listing" in occasion:
        body["listed"] = _show_listing(occasion["listing"], share)
    if "digest" in occasion:
        body["digest"] = occasion["digest"]
    if held_count:
        body["held_back"] = {"count": held_count, "messages": list(held)[:MAX_HELD]}
    return json.dumps(body)


def _show_listing(listing: Mapping[str, Any], share: Collection[str]) -> dict[str, Any]:
    senders = listing["senders"]
    if senders is not None and "user" not in share:
        senders = {**senders, "users": [{**row, "user": None, "uid": None} for row in senders["users"]]}
    return {**listing, "senders": senders, "commands": list_listing_commands(listing)}


def _show_incident(occasion: Mapping[str, Any], share: Collection[str]) -> dict[str, Any]:
    incident = dict(occasion["incident"])
    scripts = [(show_script(row["script"], share), row["count"]) for row in incident.pop("scripts")]
    destinations = incident.pop("destinations")
    return {
        "user": occasion["user"] if "user" in share else None,
        "uid": occasion["uid"] if "user" in share else None,
        "domain": occasion.get("domain") if "domain" in share else None,
        **incident,
        "scripts": [{"script": script, "count": count} for script, count in scripts if script],
        "destinations": destinations if "destinations" in share else [],
        "verdict": _show_verdict(occasion, share),
    }


def _show_verdict(occasion: Mapping[str, Any], share: Collection[str]) -> dict[str, Any] | None:
    verdict = occasion.get("verdict")
    return None if verdict is None else {**verdict, "script": show_script(verdict["script"], share)}


def _show_why(occasion: Mapping[str, Any], share: Collection[str]) -> dict[str, Any]:
    """The head of the card that `why` shows: what somebody at the telephone needs."""
    incident, user = occasion["incident"], occasion["user"]
    known = {
        "blocks": occasion.get("blocks", ()),
        "refused": {"hour": incident["refused"]},
        "attempts": {"hour": incident["connects"]},
        "failed": {"hour": 0},
        "destinations": (),
        "blind": (),
        "lost": 0,
        "time": occasion["time"],
    }
    is_named = "user" in share and occasion["uid"] is not None
    verdict, sentence = judge(known, is_seeing=True)
    return {
        "verdict_for_customer": verdict,
        "verdict": sentence,
        "blocks": [dict(block) for block in known["blocks"]],
        # There is nothing to ask or to free here of whoever is in a container.
        "commands": [f"smtpguard {verb} {user}" for verb in ("why", "unblock")] if is_named else [],
    }
