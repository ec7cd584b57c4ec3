"""Points in time as people write them."""

import time
from collections.abc import Iterator
from datetime import datetime

import click
import pytest

from smtpguard.cli.moments import parse_moment


@pytest.fixture(autouse=True)
def _berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


NOW = "2026-10-25T14:30:00+01:00"
"""The day on which summer time ended, at three in the morning."""


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2h", "2026-10-25T12:30:00+01:00"),
        ("12h", "2026-10-25T03:30:00+02:00"),
        ("90s", "2026-10-25T14:28:30+01:00"),
        ("14:05", "2026-10-25T14:05:00+01:00"),
        ("14:05:07", "2026-10-25T14:05:07+01:00"),
        ("14:31", "2026-10-24T14:31:00+02:00"),
        ("today 14:31", "2026-10-25T14:31:00+01:00"),
        ("1:30", "2026-10-25T01:30:00+02:00"),
        (" Yesterday  12:00 ", "2026-10-24T12:00:00+02:00"),
        ("yesterday", "2026-10-24T00:00:00+02:00"),
        ("today", "2026-10-25T00:00:00+02:00"),
        ("2026-11-28", "2026-11-28T00:00:00+01:00"),
        ("2026-11-28 12:00", "2026-11-28T12:00:00+01:00"),
        ("2026-07-28 12:00", "2026-07-28T12:00:00+02:00"),
        ("2026-11-28 12:00+05:00", "2026-11-28T12:00:00+05:00"),
        ("2026-11-28T12:00:01.000002Z", "2026-11-28T12:00:01.000002+00:00"),
    ],
)
def test_what_people_write_is_a_moment(text: str, moment: str) -> None:
    expected = datetime.fromisoformat(moment)
    assert parse_moment(text, datetime.fromisoformat(NOW)) == round(expected.timestamp() * 10**6) * 1000


@pytest.mark.parametrize(
    "text", ["", "soon", "25:00", "12:60", "2h ago", "-2h", "2026-13-01", "2026-11-28 25:00", "99999999999d", "12"]
)
def test_what_is_no_time_is_said(text: str) -> None:
    with pytest.raises(click.BadParameter, match=r"is no time\. Such as: 2h"):
        parse_moment(text, datetime.fromisoformat(NOW), "--until")
