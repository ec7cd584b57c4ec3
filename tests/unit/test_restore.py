"""What a start takes over: a kernel that can't be asked keeps nothing else from coming back."""

from unittest.mock import Mock

import pytest

from smtpguard.daemon.startup.restore import Restore
from smtpguard.errors import EnforceError
from smtpguard.model import Subject
from smtpguard.state.rows import EscalationRow
from smtpguard.state.store import Loaded


def test_sets_that_can_not_be_read_are_told_and_the_rest_comes_back(caplog: pytest.LogCaptureFixture) -> None:
    orders, keeping, nft = Mock(freed=set()), Mock(), Mock()
    nft.read_handle.side_effect = EnforceError("no", where="nft")
    journal = Mock()
    parts = {name: Mock() for name in ("engine", "enforcement", "state", "wall", "now")}
    restore = Restore(orders, journal=journal, keeping=keeping, **parts)
    restore.take(Loaded(now_ns=1), dry_run=False, nft=nft, adoption=Mock(), identity=Mock())
    keeping.restore_windows.assert_called_once()
    journal.restore_incidents.assert_called_once()
    assert caplog.messages == ["what the kernel holds can't be read: nft: no"]


def test_who_was_freed_while_nobody_guarded_begins_with_the_first_length_again() -> None:
    orders, engine = Mock(freed={(Subject(id=1), None)}), Mock()
    engine.memory.escalation.return_value = None
    orders.account_of.return_value.may_be.side_effect = lambda name: name != "before"
    parts = {name: Mock() for name in ("journal", "keeping", "enforcement", "state", "now")}
    restore = Restore(orders, engine=engine, wall=Mock(offset_ns=5), **parts)
    rows = (
        EscalationRow(uid=1, name="freed", level=3, last_ns=9),
        EscalationRow(uid=2, name="before", level=3, last_ns=9),
        EscalationRow(uid=3, name="same", level=3, last_ns=9),
    )
    restore._restore_escalation(Loaded(now_ns=9, escalation=rows))
    engine.memory.restore_escalation.assert_called_once_with(Subject(id=3), 3, 4)


def test_a_short_block_beside_a_long_one_makes_the_long_one_forgotten_no_sooner() -> None:
    engine = Mock()
    engine.memory.escalation.return_value = None
    parts = {name: Mock() for name in ("journal", "keeping", "enforcement", "state", "now")}
    restore = Restore(Mock(freed=set()), engine=engine, wall=Mock(offset_ns=0), **parts)
    long, short = Mock(uid=1, since_ns=0, until_ns=100), Mock(uid=1, since_ns=0, until_ns=10)
    rows = (EscalationRow(uid=1, name="web01", level=2, last_ns=100),)
    for blocks in ((long, short), (short, long)):
        restore._restore_escalation(Loaded(now_ns=5, blocks=blocks, escalation=rows))
    assert [call.args for call in engine.memory.restore_escalation.call_args_list] == [(Subject(id=1), 2, 100)] * 2
