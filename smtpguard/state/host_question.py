"""What `report` asks the history, part by part, and rules as an answer shows them. Pure, and light to import."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

from smtpguard.model import NS
from smtpguard.settings import Rule, Settings
from smtpguard.state.span import Span

Part = Literal[
    "users", "names", "destinations", "scripts", "files", "ports", "verdicts", "changes", "watched", "losses", "off",
    "own", "peaks", "curves", "hours",
]  # fmt: skip
PARTS: tuple[Part, ...] = get_args(Part)
MAX_WINDOWS = 64
"""Lengths of windows in one question."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostQuestion:
    """What is asked for.

    Attributes:
        since_ns, until_ns: Wall time.
        windows: Lengths in minutes of the windows whose fullest ones are wanted.
        step: Minutes that are one point of a curve.
    """

    since_ns: int
    until_ns: int
    windows: tuple[int, ...] = ()
    step: int = 15

    def where(self, column: str, unit_ns: int = 1) -> tuple[str, tuple[int | bytes, ...]]:
        """The condition and its parameters; see Span.where."""
        sql, parameters = Span(since_ns=self.since_ns, until_ns=self.until_ns).where(
            column, has_name=False, unit_ns=unit_ns
        )
        return sql, tuple(parameters)


def show_rules(settings: Settings) -> dict[str, Any]:
    """The rules as they stand for everybody, and what each entry of `users` changes."""
    return {
        "rows": [show_rule(rule) for rule in settings.rules],
        "overrides": [[show_rule(rule) for rule in entry.rules.values()] for entry in settings.overrides],
    }


def show_rule(rule: Rule) -> dict[str, Any]:
    """A rule as it stands for everybody."""
    return {
        "name": rule.name,
        "ports": None if rule.ports is None else sorted(rule.ports),
        "count": rule.count,
        "limit": rule.limit,
        "window": rule.window_ns // NS,
        "action": rule.action,
    }
