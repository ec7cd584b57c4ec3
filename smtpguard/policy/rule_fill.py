"""How full each of an account's windows is now, for people: nothing is counted or made by looking. Pure."""

from dataclasses import dataclass

from smtpguard.model import Account, Mode, Subject
from smtpguard.policy.engine_core import EngineCore
from smtpguard.policy.rules import Terms, compile_terms, override_index
from smtpguard.policy.subject_state import MODES, NEVER_REFUSED
from smtpguard.settings import Rule


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleFill:
    """A rule as it stands for an account.

    Attributes:
        rule: With the limit that holds for this account.
        mode: Whether it is carried out.
        now: What its window holds.
    """

    rule: Rule
    mode: Mode
    now: int


def list_fills(core: EngineCore, account: Account, now_ns: int) -> tuple[list[RuleFill], str]:
    """An account's rules in the order of the configuration, and why none of them is carried out; "" if some may be.

    Args:
        core: The engine's.
        account: Whose.
        now_ns: Event time.
    """
    subject = Subject(id=account.uid)
    if account.standing in NEVER_REFUSED:
        return [], account.reason or account.standing
    known = core.roster.of(subject) if subject in core.roster else None  # by looking nobody becomes known
    settings = core.settings
    why = known.why if known is not None else "off" if core.roster.off else "dry_run" if settings.dry_run else ""
    usual = compile_terms(settings, override_index(settings, account), why)
    terms = core.roster.own.apply(subject, account, usual)
    held: dict[tuple[str, str, int], int] = {}
    for book in (*known.books, *known.failures) if known is not None else ():
        for counter in book.counters:
            held[counter.identity()] = counter.held(max(now_ns - counter.rule.window_ns, counter.floor_ns))
    for volumes in known.volumes if known is not None else ():
        for volume in volumes.counters:
            held[volume.identity()] = volume.held(now_ns)
    return _join(terms, settings.rules, held), why


def _join(terms: Terms, order: tuple[Rule, ...], held: dict[tuple[str, str, int], int]) -> list[RuleFill]:
    fills = [
        RuleFill(rule=rule, mode=mode, now=held.get((rule.name, rule.count, rule.window_ns), 0))
        for mode in MODES
        for rule in terms.of(mode)
    ]
    places = {rule.name: number for number, rule in enumerate(order)}
    return sorted(fills, key=lambda fill: places.get(fill.rule.name, len(places)))
