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


GRAVEST = 5


def find_gravity(occasion: Occasion) -> int:
    """How grave an incident's verdict is for whoever decides whether it can wait: 0 to GRAVEST."""
    verdict = occasion["verdict"]
    if verdict["action"] == "warn":
        return 0
    if verdict["mode"] == "enforce" and verdict["left_to_fail2ban"]:
        return 3
    gravity = 2 if verdict["action"] == "block" else 1
    return gravity + 3 if verdict["mode"] == "enforce" else gravity


def name_thread(occasion: Occasion) -> str:
    """What is told once: how grave an incident is, and its end; nothing for what has a name of its own."""
    if "key" not in occasion or "days" in occasion:
        return ""
    gravity = f" {find_gravity(occasion)}" if occasion["kind"] == "incident-begins" else ""
    return f"{occasion['key']} {occasion['kind']}{gravity}"


def has_begun(key: str, told: ToldBefore, gravity: int = 0) -> bool:
    """Whether an incident was told, as one that is so grave or graver."""
    return any(told.was_told(f"{key} incident-begins {grade}") for grade in range(gravity, GRAVEST + 1))


def is_urgent(occasion: Occasion, at_once: Collection[str], told: ToldBefore) -> bool:
    """Whether it is told at once, if there is room.

    Args:
        occasion: From the daemon.
        at_once: Which verdicts are, `notify.at_once`.
        told: What was told before.
    """
    match occasion["kind"]:
        case "incident-begins" if "days" in occasion:
            return has_begun(occasion["key"], told)
        case "incident-begins":
            verdict = occasion["verdict"]
            if verdict["action"] == "warn" or verdict["mode"] == "enforce":
                is_meant = verdict["action"] in at_once
            else:
                is_meant = "dry-run" in at_once
            return is_meant and not has_begun(occasion["key"], told, find_gravity(occasion))
        case "incident-over":
            return has_begun(occasion["key"], told) and not told.was_told(name_thread(occasion))
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
        case "incident-begins" if "days" not in occasion:
            digest.count_begins(sums, occasion)
        case "incident-over":
            digest.count_over(sums, occasion)
        case "breaker":
            sums["brakes"] += bool(occasion["brake"]["tripped"])
