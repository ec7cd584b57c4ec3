"""A connection that takes too long in all is cut off, whenever it is made."""

import socket
import threading
from unittest.mock import Mock

import pytest

from smtpguard.notify.cut_off import CutOff
from smtpguard.notify.delivery import DeliveryError
from tests.support.host import wait_for


def test_one_that_is_there_only_when_the_time_is_over_is_cut_all_the_same() -> None:
    """A server may take its time to accept, and then say a letter now and then, for ever."""
    held: list[socket.socket] = []
    ours, theirs = socket.socketpair()
    theirs.settimeout(10)
    with ours, theirs, CutOff(0.01, lambda: held[-1] if held else None) as cut_off:
        wait_for(lambda: cut_off.is_late)
        held.append(ours)
        assert theirs.recv(1) == b""


def test_one_that_is_over_in_time_is_left_alone() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        with CutOff(60, lambda: ours) as cut_off:
            pass
        ours.send(b"x")
        assert (theirs.recv(1), cut_off.is_late) == (b"x", False)


def test_without_a_thread_it_is_tried_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading.Thread, "start", Mock(side_effect=RuntimeError("can't start new thread")))
    with pytest.raises(DeliveryError, match="no thread can be started now"), CutOff(60, lambda: None):
        pass
