"""What a start takes over: a kernel that can't be asked keeps nothing else from coming back."""

from unittest.mock import Mock

import pytest

from smtpguard.daemon.startup.restore import Restore
from smtpguard.errors import EnforceError
from smtpguard.state.store import Loaded


def test_sets_that_can_not_be_read_are_told_and_the_rest_comes_back(caplog: pytest.LogCaptureFixture) -> None:
    orders, keeping, nft = Mock(), Mock(), Mock()
    nft.read_handle.side_effect = EnforceError("no", where="nft")
    journal = Mock()
    parts = {name: Mock() for name in ("engine", "enforcement", "state", "wall", "now")}
    restore = Restore(orders, journal=journal, keeping=keeping, **parts)
    restore.take(Loaded(now_ns=1), dry_run=False, nft=nft, adoption=Mock(), identity=Mock())
    keeping.restore_windows.assert_called_once()
    journal.restore_incidents.assert_called_once()
    assert caplog.messages == ["what the kernel holds can't be read: nft: no"]
