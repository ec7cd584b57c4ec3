"""What the kernel is to demand of each attempt: derived from configuration, engine and accounts, compared as a whole.

Credits and keys are used only where a refusal would be enforced: never in dry run, never while switched off, never for
shared users, and block rules not while fail2ban does the blocking.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from smtpguard.enrich.accounts.directory import AccountDirectory
from smtpguard.policy.credit_rules import NO_LIMIT, CreditRule, choose_credit_rules
from smtpguard.policy.engine import Engine
from smtpguard.policy.rules import compile_terms, override_index
from smtpguard.settings import KEY_SLOTS, KEYED, Cap, Rule, Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """It; equal ones have the kernel demand the same.

    Attributes:
        rules: Rules of the kernel, by index.
        names: Their names, by index.
        cap: The cap; None without one.
        told: Uid ranges that are counted and never refused by credits or cap.
        uncapped: Accounts with an allowance.
        limits: Limits of accounts that have their own, by uid and rule index.
        judged: Whether there are rules that the engine judges: it must hear of each attempt at once.
        look: Whether the process behind each attempt is looked at.
        chosen: The rules as they are configured, by index.
    """

    rules: Sequence[CreditRule]
    names: Sequence[str]
    cap: Cap | None
    told: tuple[tuple[int, int], ...]
    uncapped: frozenset[int]
    limits: dict[int, dict[int, int]]
    judged: bool
    look: bool
    chosen: Sequence[Rule] = field(default=(), compare=False)


def find_demand(
    settings: Settings,
    engine: Engine,
    accounts: AccountDirectory,
    told: tuple[tuple[int, int], ...],
    *,
    trusted: bool,
    has_keys: bool,
) -> Demand:
    """What holds now.

    Args:
        settings: The configuration in force.
        engine: Whether the guard is off, and who has an allowance.
        accounts: Who is who.
        told: As in `Demand`.
        trusted: Whether attempts are judged; credits that nobody gives back would refuse without an end.
        has_keys: Whether the program can count destinations and networks.
    """
    refuses = not settings.dry_run and not engine.is_off
    rules: Sequence[Rule] = settings.rules if refuses and trusted else ()
    # A rule that we judge must hear of each attempt at once, and somebody else's block of it too.
    refusing = [rule for rule in rules if rule.action != "warn"]
    if settings.block_by == "fail2ban":
        rules = [rule for rule in rules if rule.action != "block"]
    chosen = choose_credit_rules(rules, settings.ports, keys=has_keys)
    index = {rule.name: number for number, rule in enumerate(chosen)}
    return Demand(
        rules=[
            CreditRule(
                ports=settings.ports if rule.ports is None else rule.ports & settings.ports,
                limit=rule.limit,
                window_ns=rule.window_ns,
                name=rule.name,
                count=rule.count,
                holds=rule.action == "block" or rule.count in KEYED,
                holds_all=rule.refused_ports is None,
            )
            for rule in chosen
        ],
        names=list(index),
        cap=settings.cap if refuses else None,
        told=told,
        uncapped=frozenset(a.subject.id for a in engine.allowances() if a.subject.scope is None),
        limits=_find_limits(settings, engine, accounts, chosen, index),
        judged=any(rule not in chosen and not rule.dry_run for rule in refusing),
        look=settings.attribution_process,
        chosen=chosen,
    )


def _find_limits(
    settings: Settings,
    engine: Engine,
    accounts: AccountDirectory,
    chosen: Sequence[Rule],
    index: Mapping[str, int],
) -> dict[int, dict[int, int]]:
    """Limits of accounts that have their own, by uid and rule index."""
    found: dict[int, dict[int, int]] = {}
    for uid in accounts.known_uids() if settings.overrides else ():
        entry = override_index(settings, accounts.account(uid))
        if entry is not None:
            changed = settings.overrides[entry].rules
            own = {index[name]: own_limit(chosen[index[name]], rule) for name, rule in changed.items() if name in index}
            if own:
                found[uid] = own
    for subject in {*engine.own.allowances, *engine.own.watches}:
        if subject.scope is not None:
            continue
        account = accounts.account(subject.id)
        terms = engine.own.apply(subject, account, compile_terms(settings, override_index(settings, account), ""))
        goes_on = {rule.name: rule for rule in terms.enforced}
        # What an allowance's own limit refuses is judged by the engine: the kernel has no rule for one user.
        found[subject.id] = {
            number: own_limit(chosen[number], goes_on[name]) if name in goes_on else NO_LIMIT
            for name, number in index.items()
        }
    return found


def own_limit(rule: Rule, own: Rule) -> int:
    """A user's own limit, where all else of the rule is the same: the kernel has one of each rule."""
    if own.limit > KEY_SLOTS and own.count in KEYED:
        return NO_LIMIT
    return own.limit if replace(own, limit=rule.limit, block_ns=rule.block_ns) == rule else NO_LIMIT
