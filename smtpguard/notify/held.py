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


def hold(held: Held, shown: Mapping[str, Any], group: str) -> Held:
    """With another message that had no room.

    Args:
        held: What was held back on this channel since its last message; not changed.
        shown: What is named of it.
        group: Whose it is: its line replaces the one before.
    """
    before = next((line["stands_for"] for line in held["messages"] if line["group"] == group), 0)
    others = [line for line in held["messages"] if line["group"] != group]
    line = {**shown, "group": group, "stands_for": before + 1}
    return {
        "count": held["count"] + 1,
        "unnamed": held["unnamed"] + 1,
        "messages": [*others, line][-MAX_HELD:],
    }


def name(held: Held) -> Held:
    """What is left when the next message has named it: only what it could not name, for the summary."""
    named = sum(line["stands_for"] for line in held["messages"])
    return {"count": 0, "unnamed": held["unnamed"] - named, "messages": []}


def show_lines(held: Held) -> list[dict[str, Any]]:
    """The lines as a message has them."""
    return [{key: line[key] for key in ("id", "kind", "time", "text")} for line in held["messages"]]
