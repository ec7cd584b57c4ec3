"""What rules mean for each port, worked out once and shared by all subjects that have the same rules."""

from collections.abc import Iterable
from dataclasses import dataclass

from smtpguard.model import Mode
from smtpguard.policy.rules import ATTEMPTS, BYTES, FAILURES, Terms
from smtpguard.settings import Rule

Ports = frozenset[int]
TableKey = tuple[bool, Ports]
"""Whether whole addresses are kept (else networks), and on which ports."""
_MODES: tuple[Mode, ...] = ("enforce", "dry-run")


@dataclass(frozen=True, slots=True)
class Needs:
    """What a lane or table has to keep for its rules.

    Attributes:
        newest: The largest limit, plus one: more can't matter.
        reach_ns, shortest_ns: The longest and the shortest window.
    """

    newest: int
    reach_ns: int
    shortest_ns: int

    @classmethod
    def of(cls, rules: Iterable[Rule]) -> "Needs":
        """What some rules need together; none of them need only the newest entry."""
        rules = tuple(rules)
        return cls(
            max((rule.limit + 1 for rule in rules), default=1),
            max((rule.window_ns for rule in rules), default=1),
            min((rule.window_ns for rule in rules), default=1),
        )


@dataclass(frozen=True, slots=True)
class CompiledRule:
    """A rule with the guarded ports that it concerns, and the table where it finds its keys."""

    number: int
    rule: Rule
    ports: Ports
    table: TableKey | None


class CompiledRules:
    """Rules of one mode, by port.

    Args:
        rules: In the order of the configuration.
        guarded: The guarded ports, for rules that name none.

    Attributes:
        of_port: The rules that an attempt on a port counts for.
        lanes, tables: What they need kept, by port and by table.
        is_novel: Whether a rule asks how long a user was silent.
    """

    __slots__ = ("is_novel", "lanes", "of_port", "tables")

    def __init__(self, rules: Iterable[Rule], guarded: Ports) -> None:
        planned: list[CompiledRule] = []
        for number, rule in enumerate(rules):
            ports = guarded if rule.ports is None else rule.ports & guarded
            keyed = rule.count in {"destinations", "networks"}
            planned.append(CompiledRule(number, rule, ports, (rule.count == "destinations", ports) if keyed else None))
        self.of_port = {port: tuple(item for item in planned if port in item.ports) for port in guarded}
        self.lanes = {
            port: Needs.of(item.rule for item in items if item.table is None) for port, items in self.of_port.items()
        }
        keys = {item.table for item in planned if item.table is not None}
        self.tables = {key: Needs.of(item.rule for item in planned if item.table == key) for key in keys}
        self.is_novel = any(item.rule.novel_ns is not None for item in planned)


class RulesByMode:
    """All that an account's rules count, by mode.

    Args:
        terms: The rules.
        guarded: The guarded ports.

    Attributes:
        attempts, failures: Plans for those rules, for modes that have any.
        volumes: The rules that count bytes, likewise.
        ports: The guarded ports.
    """

    __slots__ = ("attempts", "failures", "ports", "volumes")

    def __init__(self, terms: Terms, guarded: Ports) -> None:
        self.ports = guarded
        self.attempts, self.failures = (
            tuple((mode, CompiledRules(rules, guarded)) for mode in _MODES if (rules := terms.of(mode, counts)))
            for counts in (ATTEMPTS, FAILURES)
        )
        self.volumes = tuple((mode, rules) for mode in _MODES if (rules := terms.of(mode, BYTES)))
