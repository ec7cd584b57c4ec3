"""The rules that the kernel can enforce, and what it is told of them and of one user."""

from collections.abc import Iterable
from dataclasses import dataclass

from smtpguard.model import Count
from smtpguard.settings import KEY_SLOTS, KEYED, KEYED_PER_PORT, Rule

MAX_RULES = 16
"""How many rules the kernel can enforce."""
NO_LIMIT = 1 << 62
"""More credits than anybody can use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CreditRule:
    """What the kernel has to know of a rule.

    Attributes:
        ports: Destination ports that it counts.
        limit: How many pass in a window, for users without a limit of their own.
        window_ns: Length of the window.
        name: The rule's.
        count: What it counts: connections by credits, destinations and networks by the keys themselves.
        holds: Whether a user who exceeded it is refused on its ports until the daemon has spoken ...
        holds_all: ... and on all guarded ones.
    """

    ports: frozenset[int]
    limit: int
    window_ns: int
    name: str = ""
    count: Count = "connections"
    holds: bool = False
    holds_all: bool = False

    @property
    def is_keyed(self) -> bool:
        """Whether it counts destinations or networks."""
        return self.count != "connections"


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What the kernel shall be told about one user.

    Attributes:
        uid: The user.
        allowed: Credits the user may have taken in all, by rule; how many keys, of a rule that counts those.
        as_of_ns: Event time from which on that is right.
        spoken_ns: The daemon has judged what the user did up to then.
        emptied_ns: By rule: keys up to then do not count; 0 where nothing was emptied.
        settled_ns: When a verdict that holds was last carried out: what began before then may not have met its deny.
    """

    uid: int
    allowed: tuple[int, ...]
    as_of_ns: int
    spoken_ns: int = 0
    emptied_ns: tuple[int, ...] = ()
    settled_ns: int = 0


def choose_credit_rules(rules: Iterable[Rule], guarded: frozenset[int], *, keys: bool = False) -> list[Rule]:
    """The rules that the kernel can enforce, at most MAX_RULES, in the order of the configuration.

    Those that count attempts, refuse, are enforced and concern everybody: `novel` is for the engine to judge.

    Args:
        rules: All rules.
        guarded: The guarded ports.
        keys: Whether it can count destinations and networks, too.
    """
    chosen: list[Rule] = []
    for rule in rules:
        ports = guarded if rule.ports is None else rule.ports & guarded
        if rule.action == "warn" or rule.path == "local" or rule.novel_ns is not None or rule.dry_run or not ports:
            continue
        if rule.count in KEYED:
            beside = [other for other in chosen if other.count in KEYED]
            crowded = any(
                sum(other.ports is None or port in other.ports for other in beside) >= KEYED_PER_PORT for port in ports
            )
            if not keys or crowded or rule.limit > KEY_SLOTS:
                continue
        elif rule.count != "connections":
            continue
        chosen.append(rule)
    return chosen[:MAX_RULES]
