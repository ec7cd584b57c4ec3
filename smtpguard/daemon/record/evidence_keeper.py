"""Joins a verdict with the evidence gathered for it: the verdict is written at once, the evidence when it comes."""

from collections import OrderedDict
from dataclasses import dataclass, field, replace
from typing import Any

from smtpguard.model import Subject, Verdict
from smtpguard.state.rows import VerdictRow
from smtpguard.state.statements import add_evidence
from smtpguard.state.writer import StateWriter

MAX_EXPECTED = 4096
"""Verdicts whose evidence is on its way; of more the oldest keep what they have."""
_Key = tuple[Subject, int, str]


@dataclass(slots=True)
class _Expected:
    """A verdict whose evidence was asked for: its row once it is written, or the evidence if that came first."""

    row: VerdictRow | None = None
    found: dict[str, Any] = field(default_factory=dict)


class EvidenceKeeper:
    """Writes verdicts.

    Args:
        state: The history.
    """

    def __init__(self, state: StateWriter) -> None:
        self._state = state
        self._tickets: dict[int, _Key] = {}
        self._expected: OrderedDict[_Key, _Expected] = OrderedDict()

    @property
    def is_expected(self) -> bool:
        """Whether evidence is on its way."""
        return bool(self._tickets)

    def expect(self, ticket: int, verdict: Verdict) -> None:
        """Evidence was asked for."""
        if len(self._expected) >= MAX_EXPECTED:
            self._expected.popitem(last=False)
        key = self._tickets[ticket] = _key_of(verdict)
        self._expected[key] = _Expected()

    def add(self, verdict: Verdict, row: VerdictRow) -> None:
        """A verdict is complete, but for its evidence."""
        key = _key_of(verdict)
        expected = self._expected.get(key)
        if expected is not None and expected.found:
            row = replace(row, evidence=row.evidence | expected.found)
            del self._expected[key]
        elif expected is not None:
            expected.row = row
        self._state.add(row)

    def take(self, ticket: int, found: dict[str, Any]) -> None:
        """Evidence has come."""
        key = self._tickets.pop(ticket, None)
        expected = None if key is None else self._expected.get(key)
        if key is None or expected is None:
            return
        if expected.row is None:
            expected.found = found
            return
        del self._expected[key]
        row = replace(expected.row, evidence=expected.row.evidence | found)
        self._state.add_to_history(add_evidence(row))


def _key_of(verdict: Verdict) -> _Key:
    return verdict.subject, verdict.time_ns, verdict.rule
