"""By how much rules may be exceeded that the kernel does not enforce itself. Figures: `make bench`, test_leak.py."""

from collections.abc import Collection
from dataclasses import dataclass

from smtpguard.settings import Rule, Settings

_BEYOND = {
    "failures": "what is under way when one too many fails, and 25 ms more: a failure is known at its end",
    "bytes": "what its sessions send in a second: each tells once a second",
}
_ATTEMPTS = "what is tried before the daemon has judged: a few at 1,000 a second"


@dataclass(frozen=True, slots=True)
class Exactness:
    """How the rules are kept that refuse and are carried out.

    Attributes:
        exact: Rules of which not one attempt more gets through.
        judged: Rules that are judged after the fact, with what may get through beyond their limit.
    """

    exact: tuple[str, ...]
    judged: tuple[tuple[str, str], ...]


def describe_exactness(settings: Settings, exact: Collection[str]) -> Exactness:
    """How the rules of a configuration are kept.

    Args:
        settings: The configuration.
        exact: Rules that the kernel enforces itself.
    """
    refusing = [] if settings.dry_run else [rule for rule in settings.rules if _refuses(rule)]
    return Exactness(
        exact=tuple(rule.name for rule in refusing if rule.name in exact),
        judged=tuple((rule.name, _BEYOND.get(rule.count, _ATTEMPTS)) for rule in refusing if rule.name not in exact),
    )


def _refuses(rule: Rule) -> bool:
    return rule.action != "warn" and not rule.dry_run
