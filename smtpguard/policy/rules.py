"""Which rules hold for an account, and which of them in earnest. Rules of one mode share a book of windows."""

from dataclasses import dataclass
from fnmatch import fnmatchcase

from smtpguard.errors import ConfigError
from smtpguard.model import Account, Mode
from smtpguard.settings import Match, Rule, Settings

COUNTED = frozenset({"connections", "destinations", "networks"})
"""What the engine can count from Connects."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """The rules as they are for one account.

    Attributes:
        enforced: Rules that are carried out.
        told: Rules that are only told.
        why: Why all of them are only told, for people; "" if not all are.
    """

    enforced: tuple[Rule, ...] = ()
    told: tuple[Rule, ...] = ()
    why: str = ""

    def of(self, mode: Mode) -> tuple[Rule, ...]:
        """The rules of a mode."""
        return self.enforced if mode == "enforce" else self.told


def matches(match: Match, account: Account) -> bool:
    """Whether any list of a match names the account."""
    return (
        (account.name is not None and any(fnmatchcase(account.name, pattern) for pattern in match.users))
        or not account.groups.isdisjoint(match.groups)
        or not account.packages.isdisjoint(match.packages)
        or any(first <= account.uid <= last for first, last in match.uids)
    )


def override_index(settings: Settings, account: Account) -> int | None:
    """Which entry of `users` holds for an account: the first that matches; None if none does."""
    return next((i for i, entry in enumerate(settings.overrides) if matches(entry.match, account)), None)


def compile_terms(settings: Settings, override: int | None, why: str) -> Terms:
    """The rules for accounts that share an override.

    Args:
        settings: The configuration.
        override: Entry of `users` that holds for them.
        why: Why none of their rules is carried out; "" if that depends on the rule.
    """
    changed = {} if override is None else settings.overrides[override].rules
    rules = [changed.get(rule.name, rule) for rule in settings.rules]
    enforced = tuple(rule for rule in rules if not why and not rule.dry_run)
    told = tuple(rule for rule in rules if why or rule.dry_run)
    return Terms(enforced=enforced, told=told, why=why)


def check_rules(settings: Settings) -> None:
    """Refuse rules that this engine can't count.

    Raises:
        ConfigError: A rule counts what no part of this program delivers.
    """
    for rule in settings.rules:
        if rule.count not in COUNTED:
            raise ConfigError(
                f"rule {rule.name}: count: {rule.count} can't be counted here",
                where=settings.path,
                fix=f"one of {', '.join(sorted(COUNTED))}",
            )
