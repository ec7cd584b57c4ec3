"""Which rules hold for an account, and which of them are enforced. Rules of one mode share a book of windows."""

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from smtpguard.errors import ConfigError
from smtpguard.model import Account, Allowance, Count, Customer, Mode
from smtpguard.settings import Match, Rule, Settings

ATTEMPTS: frozenset[Count] = frozenset({"connections", "destinations", "networks"})
"""What is counted from Connects."""
FAILURES: frozenset[Count] = frozenset({"failures"})
BYTES: frozenset[Count] = frozenset({"bytes"})
"""Like failures, counted from SocketReports."""
OUTCOMES = FAILURES | BYTES
ALLOWED_TIMES = 10
"""So many times as much as each rule lets pass passes for whom a person allows more without saying how much."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """The rules as they are for one account.

    Attributes:
        enforced: Rules that are carried out.
        told: Rules that are report-only.
        why: Why all of them are report-only, for people; "" if not all are.
    """

    enforced: tuple[Rule, ...] = ()
    told: tuple[Rule, ...] = ()
    why: str = ""

    def of(self, mode: Mode, counts: AbstractSet[Count] | None = None) -> tuple[Rule, ...]:
        """The rules of a mode: all, or those that count certain things."""
        rules = self.enforced if mode == "enforce" else self.told
        return rules if counts is None else tuple(rule for rule in rules if rule.count in counts)


def matches(match: Match, account: Account) -> bool:
    """Whether any list of a match names the account."""
    return (
        any(fnmatchcase(name, pattern) for name in account.names for pattern in match.users)
        or not account.groups.isdisjoint(match.groups)
        or any(first <= account.uid <= last for first, last in match.uids)
        or (account.customer is not None and _matches_customer(match, account.customer))
    )


def _matches_customer(match: Match, customer: Customer) -> bool:
    package, reseller = customer.package, customer.reseller
    return (package is not None and any(matches_package(package, reseller, pattern) for pattern in match.packages)) or (
        reseller is not None and any(fnmatchcase(reseller, pattern) for pattern in match.resellers)
    )


def matches_package(package: str, reseller: str | None, pattern: str) -> bool:
    """Whether a name or glob of packages means one: RESELLER/PACKAGE is meant only by what has a slash as well.

    Args:
        package: As the table of accounts has it.
        reseller: Of the account; None for none.
        pattern: From the configuration.
    """
    if reseller is None or not package.startswith(f"{reseller}/"):
        return fnmatchcase(package, pattern)
    whose, slash, name = pattern.partition("/")
    return bool(slash) and fnmatchcase(reseller, whose) and fnmatchcase(package[len(reseller) + 1 :], name)


def override_index(settings: Settings, account: Account) -> int | None:
    """Which entry of `users` holds for an account: the first that matches; None if none does."""
    return next((i for i, entry in enumerate(settings.overrides) if matches(entry.match, account)), None)


def find_entries(settings: Settings, accounts: Iterable[Account]) -> list[tuple[int, int]]:
    """Uid, and which entry of `users` holds, of those accounts for whom one does."""
    found = ((account.uid, override_index(settings, account)) for account in accounts)
    return [(uid, index) for uid, index in found if index is not None]


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


def allowed_terms(allowance: Allowance, usual: Terms) -> Terms:
    """The rules while an allowance holds.

    Args:
        allowance: What a person allowed.
        usual: The account's rules without it.
    """
    if allowance.limit is None or allowance.window_ns is None:
        if allowance.everything:
            return Terms(why="allowed")
        return replace(usual, enforced=_allow_more(usual.enforced), told=_allow_more(usual.told))
    rule = Rule(
        name="allowance",
        count="connections",
        limit=allowance.limit,
        window_ns=allowance.window_ns,
        action="throttle",
    )
    kept = (
        Terms(why=usual.why)
        if allowance.everything
        else replace(usual, enforced=tuple(filter(_is_kept, usual.enforced)), told=tuple(filter(_is_kept, usual.told)))
    )
    return replace(kept, told=(*kept.told, rule)) if usual.why else replace(kept, enforced=(*kept.enforced, rule))


def halve_terms(usual: Terms) -> Terms:
    """The rules while a person keeps an eye on the account: half of each limit, rounded down, and at least one."""
    return replace(usual, enforced=_halve(usual.enforced), told=_halve(usual.told))


def _halve(rules: Iterable[Rule]) -> tuple[Rule, ...]:
    return tuple(replace(rule, limit=max(1, rule.limit // 2)) for rule in rules)


def _is_kept(rule: Rule) -> bool:
    """Whether no allowance is meant for what a rule counts: no shop or newsletter speaks to strangers' servers."""
    return rule.count == "networks" and (rule.ports is None or 25 in rule.ports)


def _allow_more(rules: Iterable[Rule]) -> tuple[Rule, ...]:
    return tuple(rule if _is_kept(rule) else replace(rule, limit=rule.limit * ALLOWED_TIMES) for rule in rules)


def check_rules(settings: Settings) -> None:
    """Refuse rules that this engine can't count.

    Raises:
        ConfigError: A rule counts what no part of this program delivers.
    """
    for rule in settings.rules:
        if rule.count not in ATTEMPTS | OUTCOMES:
            raise ConfigError(
                f"rule {rule.name}: count: {rule.count} can't be counted here",
                where=settings.path,
                fix=f"one of {', '.join(sorted(ATTEMPTS | OUTCOMES))}",
            )
