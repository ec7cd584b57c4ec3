"""What requests about the past may say: `events`, `incidents`, `close`. See requests.py."""

import ipaddress
from collections.abc import Collection
from dataclasses import dataclass, field

from smtpguard.daemon.serve.requests import (
    MAX_PORTS,
    MAX_REASON,
    MAX_UID,
    MAX_USER,
    MAX_WALL_NS,
    Request,
    Take,
    UnfitError,
    UserRequest,
    argument,
    take_flag,
    take_integer,
    take_text,
    take_word,
)
from smtpguard.daemon.watches import MAX_WATCH_NS
from smtpguard.model import NS
from smtpguard.state.event_query import KINDS, Network, parse_own
from smtpguard.state.host_question import MAX_WINDOWS, PARTS, HostQuestion

MAX_MINUTES = 44_640
"""31 days."""
MAX_BRIEF = 200
"""Users of whom `why` tells in short in one answer: each takes some 20 us of the loop."""
MAX_MOMENT_NS = MAX_WALL_NS - 60 * NS
"""What lies between a moment and its next minute is looked up, too: SQLite counts no further than MAX_WALL_NS."""
MAX_PAGE = 1000
"""Rows of history in one answer; who wants more asks again."""


def _words(known: Collection[str]) -> Take:
    def take(value: object, /) -> tuple[str, ...]:
        if isinstance(value, list) and len(value) <= len(known) and all(word in known for word in value):
            return tuple(value)
        raise UnfitError(f"a list of {', '.join(known)}")

    return take


def _take_uids(value: object, /) -> tuple[int, ...]:
    if isinstance(value, list) and len(value) <= MAX_BRIEF and all(type(uid) is int for uid in value):
        uids = tuple(dict.fromkeys(value))
        if all(0 <= uid <= MAX_UID for uid in uids):
            return uids
    raise UnfitError(f"a list of at most {MAX_BRIEF} uids")


def _take_address(value: object, /) -> bytes:
    try:
        return parse_own(str(value))
    except ValueError:
        raise UnfitError("an address of this host") from None


def _take_networks(value: object, /) -> tuple[Network, ...]:
    try:
        if isinstance(value, list) and len(value) <= MAX_PORTS:
            return tuple(ipaddress.ip_network(str(text), strict=False) for text in value)
    except ValueError:
        pass
    raise UnfitError("a list of networks")


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryRequest(Request):
    """`events` and `incidents`.

    Attributes:
        user: Whose; "" for everybody's.
        since_ns, until_ns: Wall time.
        kinds: Of events; empty for all.
        mode, port, script, sha256, rule: See EventQuery.
        dst: Networks.
        src: One of the host's own addresses.
        rows: How many at most.
        is_open: Only incidents that nobody has closed.
    """

    user: str = field(default="", metadata=argument(take_text(MAX_USER)))
    since_ns: int = field(default=0, metadata=argument(take_integer(0, MAX_WALL_NS)))
    until_ns: int = field(default=MAX_WALL_NS, metadata=argument(take_integer(0, MAX_WALL_NS)))
    kinds: tuple[str, ...] = field(default=(), metadata=argument(_words(KINDS)))
    mode: str | None = field(default=None, metadata=argument(take_word("enforce", "dry-run")))
    port: int | None = field(default=None, metadata=argument(take_integer(1, 65_535)))
    dst: tuple[Network, ...] = field(default=(), metadata=argument(_take_networks))
    src: bytes | None = field(default=None, metadata=argument(_take_address))
    script: str | None = field(default=None, metadata=argument(take_text(MAX_REASON)))
    sha256: str | None = field(default=None, metadata=argument(take_text(64)))
    rule: str | None = field(default=None, metadata=argument(take_text(MAX_USER)))
    rows: int = field(default=MAX_PAGE, metadata=argument(take_integer(0, MAX_PAGE)))
    is_open: bool = field(default=False, metadata=argument(take_flag))


@dataclass(frozen=True, slots=True, kw_only=True)
class WhyRequest(Request):
    """`why`.

    Attributes:
        user: Whose.
        at_ns: As of when, wall time; None for now.
        uids: Of these users only what is in memory: standing, and how full their windows are.
    """

    user: str = field(default="", metadata=argument(take_text(MAX_USER)))
    at_ns: int | None = field(default=None, metadata=argument(take_integer(1, MAX_MOMENT_NS)))
    uids: tuple[int, ...] = field(default=(), metadata=argument(_take_uids))


def _take_windows(value: object, /) -> tuple[int, ...]:
    windows = value if isinstance(value, list) and len(value) <= MAX_WINDOWS else (None,)
    if all(type(window) is int and 1 <= window <= MAX_MINUTES for window in windows):
        return tuple(windows)
    raise UnfitError(f"a list of at most {MAX_WINDOWS} numbers of minutes")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportRequest(Request):
    """`report`.

    Attributes:
        part: Of PARTS; or the rules, or which entry of `users` holds for whom.
        since_ns, until_ns, windows, step: See HostQuestion.
        uids: With `entries`: of these accounts.
    """

    part: str = field(default="rules", metadata=argument(take_word("rules", "entries", *PARTS)))
    since_ns: int = field(default=0, metadata=argument(take_integer(0, MAX_WALL_NS)))
    until_ns: int = field(default=MAX_WALL_NS, metadata=argument(take_integer(0, MAX_WALL_NS)))
    windows: tuple[int, ...] = field(default=(), metadata=argument(_take_windows))
    step: int = field(default=60, metadata=argument(take_integer(1, MAX_MINUTES)))
    uids: tuple[int, ...] = field(default=(), metadata=argument(_take_uids))

    @property
    def question(self) -> HostQuestion:
        """As the history takes it."""
        return HostQuestion(since_ns=self.since_ns, until_ns=self.until_ns, windows=self.windows, step=self.step)


@dataclass(frozen=True, slots=True, kw_only=True)
class ToldRequest(UserRequest):
    """`told`: the notifying process has told a customer of a block.

    Attributes:
        to: The address.
        whom: Whose it is.
        result: Whether the mail server took it for certain.
        incident: Of which it was told.
    """

    to: str = field(default="", metadata=argument(take_text(MAX_USER)))
    whom: str = field(default="customer", metadata=argument(take_word("customer", "reseller")))
    result: str = field(default="sent", metadata=argument(take_word("sent", "perhaps")))
    incident: str = field(default="", metadata=argument(take_text(MAX_USER)))


@dataclass(frozen=True, slots=True, kw_only=True)
class HalveRequest(UserRequest):
    """`halve`.

    Attributes:
        for_ns: For how long limits are halved; None for no more.
        incident: The one over which it is asked.
    """

    for_ns: int | None = field(
        default=None, metadata=argument(take_integer(1, MAX_WATCH_NS, "more than nothing and at most 31 days"))
    )
    incident: str = field(default="", metadata=argument(take_text(16)))


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseRequest(Request):
    """`close`.

    Attributes:
        incident: Its short name.
        reason: For the history.
    """

    incident: str = field(default="", metadata=argument(take_text(16)))
    reason: str = field(default="", metadata=argument(take_text(MAX_REASON)))
