"""What was refused to a user at a moment of the past, from the changes that were written: for `why --at`. Pure."""

from collections.abc import Iterable

from smtpguard.logline import render_time
from smtpguard.state.event_query import Shown
from smtpguard.state.rows import ChangeRow
from smtpguard.text import render_words

KINDS = frozenset({"block", "extended", "unblock", "allow", "off", "on"})
"""Of the changes that have to be known."""


def find_past_blocks(changes: Iterable[ChangeRow], at_ns: int) -> list[Shown]:
    """Blocks, throttles and allowances in force at a moment, the latest first; how often they refused is not known.

    Args:
        changes: Of the user, and `off` and `on`, the oldest first, up to that moment.
        at_ns: The moment.
    """
    held: dict[tuple[str, ...], Shown] = {}
    ends: dict[tuple[str, ...], int] = {}
    off_until_ns: int | None = 0
    for row in changes:
        if row.event in ("off", "on"):
            off_until_ns = row.until_ns if row.event == "off" else 0
            continue
        details = row.details
        kind = "allow" if row.event == "allow" else str(details.get("block_kind"))
        source = row.by if row.event == "allow" else str(details.get("source"))
        key = (kind, "" if row.event == "allow" else source, str(details.get("ports")))
        if row.event == "unblock":
            held.pop(key, None)
            continue
        since = held[key]["since"] if row.event == "extended" and key in held else render_time(row.time_ns)
        ends[key] = row.until_ns or 0
        held.pop(key, None)
        held[key] = {
            "kind": kind,
            "ports": details.get("ports"),
            "since": since,
            "until": render_time(row.until_ns or 0),
            "by": source,
            "rule": details.get("rule"),
            "why": render_words(row.reason, max_bytes=200) or details.get("rule") or "-",
            "mode": details.get("mode") or "enforce",
            "suspended": False,
            "level": None,
            "refused": None,
        }
    is_off = off_until_ns is None or off_until_ns > at_ns
    found = [row for key, row in reversed(held.items()) if ends[key] > at_ns]
    return [row | {"suspended": is_off and row["kind"] != "allow" and row["mode"] == "enforce"} for row in found]
