"""What is told at once, what is news at all, and what the summary counts of it. Pure, but for what was told before."""

from collections.abc import Collection, Mapping
from typing import Any, Protocol

from smtpguard.notify import digest

Occasion = Mapping[str, Any]


class ToldBefore(Protocol):
    """Knows what was told before, see Spool."""

    def was_told(self, name: str) -> bool:
        """Whether something is dealt with."""
        ...

    def read_fact(self, name: str) -> Any:  # noqa: ANN401 - a JSON value
        """A value; None if there is none."""
        ...


def name_thread(occasion: Occasion) -> str:
    """What is told once: an incident's beginning, its end; nothing for what is no incident's."""
    return f"{occasion['key']} {occasion['kind']}" if "key" in occasion else ""


def is_urgent(occasion: Occasion, at_once: Collection[str], told: ToldBefore) -> bool:
    """Whether it is told at once, if there is room.

    Args:
        occasion: From the daemon.
        at_once: Which verdicts are, `notify.at_once`.
        told: What was told before.
    """
    match occasion["kind"]:
        case "incident-begins":
            verdict = occasion["verdict"]
            if verdict["action"] == "warn" or verdict["mode"] == "enforce":
                is_meant = verdict["action"] in at_once
            else:
                is_meant = "dry-run" in at_once
            return is_meant and not told.was_told(name_thread(occasion))
        case "incident-over":
            has_begun = told.was_told(f"{occasion['key']} incident-begins")
            return has_begun and not told.was_told(name_thread(occasion))
        case "breaker":
            brake = occasion["brake"]
            is_news = bool(told.read_fact("tripped")) != bool(brake["tripped"])
            return (brake["mode"] == "enforce" or "dry-run" in at_once) and is_news
        case "blind":
            return bool(told.read_fact(f"condition {occasion['condition']}")) != bool(occasion["holds"])
    return True


def find_changes(occasion: Occasion, at_once: Collection[str]) -> Mapping[str, object]:
    """What has to be known of an occasion, so that it is not told again."""
    match occasion["kind"]:
        case "breaker" if occasion["brake"]["mode"] == "enforce" or "dry-run" in at_once:
            return {"tripped": occasion["brake"]["tripped"]}
        case "blind":
            return {f"condition {occasion['condition']}": occasion["holds"]}
    return {}


def count(sums: digest.Sums, occasion: Occasion) -> None:
    """Add it to the summary."""
    match occasion["kind"]:
        case "incident-begins":
            digest.count_begins(sums, occasion)
        case "incident-over":
            digest.count_over(sums, occasion)
        case "breaker":
            sums["brakes"] += bool(occasion["brake"]["tripped"])
