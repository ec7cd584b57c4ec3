"""Points in time as people write them: `2h` (ago), `14:05`, `yesterday 12:00`, `2026-11-28 12:00+01:00`."""

import re
from datetime import MAXYEAR, MINYEAR, UTC, datetime, timedelta

import click

from smtpguard.model import NS
from smtpguard.settings.notations import parse_duration

_CLOCK = re.compile(r"(?:(today|yesterday)\s+)?([01]?\d|2[0-3]):([0-5]\d)(?::([0-5]\d))?")
_DAY = re.compile(r"today|yesterday")
FIRST_NS, LAST_NS = 1, ((1 << 63) // (60 * NS) - 1) * 60 * NS
"""1970 and 2262, a whole minute: nothing can be known of earlier or later, and SQLite counts no further."""


def parse_moment(text: str, now: datetime, option: str = "--since") -> int:
    """A moment as nanoseconds since the epoch; a usage error (exit 2) else.

    Args:
        text: What the person wrote. A clock time without a day is the last one that has been; what lies before or after
            all that can be told of is its begin or its end.
        now: The moment it is, with its zone.
        option: For the error.
    """
    words = " ".join(text.strip().lower().split())
    try:
        moment = _parse_words(words, now)
    except (ValueError, OverflowError):
        moment = None
    if moment is None:
        hint = f"{text!r} is no time. Such as: 2h (ago), 14:05, 'yesterday 12:00', '2026-11-28 12:00+01:00'"
        raise click.BadParameter(hint, param_hint=option)
    return min(max(FIRST_NS, round(moment.timestamp() * 1_000_000) * (NS // 1_000_000)), LAST_NS)


def _parse_words(words: str, now: datetime) -> datetime | None:
    if found := _CLOCK.fullmatch(words):
        day, hour, minute, second = found[1], int(found[2]), int(found[3]), int(found[4] or 0)
        local = now.replace(tzinfo=None, hour=hour, minute=minute, second=second, microsecond=0)
        if day == "yesterday":
            local -= timedelta(days=1)
        moment = local.astimezone()  # of that day: another offset may hold than now
        return (local - timedelta(days=1)).astimezone() if day is None and moment > now else moment
    if _DAY.fullmatch(words):
        local = now.replace(tzinfo=None, hour=0, minute=0, second=0, microsecond=0)
        return (local - timedelta(days=words == "yesterday")).astimezone()
    if re.fullmatch(r"\d+[smhd]", words):
        return now - timedelta(microseconds=parse_duration(words) // 1000)
    if re.match(r"\d{4}-\d\d-\d\d", words):
        moment = datetime.fromisoformat(words.replace(" ", "T", 1).replace(" ", "").upper())
        if moment.year in (MINYEAR, MAXYEAR):  # another zone's clock may show a year that is none
            return moment.replace(tzinfo=UTC)
        return moment.astimezone()
    return None
