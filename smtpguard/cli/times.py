"""Durations as people write them on the command line."""

import re

import click

from smtpguard.model import NS
from smtpguard.settings.notations import parse_duration

_SECONDS = re.compile(r"\d{1,9}(\.\d{1,9})?")


def parse_span(text: str, option: str = "--for", *, endless: bool = False) -> int | None:
    """`30s 1m 1h 7d`, or plain seconds, as nanoseconds; a usage error (exit 2) else.

    Args:
        text: What the person, or fail2ban, wrote.
        option: For the error.
        endless: Accept fail2ban's -1 for a ban without end, as None: the daemon makes ten years of it.
    """
    if endless and text == "-1":
        return None
    if _SECONDS.fullmatch(text):
        span_ns = round(float(text) * NS)
    else:
        try:
            span_ns = parse_duration(text)
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint=option) from None
    if span_ns <= 0:
        raise click.BadParameter("it must be longer than nothing", param_hint=option)
    return span_ns
