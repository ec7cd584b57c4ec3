"""What had no room in its hour, for each channel: named in the next message there, one line a user. Pure.

Who has many messages held back pushes out none of others': of each the newest is named. What could not be named is
counted in the summary.
"""

from collections.abc import Mapping
from typing import Any

from smtpguard.notify.body import MAX_HELD

Held = dict[str, Any]


def find_group(occasion: Mapping[str, Any]) -> str:
    """Whose share of the messages an occasion uses: a user's; all containers have one, as anybody makes any number."""
    if "incident" not in occasion:
        return occasion["kind"]  # type: ignore[no-any-return]
    return "containers" if occasion["uid"] is None else f"uid:{occasion['uid']}"


def begin_held() -> Held:
    """Nothing yet."""
    return {"count": 0, "unnamed": 0, "messages": []}


def hold(held: Held, shown: Mapping[str, Any], occasion: Mapping[str, Any]) -> Held:
    """With another message that had no room.

    Args:
        held: What was held back on this channel since its last message; not changed.
        shown: What is named of it.
        occasion: What it is: its user's line replaces the one before. The newest verdict, or what else there is, is
            kept whole: it is sent when there is room, and nothing else to name it in.
    """
    group, newest = find_group(occasion), held.get("newest")
    before = next((line["stands_for"] for line in held["messages"] if line["group"] == group), 0)
    others = [line for line in held["messages"] if line["group"] != group]
    line = {**shown, "group": group, "stands_for": before + 1}
    return {
        "count": held["count"] + 1,
        "unnamed": held["unnamed"] + 1,
        "messages": [*others, line][-MAX_HELD:],
        "newest": occasion if "verdict" in occasion or newest is None or "verdict" not in newest else newest,
    }


def name(held: Held) -> Held:
    """What is left when the next message has named it: only what it could not name, for the summary."""
    named = sum(line["stands_for"] for line in held["messages"])
    return {"count": 0, "unnamed": held["unnamed"] - named, "messages": []}


def show_lines(held: Held, besides: str) -> tuple[list[dict[str, Any]], int]:
    """The lines as a message has them, and how many messages they stand for.

    Args:
        held: What was held back.
        besides: The id of the message; it may be one of them, sent after all.
    """
    lines = [line for line in held["messages"] if line["id"] != besides]
    newest = held.get("newest")
    count = held["count"] - (newest is not None and newest["id"] == besides)
    return [{key: line[key] for key in ("id", "kind", "time", "text")} for line in lines], count
