"""Verdicts are written at once, with their evidence if that came first; else it follows."""

from unittest.mock import Mock

from smtpguard.daemon.record import evidence_keeper
from smtpguard.daemon.record.evidence_keeper import EvidenceKeeper
from smtpguard.model import Verdict
from smtpguard.state.rows import VerdictRow
from tests.support.policy import BURST, engine_of, feed, only

(VERDICT,) = only(Verdict, feed(engine_of(BURST), range(4)))


def rows(state: Mock) -> list[str]:
    """What was handed over: keys of the evidence of a row, or the statement that adds to it."""
    shown = []
    for name, (value,), _ in state.mock_calls:
        shown.append(",".join(sorted(value.evidence)) if name == "add" else str(value.parameters[0]))
    return shown


def test_evidence_follows_its_verdict() -> None:
    state = Mock()
    keeper = EvidenceKeeper(state)
    keeper.expect(7, VERDICT)
    keeper.add(VERDICT, VerdictRow.of(VERDICT, 0))
    assert rows(state) == ["connect"], "not later than the verdict"
    keeper.take(7, {"stack": ["a"]})
    assert rows(state)[1].endswith('"stack":["a"]}')
    assert not keeper.is_expected
    keeper.take(7, {"stack": ["again"]})
    assert len(rows(state)) == 2


def test_evidence_that_comes_first_waits_for_its_verdict() -> None:
    state = Mock()
    keeper = EvidenceKeeper(state)
    keeper.expect(7, VERDICT)
    keeper.take(7, {"stack": ["a"]})
    keeper.add(VERDICT, VerdictRow.of(VERDICT, 0))
    assert rows(state) == ["connect,stack"]


def test_evidence_that_never_comes_costs_no_verdict_and_little_memory() -> None:
    state = Mock()
    keeper = EvidenceKeeper(state)
    for ticket in range(evidence_keeper.MAX_EXPECTED + 10):
        keeper.expect(ticket, Mock(subject=VERDICT.subject, time_ns=ticket, rule="r"))
    assert len(keeper._expected) == evidence_keeper.MAX_EXPECTED
    keeper.add(VERDICT, VerdictRow.of(VERDICT, 0))
    keeper.take(0, {})
    assert rows(state) == ["connect"]
