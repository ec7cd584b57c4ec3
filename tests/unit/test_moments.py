"""Points in time as people write them."""

import time
from collections.abc import Iterator
from datetime import datetime

import click
import pytest

from smtpguard.cli.history_options import build_times
from smtpguard.cli.moments import FIRST_NS, LAST_NS, parse_moment


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


@pytest.mark.parametrize(
    ("text", "end_ns"),
    [
        ("0001-01-01", FIRST_NS),
        ("0001-01-01 00:00+14:00", FIRST_NS),
        ("1969-12-31", FIRST_NS),
        ("1970-01-01T00:00Z", FIRST_NS),
        ("2262-04-13", LAST_NS),
        ("9999-12-31", LAST_NS),
        ("9999-12-31 23:59-14:00", LAST_NS),
    ],
)
@pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "Pacific/Pago_Pago", "Europe/Berlin"])
def test_before_and_after_all_times_are_their_begin_and_end(
    text: str, end_ns: int, zone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--until 9999-12-31` was a traceback of SQLite's, which counts to the year 2262."""
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    assert parse_moment(text, datetime.fromisoformat(NOW)) == end_ns
    assert LAST_NS < 2**63
    assert LAST_NS % (60 * 10**9) == 0, "report rounds up to whole minutes"


def test_all_times_are_between_them() -> None:
    assert build_times("0001-01-01", "9999-12-31") == {"since_ns": FIRST_NS, "until_ns": LAST_NS}
    assert build_times(None, "0001-01-01") == {"since_ns": 0, "until_ns": FIRST_NS}
    assert build_times("9999-12-31", None)["since_ns"] == LAST_NS


@pytest.mark.parametrize("text", ["0000-01-01", "2027-02-29", "10000-01-01", "24:00", "yesterday 24:00", "now\0"])
def test_days_that_are_none(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is no time"):
        parse_moment(text, datetime.fromisoformat(NOW))
