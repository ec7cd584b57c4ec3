"""What a request may say: for each verb its arguments, and for each argument a kind and a range. Pure.

Members of control.group are not root: a limit of -5 or a span of 10^25 s must reach no window, clock or file
(THREATS 28). A refused request changes nothing and is no failure of the guard's.
"""

import math
import re
from collections.abc import Mapping
from typing import Any, Protocol

from smtpguard.errors import DecodeError
from smtpguard.model import NS

MAX_SPAN_NS = 3650 * 86400 * NS
"""Longest span of anything a person asks for: ten years."""
MAX_WINDOW_NS = 31 * 86400 * NS
MAX_LIMIT = 1_000_000
"""As the configuration's: each attempt up to it is remembered."""
MAX_UID = 0xFFFF_FFFE
MAX_USER = 300
"""Characters of what names a user: login names, as bytes escaped, are shorter."""
MAX_REASON = 4096
_SOURCE = re.compile(r"fail2ban:[A-Za-z0-9_.-]{1,64}")
_MAX_WALL_S = 1 << 40

Args = dict[str, Any]


class Check(Protocol):
    """Says what is wrong with a value; None if nothing is."""

    def __call__(self, value: object) -> str | None:
        """What it has to be, in words."""
        ...


def _integer(low: int, high: int) -> Check:
    def check(value: object) -> str | None:
        fits = isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
        return None if fits else f"a whole number from {low} to {high}"

    return check


_PORT = _integer(1, 65_535)
MAX_PORTS = 64


def _text(longest: int) -> Check:
    def check(value: object) -> str | None:
        return None if isinstance(value, str) and len(value) <= longest else f"a text of at most {longest} characters"

    return check


def _ports(value: object) -> str | None:
    fits = isinstance(value, list) and 0 < len(value) <= MAX_PORTS and all(_PORT(port) is None for port in value)
    return None if fits else "a list of ports"


def _flag(value: object) -> str | None:
    return None if isinstance(value, bool) else "true or false"


def _source(value: object) -> str | None:
    return None if isinstance(value, str) and _SOURCE.fullmatch(value) else "fail2ban:JAIL"


def _wall_s(value: object) -> str | None:
    fits = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return None if fits and 0 <= float(str(value)) <= _MAX_WALL_S else "seconds since 1970"


def _word(*words: str) -> Check:
    def check(value: object) -> str | None:
        return None if value in words else " or ".join(words)

    return check


def _span(longest_ns: int) -> Check:
    whole = _integer(1, longest_ns)

    def check(value: object) -> str | None:
        return whole(value) and "a time of more than nothing and at most 3650 days, in nanoseconds"

    return check


_SPAN = _span(MAX_SPAN_NS)
_ANY_SPAN = _span(10**20)
"""Of a block: what is beyond MAX_SPAN_NS is cut to it, as fail2ban's jails may say anything."""
_WHOM: dict[str, Check] = {"user": _text(MAX_USER), "uid": _integer(0, MAX_UID)}
_WHY: dict[str, Check] = {"reason": _text(MAX_REASON)}
SCHEMA: dict[str, Mapping[str, Check]] = {
    "status": {},
    "blocks": {},
    "block": {**_WHOM, **_WHY, "for_ns": _ANY_SPAN, "source": _source, "at": _wall_s, "force": _flag, "ports": _ports},
    "unblock": {**_WHOM, **_WHY, "source": _source, "all": _flag},
    "reload": {},
    "watch": {},
    "nft": {"do": _word("ensure", "remove")},
    "allow": {
        **_WHOM,
        **_WHY,
        "for_ns": _SPAN,
        "everything": _flag,
        "limit": _integer(1, MAX_LIMIT),
        "window_ns": _integer(1, MAX_WINDOW_NS),
        "end": _flag,
    },
    "off": {"for_ns": _SPAN, "ever": _flag},
    "on": {},
}
"""Verb to argument to check. An argument that is null is one that was not given."""


def check_request(verb: str, args: Args) -> Args:
    """The arguments that were given, each of its kind and within its range.

    Args:
        verb: One of SCHEMA.
        args: As they came.

    Raises:
        DecodeError: One is not; says which, and what it may be.
    """
    checks = SCHEMA[verb]
    given = {key: value for key, value in args.items() if value is not None}
    for key, value in given.items():
        check = checks.get(key)
        if check is None:
            raise DecodeError(f"{verb}: an argument that this guard does not know: {key[:64]!a}", fix="is it older?")
        wanted = check(value)
        if wanted is not None:
            raise DecodeError(f"{verb}: {key} is {_shown(value)}, and has to be {wanted}")
    return given


def _shown(value: object) -> str:
    text = ascii(value) if not isinstance(value, int) or abs(value) < 10**40 else "a very large number"
    return text if len(text) <= 64 else text[:61] + "..."
