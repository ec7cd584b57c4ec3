"""Whose limits are halved, as people are told of it."""

import logging
from unittest.mock import Mock

import pytest

from smtpguard.clock import WallMap
from smtpguard.daemon.watches import Watches
from smtpguard.model import NS, Subject, Watch
from smtpguard.policy.own_terms import OwnTerms
from tests.support.policy import T0, WEB, People, person
from tests.unit.test_occasions import make_verdict


@pytest.mark.parametrize(("name", "is_theirs"), [("web", True), ("newcomer", False)])
def test_a_uid_that_was_given_out_again_is_not_called_watched(
    name: str, is_theirs: bool, caplog: pytest.LogCaptureFixture
) -> None:
    watch = Watch(subject=Subject(id=WEB), name="web", since_ns=T0, until_ns=T0 + 60 * NS, by="admin", reason="")
    engine = Mock(own=Mock(spec=OwnTerms, watches={watch.subject: watch}))
    watches = Watches(
        engine, Mock(), Mock(), Mock(), directory=People([person(WEB, "tenant", name)]),
        wall=Mock(spec=WallMap, offset_ns=0), now=lambda: T0,
    )  # fmt: skip
    with caplog.at_level(logging.WARNING):
        watches.hear(make_verdict())
    assert ("is WATCHED" in caplog.text) is is_theirs
    assert bool(watches.collect()) is is_theirs
    assert (watches.find(WEB) is not None) is is_theirs
