"""What is told at once, what has room, what is news at all, and what the summary counts. Pure, but for what was."""

from collections.abc import Collection, Mapping
from typing import Any, Protocol

from smtpguard.notify import digest
from smtpguard.notify.held import find_group

Occasion = Mapping[str, Any]
PER_HOUR = 30
"""Messages that could have waited for none."""
FOR_INCIDENTS = 26
"""Of these at most: the others are for what concerns the guard itself."""
FOR_KNOWN = 13
"""Of these for users of whom something as grave was told within a day: they leave room for others."""
FOR_ONE = 4
"""Of these for one user, and for all containers together; the last of them is for a block."""
_HOUR_S = 3600.0
_DAY_S = 86_400.0


class ToldBefore(Protocol):
    """Knows what was told before, see Spool."""

    def was_told(self, name: str) -> bool:
        """Whether something is dealt with."""
        ...

    def count_at_once(self, since_s: float) -> int:
        """How many messages were made since then that could not wait."""
        ...

    def count_named(self, prefix: str, since_s: float) -> int:
        """How much with a name that begins so is dealt with since then."""
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
        case "note":
            return False
        case "breaker":
            brake = occasion["brake"]
            is_news = bool(told.read_fact("tripped")) != bool(brake["tripped"])
            return (brake["mode"] == "enforce" or "dry-run" in at_once) and is_news
        case "blind":
            return bool(told.read_fact(f"condition {occasion['condition']}")) != bool(occasion["holds"])
    return True


def has_room(occasion: Occasion, told: ToldBefore, now_s: float) -> bool:
    """Whether it is sent now, or has to wait for the next message: no user uses up the room of others.

    Args:
        occasion: What is urgent.
        told: What was told before.
        now_s: Now.
    """
    count, group = told.count_at_once(now_s - _HOUR_S), find_group(occasion)
    if occasion["kind"] == "listed":  # a list may have each of a host's 64 addresses at once
        return count < FOR_KNOWN
    if "incident" not in occasion:
        return count < PER_HOUR - 1 or occasion["kind"] == "test"
    if _is_new(occasion, group, told, now_s):  # graver than what was told: nobody hides a block behind their throttles
        return count < FOR_INCIDENTS
    is_gravest = "verdict" in occasion and find_gravity(occasion) == GRAVEST
    mine = told.count_named(f"of {group} ", now_s - _HOUR_S)
    return count < FOR_KNOWN and mine < (FOR_ONE if is_gravest else FOR_ONE - 1)


def _is_new(occasion: Occasion, group: str, told: ToldBefore, now_s: float) -> bool:
    if "verdict" not in occasion:
        return False
    grades = range(find_gravity(occasion), GRAVEST + 1)
    return not any(told.count_named(f"had {group} {grade} ", now_s - _DAY_S) for grade in grades)


def name_marks(occasion: Occasion) -> tuple[str, ...]:
    """What has to be known of a message that is sent, so that its user has no more than their share."""
    if "incident" not in occasion:
        return ()
    group = find_group(occasion)
    had = (f"had {group} {find_gravity(occasion)} ",) if "verdict" in occasion else ()
    return (f"of {group} {occasion['id']}", *had)


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
        case "note":
            digest.keep_note(sums, occasion)
        case "breaker":
            sums["brakes"] += bool(occasion["brake"]["tripped"])
