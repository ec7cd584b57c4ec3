"""The lines of the event log: rendered from types, and parsed back. Pure: no file, no clock.

CONTRACT "The log" fixes every event's fields and their order. PROC and what follows it, and REASON, were written by
tenants or by people: they are always quoted and escaped. Every other field is one word, so that whatever it holds, a
line has exactly the fields of its event, and `awk '{print $2}'` gives the user.
"""

import re
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from typing import Literal, Protocol

from smtpguard.errors import DecodeError
from smtpguard.model import NS, Account, Block, Connect, Message, Verdict
from smtpguard.text import CONTAINED, list_ports, render_address, render_escaped, render_quoted, render_user, to_bytes

Value = int | str | bytes | None

MAX_LINE_BYTES = 40_000
"""Longer than any line rendered here: six quoted values of 1,027 bytes, each byte written as four."""

_EPOCH = datetime.fromtimestamp(0, UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLine:
    r"""One line of the event log, taken apart.

    Attributes:
        wall_ns: Its time, nanoseconds since the epoch, exact to the microsecond.
        user: The USER field as written, escapes included; `uid:N` if the account had no name, `uid:N@COOKIE` if it
            is one of another network namespace.
        uid: The account's uid.
        event: CONNECT, EXCEEDED, BLOCK, UNBLOCK, ALLOW, MESSAGE or SUPPRESSED.
        fields: The event's fields in their order: int for numbers, bytes for quoted values, nanoseconds since the
            epoch for UNTIL, str for the rest; None where the line has `-`. A value whose bytes are exactly `-` can't
            be told from "not known", and is None too.
    """

    wall_ns: int
    user: str
    uid: int
    event: str
    fields: dict[str, Value]


def render_time(wall_ns: int, zone: tzinfo | None = None) -> str:
    """ISO 8601 with microseconds and offset.

    Args:
        wall_ns: Nanoseconds since the epoch.
        zone: Time zone; None for the process's local one.
    """
    seconds, rest_ns = divmod(wall_ns, NS)
    second, offset = _render_second(seconds, zone, time.tzname, time.timezone)
    return f"{second}.{rest_ns // 1000:06d}{offset}"


def render_word(value: str | int | None) -> str:
    """One unquoted field: printable, without spaces, quotes and backslashes; `-` if not known or empty."""
    if value is None or value == "":
        return "-"
    return render_escaped(to_bytes(str(value)))


def render_reason(text: str) -> str:
    """The REASON field: people's free text, quoted and escaped; `"-"` if empty."""
    return render_quoted(to_bytes(text) or None)


def render_connect(connect: Connect, account: Account, wall_ns: int) -> str:
    """The CONNECT line of one attempt, without its newline.

    Args:
        connect: The attempt.
        account: Whose it is; a subordinate uid's attempt is its owner's.
        wall_ns: When it was, nanoseconds since the epoch.
    """
    return (
        f"{_head(wall_ns, account, 'CONNECT', connect.netns)} {_where(connect)} RESULT={connect.result or '-'}"
        f" ATTR={connect.attr or '-'} {_caller(connect)} RDNS={render_quoted(connect.rdns)}"
    )


def render_exceeded(verdict: Verdict, wall_ns: int) -> str:
    """The EXCEEDED line of a verdict. BLOCK is rounded up to whole seconds, so that nobody is freed too early."""
    connect = verdict.connect
    block_s = None if verdict.until_ns is None else max(0, -(-(verdict.until_ns - verdict.time_ns) // NS))
    head = _head(wall_ns, verdict.account, "EXCEEDED", verdict.subject.scope)
    return (
        f"{head} RULE={render_word(verdict.rule)} COUNT={verdict.count}"
        f" LIMIT={verdict.limit} WINDOW={verdict.window_ns // NS} ACTION={verdict.action} BLOCK={render_word(block_s)}"
        f" MODE={verdict.mode} {_where(connect)} ATTR={connect.attr or '-'} {_caller(connect)}"
        f" RDNS={render_quoted(connect.rdns)}"
    )


def render_block(
    block: Block,
    account: Account,
    wall_ns: int,
    until_wall_ns: int,
    *,
    by: str | None = None,
    event: Literal["BLOCK", "EXTENDED"] = "BLOCK",
) -> str:
    """The BLOCK line: a block or throttle began; or the EXTENDED line: it goes on.

    Args:
        block: What began.
        account: Whom it refuses.
        wall_ns: When it began, nanoseconds since the epoch.
        until_wall_ns: When it ends, nanoseconds since the epoch.
        by: Who asked for it, where that says more than the block's source (`admin(alice)`).
        event: Which line.
    """
    return (
        f"{_head(wall_ns, account, event, block.subject.scope)} BY={render_word(by or block.source)}"
        f" UNTIL={render_time(until_wall_ns)} RULE={render_word(block.rule)} MODE={block.mode}"
        f" REASON={render_reason(block.reason)} {_reach(block)}"
    )


def render_unblock(block: Block, account: Account, wall_ns: int, *, by: str, reason: str = "") -> str:
    """The UNBLOCK line: a block or throttle ended, by its time or by somebody."""
    head = _head(wall_ns, account, "UNBLOCK")
    return f"{head} BY={render_word(by)} REASON={render_reason(reason)} {_reach(block)}"


def _reach(block: Block) -> str:
    return f"KIND={block.kind} PORTS={list_ports(block.ports)}"


def render_allow(account: Account, wall_ns: int, until_wall_ns: int, *, by: str, reason: str = "") -> str:
    """The ALLOW line: somebody was given an allowance until a time."""
    return (
        f"{_head(wall_ns, account, 'ALLOW')} BY={render_word(by)} UNTIL={render_time(until_wall_ns)}"
        f" REASON={render_reason(reason)}"
    )


def render_message(message: Message, account: Account, wall_ns: int) -> str:
    """The MESSAGE line: one mail was handed to the local server."""
    return (
        f"{_head(wall_ns, account, 'MESSAGE')} PID={render_word(message.pid)} MTA={render_word(message.mta)}"
        f" QID={render_escaped(message.queue_id or None)} RCPTS={render_word(message.recipients)}"
        f" SIZE={render_word(message.size_bytes)} ATTR={message.attr or '-'} {_caller(message)}"
    )


def render_suppressed(account: Account, wall_ns: int, *, count: int, seconds: int) -> str:
    """The SUPPRESSED line: so many CONNECT lines of this user were not written in so many seconds."""
    where = CONTAINED if account.standing == "container" else None
    return f"{_head(wall_ns, account, 'SUPPRESSED', where)} COUNT={count} SECONDS={seconds}"


def parse_line(line: str) -> LogLine:
    """Take a line of our own apart; the exact reverse of the renderers.

    Args:
        line: One line, with or without its newline.

    Raises:
        DecodeError: It is not a line that the renderers here write.
    """
    line = line.removesuffix("\n")
    if len(line) > MAX_LINE_BYTES:
        raise DecodeError(f"a line of {len(line)} characters")
    found = _HEAD.match(line)
    if found is None:
        raise DecodeError("not a line of the event log")
    event = found["event"]
    shape = _SHAPES.get(event)
    if shape is None:
        raise DecodeError(f"an unknown event, {event}")
    body = shape.fullmatch(line, found.end())
    if body is None:
        raise DecodeError(f"the fields of {event} are not those of the log's format")
    fields: dict[str, Value] = {key: _PARSERS[key](text) for key, text in body.groupdict().items() if text is not None}
    return LogLine(
        wall_ns=_parse_time(found["time"]), user=found["user"], uid=int(found["uid"]), event=event, fields=fields
    )


@lru_cache(maxsize=64)
def _render_second(seconds: int, zone: tzinfo | None, *local_zone: object) -> tuple[str, str]:
    """What the lines of one second have in common: the time without its fraction, and the offset.

    The local zone is part of the key, as a process may change it (tzset(3)).
    """
    del local_zone
    text = datetime.fromtimestamp(seconds, UTC).astimezone(zone).isoformat(timespec="seconds")
    return text[:19], text[19:]


def _head(wall_ns: int, account: Account, event: str, netns: int | str | None = None) -> str:
    """What all lines have in common.

    A uid of another network namespace is nobody's here: `uid:N@COOKIE` can't be taken for the account of that number,
    by a person or by the filter of fail2ban. A subordinate uid has its owner's name wherever it is seen.
    """
    user = render_user(account.uid, account.name) + ("" if netns is None or account.name else f"@{netns}")
    return f"{render_time(wall_ns)} USER={user} UID={account.uid} EVENT={event}"


def _where(connect: Connect) -> str:
    return (
        f"PID={'-' if connect.pid is None else connect.pid} PORT={connect.port}"
        f" DST={render_address(connect.address)} SENSOR={render_word(connect.sensor)}"
    )


def _caller(seen: Connect | Message) -> str:
    return (
        f"PROC={render_quoted(seen.proc)} EXE={render_quoted(seen.exe)} CWD={render_quoted(seen.cwd)}"
        f" SCRIPT={render_quoted(seen.script)}"
    )


def _parse_time(text: str) -> int:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise DecodeError(f"not a time: {text}") from error
    return (moment - _EPOCH) // _MICROSECOND * 1000


def _parse_int(text: str) -> int | None:
    return None if text == "-" else int(text)


def _parse_word(text: str) -> str | None:
    return None if text == "-" else text


def _parse_quoted(text: str) -> bytes | None:
    if text == '"-"':
        return None
    return _ESCAPE.sub(lambda found: bytes([int(found[1], 16)]), text[1:-1].encode("ascii"))


_ESCAPE = re.compile(rb"\\x([0-9a-f]{2})")
_TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}[+-]\d\d:\d\d(?::\d\d)?"
_INT = r"\d{1,20}"
_WORD = r"(?:[\x21\x23-\x5b\x5d-\x7e]|\\x[0-9a-f]{2})+"
_QUOTED = rf'"(?:{_WORD})?"'
_HEAD = re.compile(
    rf"(?P<time>{_TIME}) USER=(?P<user>[A-Za-z0-9_.@+%:-]+) UID=(?P<uid>\d{{1,10}}) EVENT=(?P<event>\w+)"
)

_FIELDS: dict[str, str] = {
    "CONNECT": "PID PORT DST SENSOR RESULT ATTR PROC EXE CWD SCRIPT RDNS",
    "EXCEEDED": "RULE COUNT LIMIT WINDOW ACTION BLOCK MODE PID PORT DST SENSOR ATTR PROC EXE CWD SCRIPT RDNS",
    "BLOCK": "BY UNTIL RULE MODE REASON KIND PORTS",
    "EXTENDED": "BY UNTIL RULE MODE REASON KIND PORTS",
    "UNBLOCK": "BY REASON KIND PORTS",
    "ALLOW": "BY UNTIL REASON",
    "MESSAGE": "PID MTA QID RCPTS SIZE ATTR PROC EXE CWD SCRIPT",
    "SUPPRESSED": "COUNT SECONDS",
}
"""CONTRACT: each event's fields, in their order."""


class _Parse(Protocol):
    def __call__(self, text: str, /) -> Value: ...


_KINDS: tuple[tuple[str, str, _Parse], ...] = (
    ("PID PORT COUNT LIMIT WINDOW BLOCK RCPTS SIZE SECONDS", f"-|{_INT}", _parse_int),
    ("UNTIL", _TIME, _parse_time),
    ("DST SENSOR RULE BY MTA QID", _WORD, _parse_word),
    ("RESULT", "allowed|refused|-", _parse_word),
    ("ATTR", "live|slot|guess|-", _parse_word),
    ("ACTION", "warn|throttle|block", _parse_word),
    ("MODE", "enforce|dry-run", _parse_word),
    ("KIND", "block|throttle|hold", _parse_word),
    ("PORTS", r"all|\d{1,5}(?:,\d{1,5})*", _parse_word),
    ("PROC EXE CWD SCRIPT RDNS REASON", _QUOTED, _parse_quoted),
)
_PATTERNS = {key: pattern for keys, pattern, _ in _KINDS for key in keys.split()}
_PARSERS = {key: parser for keys, _, parser in _KINDS for key in keys.split()}
_LATER = frozenset({"KIND", "PORTS"})
"""Lines of before 0.2 end without them."""


def _shape(key: str) -> str:
    text = f" {key}=(?P<{key}>{_PATTERNS[key]})"
    return f"(?:{text})?" if key in _LATER else text


_SHAPES = {event: re.compile("".join(_shape(key) for key in keys.split())) for event, keys in _FIELDS.items()}
