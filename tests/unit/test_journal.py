"""What is written of a block that goes on, and of an incident that is over."""

from dataclasses import replace
from unittest.mock import Mock

from smtpguard.daemon.record.journal import Journal
from smtpguard.model import NS, Subject
from smtpguard.state.incident_row import IncidentRow
from tests.support.policy import T0, WEB, People, block_of, connect

ROW = IncidentRow(
    uid=WEB, netns=None, name=f"u{WEB}", first_ns=T0, last_ns=T0, verdicts=1, connects=6, refused=1,
    peak_per_minute=6, destinations=1,
)  # fmt: skip


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


def test_an_allowance_is_a_line_with_its_end() -> None:
    events = Mock(next_deadline=Mock(return_value=None))
    journal = Journal(events, Mock(), Mock(offset_ns=5, to_wall_ns=lambda ns: ns + 5), Now(), looker=None, rdns=None)
    journal.add_allow(People().account(WEB), until_wall_ns=9, by="admin", reason="newsletter")
    journal.waiting.on_time(T0)
    events.write_allow.assert_called_once_with(
        People().account(WEB), wall_ns=T0 + 5, until_wall_ns=9, by="admin", reason="newsletter"
    )


def test_of_an_incident_that_goes_on_others_hear_with_its_figures() -> None:
    journal = Journal(Mock(), Mock(), Mock(offset_ns=5), Now(), looker=None, rdns=None)
    journal.herald = herald = Mock()
    journal.restore_incidents([ROW], lambda subject: People().account(subject.id))
    journal._incidents.attempt(Subject(id=WEB), connect(60), refused=True)
    journal.keep_incidents()
    journal.keep_incidents()
    ((told,),) = (call.args for call in herald.incident_lasts.call_args_list)
    assert (told.uid, told.connects, told.first_ns, told.last_ns) == (WEB, 7, T0, T0 + 60 * NS + 5)


def test_of_an_incident_that_is_over_others_hear() -> None:
    now = Now()
    journal = Journal(
        Mock(next_deadline=Mock(return_value=None)),
        Mock(),
        Mock(offset_ns=5, to_wall_ns=int),
        now,
        looker=None,
        rdns=None,
    )
    journal.herald = herald = Mock()
    journal.restore_incidents([ROW], lambda subject: People().account(subject.id))
    now.ns = T0 + 3600 * NS
    journal.on_time(now.ns)
    ((told,),) = (call.args for call in herald.incident_over.call_args_list)
    assert (told.uid, told.connects) == (WEB, 6)


def test_an_incident_of_a_uid_that_is_somebody_else_s_now_is_over_and_theirs_begins_anew() -> None:
    """Panels give numbers of deleted accounts to new ones, within minutes: also while no guard runs."""
    people = People()
    journal = Journal(Mock(), Mock(), Mock(offset_ns=5), Now(), looker=None, rdns=None)
    journal.herald = herald = Mock()
    journal.restore_incidents(
        [ROW, replace(ROW, uid=WEB + 1, name="former")], lambda subject: people.account(subject.id)
    )
    assert [held.subject.id for held in journal._incidents._open.values()] == [WEB]
    journal.end_incidents_of_others(lambda subject: people.account(subject.id))
    herald.incident_over.assert_not_called()
    journal.end_incidents_of_others(lambda subject: replace(people.account(subject.id), name=None))
    herald.incident_over.assert_not_called()
    people.accounts[WEB] = replace(people.account(WEB), name="shop7")
    journal.end_incidents_of_others(lambda subject: people.account(subject.id))
    ((told,),) = (call.args for call in herald.incident_over.call_args_list)
    assert (told.name, told.connects, told.is_over) == (f"u{WEB}", 6, True)
    assert not journal._said
    journal._incidents.attempt(Subject(id=WEB), connect(60), refused=True)
    assert journal._incidents.take_changed() == []
