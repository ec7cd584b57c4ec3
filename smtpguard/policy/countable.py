"""Which rules can be counted with what is seen: failures and bytes only where outcomes of connections are reported."""

from dataclasses import dataclass

from smtpguard.policy.rules import OUTCOMES
from smtpguard.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Uncounted:
    """Rules that are never exceeded because nobody counts what they limit.

    Attributes:
        inactive: Shipped ones: worth knowing.
        broken: Those that somebody wrote: an error, because they are relied on.
    """

    inactive: tuple[str, ...] = ()
    broken: tuple[str, ...] = ()


def find_uncounted(settings: Settings, *, outcomes: bool) -> Uncounted:
    """The rules that nobody counts.

    Args:
        settings: The configuration.
        outcomes: Whether it is reported what became of connections; bpf alone does.
    """
    names = [] if outcomes else [rule.name for rule in settings.rules if rule.count in OUTCOMES]
    return Uncounted(
        inactive=tuple(name for name in names if name in settings.shipped_rules),
        broken=tuple(name for name in names if name not in settings.shipped_rules),
    )


def may_see_outcomes(settings: Settings) -> bool:
    """Whether the configured sources have one that reports outcomes, on a host that lets it."""
    return settings.sources == "auto" or "bpf" in settings.sources
