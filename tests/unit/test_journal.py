"""What is written of a block that goes on, and of an incident that is over."""

from unittest.mock import Mock

import pytest

from smtpguard.daemon.record.enrichment_queue import Entry
from smtpguard.daemon.record.journal import Journal
from smtpguard.model import NS, Subject, Verdict
from tests.support.policy import BURST, T0, WEB, People, block_of, connect, engine_of, feed, only


class Now:
    """CLOCK_BOOTTIME."""

    def __init__(self) -> None:
        self.ns = T0

    def __call__(self) -> int:
        return self.ns


def test_an_extended_block_is_a_line_of_its_own_in_its_turn() -> None:
    events, now = Mock(next_deadline=Mock(return_value=None)), Now()
    journal = Journal(events, Mock(), Mock(offset_ns=5, to_wall_ns=lambda ns: ns + 5), now, looker=None, rdns=None)
    block = block_of("guard")
    journal.add_extended(People().account(WEB), block)
    journal.waiting.on_time(T0)
    events.write_extended.assert_called_once_with(
        block, People().account(WEB), wall_ns=T0 + 5, until_wall_ns=block.until_ns + 5
    )


def test_an_incident_is_told_when_it_begins_and_when_it_is_over(caplog: pytest.LogCaptureFixture) -> None:
    events, state, now = Mock(next_deadline=Mock(return_value=None)), Mock(), Now()
    journal = Journal(events, state, Mock(offset_ns=0, to_wall_ns=lambda ns: ns), now, looker=None, rdns=None)
    (verdict,) = only(Verdict, feed(engine_of(BURST), range(4)))
    entry = Entry(
        connect=connect(3),
        account=People().account(WEB),
        subject=Subject(id=WEB),
        refused=False,
        highest_limit=3,
        verdicts=[verdict],
        blocks=[],
    )
    journal.add(entry)
    journal.waiting.on_time(T0)
    now.ns += 3600 * NS
    journal.on_time(now.ns)
    assert caplog.messages[0] == "incident: u1001 exceeded burst (enforce)"
    assert caplog.messages[1].startswith("incident of u1001 is over: 1 verdicts (burst), 1 attempts, 0 refused")
    assert state.put_incident.call_count == 2


def test_an_allowance_is_a_line_with_its_end() -> None:
    events = Mock(next_deadline=Mock(return_value=None))
    journal = Journal(events, Mock(), Mock(offset_ns=5, to_wall_ns=lambda ns: ns + 5), Now(), looker=None, rdns=None)
    journal.add_allow(People().account(WEB), until_wall_ns=9, by="admin", reason="newsletter")
    journal.waiting.on_time(T0)
    events.write_allow.assert_called_once_with(
        People().account(WEB), wall_ns=T0 + 5, until_wall_ns=9, by="admin", reason="newsletter"
    )
