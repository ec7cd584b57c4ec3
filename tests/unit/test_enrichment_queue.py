"""The line in which attempts wait for what is asked about them: each leaves in its turn, with what was found."""

from typing import Any
from unittest.mock import Mock

from smtpguard.daemon.record.enrichment_queue import Entry, Waiting
from smtpguard.enrich.looker import Attribution
from smtpguard.model import NS, Subject
from tests.support.policy import WEB, People, connect


def entry(**more: Any) -> Entry:  # noqa: ANN401 - as Connect
    return Entry(connect=connect(1, **more), account=People().account(WEB), subject=Subject(id=WEB))


def test_names_that_are_known_or_come_in_time_stand_in_the_line() -> None:
    looker, rdns = Mock(), Mock()
    left: list[Entry] = []
    looker.next_deadline.return_value = None
    looker.ask.return_value, rdns.ask.side_effect = 5, [7, b"known.example.net", None]
    waiting = Waiting(lambda: 0, left.append, looker=looker, rdns=rdns)
    waiting.add(entry(pid=3))
    waiting.add(entry())
    waiting.add(entry())
    looker.read.return_value = [(5, Attribution(exe=b"/usr/sbin/php-fpm"))]
    rdns.read.return_value = [(7, b"late.example.net")]
    waiting.on_time(1)
    assert [one.connect.rdns for one in left] == [b"late.example.net", b"known.example.net", None]
    assert left[0].connect.exe == b"/usr/sbin/php-fpm"


def test_one_that_meets_a_mistake_takes_none_behind_it_along() -> None:
    left: list[Entry] = []
    waiting = Waiting(lambda: 0, left.append, looker=None, rdns=None)
    broken = Mock(side_effect=ZeroDivisionError)
    waiting.add_call(broken)
    waiting.add(entry())
    try:
        waiting.on_time(NS)
    except ZeroDivisionError:
        assert waiting.next_deadline() == 0, "at once"
        waiting.on_time(NS)
    assert len(left) == 1
