"""What a request may say: for each verb a class whose fields are its arguments, each with a kind and a range. Pure.

Members of control.group are not root: a limit of -5 or a span of 10^25 s must reach no window, clock or file
(THREATS 28). It is checked here, once; what answers a request takes its fields as they are. A refused request changes
nothing and is no failure of the guard's.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Protocol, TypeVar

from smtpguard.daemon.serve.allowance_terms import MAX_ALLOW_NS
from smtpguard.errors import DecodeError
from smtpguard.model import NS
from smtpguard.text import render_duration

MAX_SPAN_NS = 3650 * 86400 * NS
"""Longest span of anything a person asks for: ten years."""
MAX_WINDOW_NS = 31 * 86400 * NS
MAX_LIMIT = 1_000_000
"""As the configuration's: each attempt up to it is remembered."""
MAX_UID = 0xFFFF_FFFE
MAX_USER = 300
"""Characters of what names a user: login names, as bytes escaped, are shorter."""
MAX_REASON = 4096
MAX_PORTS = 64
_SOURCE = re.compile(r"fail2ban:[A-Za-z0-9_.-]{1,64}")
_MAX_WALL_S = 1 << 40
_OPTIONS = {"for_ns": "--for"}
"""Arguments by the options that people write."""

Args = dict[str, Any]
R = TypeVar("R", bound="Request")


class UnfitError(Exception):
    """A value is not what it has to be; says what that is."""


class Take(Protocol):
    """Takes a value of one kind as it came."""

    def __call__(self, value: object, /) -> object:
        """It, as the request holds it. Raises UnfitError."""
        ...


def take_integer(low: int, high: int, wanted: str | None = None) -> Take:
    """A whole number within bounds."""

    def take(value: object, /) -> int:
        if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
            return value
        raise UnfitError(wanted or f"a whole number from {low} to {high}")

    return take


def take_text(longest: int) -> Take:
    """A text that is not too long."""

    def take(value: object, /) -> str:
        if isinstance(value, str) and len(value) <= longest:
            return value
        raise UnfitError(f"a text of at most {longest} characters")

    return take


def _take_ports(value: object, /) -> tuple[int, ...]:
    ports = value if isinstance(value, list) and len(value) <= MAX_PORTS else ()
    if ports and all(type(port) is int and 1 <= port <= 65_535 for port in ports):
        return tuple(ports)
    raise UnfitError("a list of ports")


def take_flag(value: object, /) -> bool:
    """True or false."""
    if isinstance(value, bool):
        return value
    raise UnfitError("true or false")


MAX_WALL_NS = (1 << 63) - 1
MAX_LEARNED = 1_000
"""Users and ports, or spans, in one request."""


def _rows(*columns: Take) -> Take:
    def take_row(row: object) -> tuple[Any, ...]:
        if isinstance(row, list) and len(row) == len(columns):
            return tuple(take(value) for take, value in zip(columns, row, strict=True))
        raise UnfitError("a row")

    def take(value: object, /) -> tuple[tuple[Any, ...], ...]:
        try:
            if isinstance(value, list) and len(value) <= MAX_LEARNED:
                return tuple(map(take_row, value))
        except UnfitError:
            pass
        raise UnfitError(f"a list of at most {MAX_LEARNED} lists of {len(columns)} numbers")

    return take


def _take_source(value: object, /) -> str:
    if isinstance(value, str) and _SOURCE.fullmatch(value):
        return value
    raise UnfitError("fail2ban:JAIL")


def _take_wall_s(value: object, /) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= _MAX_WALL_S:
        return float(value)
    raise UnfitError("seconds since 1970")


def take_word(*words: str) -> Take:
    """One of some words."""

    def take(value: object, /) -> str:
        if isinstance(value, str) and value in words:
            return value
        raise UnfitError(" or ".join(words))

    return take


def _span(longest_ns: int, told_ns: int = MAX_SPAN_NS) -> Take:
    days = told_ns // (86_400 * NS)
    return take_integer(1, longest_ns, f"more than nothing and at most {days} days")


def argument(take: Take, called: str = "") -> dict[str, Any]:
    """Metadata of a field: its kind, and what it is called in a request where that is no name for a field."""
    return {"take": take, "called": called}


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One without arguments."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UserRequest(Request):
    """One about a user.

    Attributes:
        user: As a person or fail2ban names them; "" where it is not said.
        uid: The number beside it; None where there is none.
        reason: For the event log.
    """

    user: str = field(default="", metadata=argument(take_text(MAX_USER)))
    uid: int | None = field(default=None, metadata=argument(take_integer(0, MAX_UID)))
    reason: str = field(default="", metadata=argument(take_text(MAX_REASON)))


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockRequest(UserRequest):
    """`block`.

    Attributes:
        source: fail2ban:JAIL; "" for a person.
        for_ns: For how long; None where it is not said. Jails may say anything, so it is cut to MAX_SPAN_NS later.
        at: Since when, as wall time.
        force: Exempt users too.
        ports: These alone; None for all.
    """

    source: str = field(default="", metadata=argument(_take_source))
    for_ns: int | None = field(default=None, metadata=argument(_span(10**20)))
    at: float | None = field(default=None, metadata=argument(_take_wall_s))
    force: bool = field(default=False, metadata=argument(take_flag))
    ports: tuple[int, ...] | None = field(default=None, metadata=argument(_take_ports))


@dataclass(frozen=True, slots=True, kw_only=True)
class UnblockRequest(UserRequest):
    """`unblock`.

    Attributes:
        source: Only the block of fail2ban:JAIL; "" for all.
        everybody: Whoever is blocked.
    """

    source: str = field(default="", metadata=argument(_take_source))
    everybody: bool = field(default=False, metadata=argument(take_flag, "all"))


@dataclass(frozen=True, slots=True, kw_only=True)
class AllowRequest(UserRequest):
    """`allow`.

    Attributes:
        for_ns: For how long; None only with `end`.
        limit, window_ns: How much, and in what time; both or neither.
        everything: Rules that count networks on 25 are set aside too.
        end: The one there is shall end.
    """

    for_ns: int | None = field(default=None, metadata=argument(_span(MAX_ALLOW_NS, MAX_ALLOW_NS)))
    limit: int | None = field(default=None, metadata=argument(take_integer(1, MAX_LIMIT)))
    window_ns: int | None = field(default=None, metadata=argument(take_integer(NS, MAX_WINDOW_NS)))
    everything: bool = field(default=False, metadata=argument(take_flag))
    end: bool = field(default=False, metadata=argument(take_flag))

    def __post_init__(self) -> None:
        """Raise DecodeError where an argument is missing."""
        if not self.end and self.for_ns is None:
            raise DecodeError("allow: for how long? At most 31 days", fix="--for 24h")
        if (self.limit is None) != (self.window_ns is None):
            raise DecodeError("allow: limit and window_ns go together", fix="--limit 500/1h")


@dataclass(frozen=True, slots=True, kw_only=True)
class OffRequest(Request):
    """`off`.

    Attributes:
        for_ns: For how long; None where it is not said.
        ever: Until somebody says `on`.
    """

    for_ns: int | None = field(default=None, metadata=argument(_span(MAX_SPAN_NS)))
    ever: bool = field(default=False, metadata=argument(take_flag))


@dataclass(frozen=True, slots=True, kw_only=True)
class NftRequest(Request):
    """`nft`.

    Attributes:
        do: ensure or remove.
    """

    do: str = field(default="", metadata=argument(take_word("ensure", "remove")))

    def __post_init__(self) -> None:
        """Raise DecodeError where it is not said."""
        if not self.do:
            raise DecodeError("nft: ensure, or remove?")


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnRequest(Request):
    """`learn`, from `replay --learn`; the last one has the spans.

    Attributes:
        seen: Uid, port, and when they were last seen (wall time).
        spans: From when to when all is known (wall time).
    """

    seen: tuple[tuple[int, int, int], ...] = field(
        default=(),
        metadata=argument(_rows(take_integer(0, MAX_UID), take_integer(1, 65_535), take_integer(0, MAX_WALL_NS))),
    )
    spans: tuple[tuple[int, int], ...] = field(
        default=(), metadata=argument(_rows(take_integer(0, MAX_WALL_NS), take_integer(0, MAX_WALL_NS)))
    )


def list_arguments(shape: type[Request]) -> Mapping[str, tuple[str, Take]]:
    """What a request may say, by what it is called there: the field's name, and what takes it."""
    return {entry.metadata["called"] or entry.name: (entry.name, entry.metadata["take"]) for entry in fields(shape)}


def read_request(shape: type[R], verb: str, args: Mapping[str, object]) -> R:
    """A request, each of its arguments of its kind and within its range. An argument that is null was not given.

    Args:
        shape: What the verb takes.
        verb: For messages.
        args: As they came.

    Raises:
        DecodeError: One is not; says which, and what it may be.
    """
    arguments = list_arguments(shape)
    found: Args = {}
    for key, value in args.items():
        if value is None:
            continue
        if key not in arguments:
            raise DecodeError(f"{verb}: an argument that this guard does not know: {key[:64]!a}", fix="is it older?")
        name, take = arguments[key]
        try:
            found[name] = take(value)
        except UnfitError as unfit:
            option = _OPTIONS.get(key, key)
            raise DecodeError(f"{verb}: {option} is {_shown(key, value)}, and has to be {unfit}") from None
    return shape(**found)


def _shown(key: str, value: object) -> str:
    if key.endswith("_ns") and type(value) is int and 0 < value < 10**25:
        return render_duration(value / NS)
    text = ascii(value) if not isinstance(value, int) or abs(value) < 10**40 else "a very large number"
    return text if len(text) <= 64 else text[:61] + "..."
