r"""How untrusted text, account names and durations are written: one rule each, for every line, report and answer.

CONTRACT: quoted values keep bytes 0x21-0x7e except `"` and backslash; every other byte, space included, becomes
`\xNN`. Names keep [A-Za-z0-9_.@+-] (first character without @+-); other bytes, `%` and `:` become `%XX`.
"""

import ipaddress
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_PLAIN = re.compile(rb"[\x21\x23-\x5b\x5d-\x7e]*")
_ESCAPED = [chr(b) if 0x21 <= b <= 0x7E and b not in b'"\\' else f"\\x{b:02x}" for b in range(256)]
_ESCAPE = re.compile(rb"\\x([0-9a-f]{2})")
_HIDDEN = re.compile("[^\\x20-\\x7e\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u017f]")
_NAME = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_.@+-]{0,254}")
_NAME_FIRST = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.")
_NAME_REST = _NAME_FIRST | frozenset(b"@+-")
_UNITS = (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1))
MAX_FIELD_BYTES = 1024
"""Longest untrusted value kept, in bytes before escaping; a longer one is cut and ends in `...`."""


def to_bytes(text: str) -> bytes:
    """Text from argv, passwd or JSON as the bytes it stands for (PEP 383).

    A surrogate that stands for no byte, as JSON may hold, becomes a backslash escape: never an error.
    """
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace")


def render_escaped(value: bytes | None, *, max_bytes: int = MAX_FIELD_BYTES) -> str:
    """Escape untrusted bytes into printable ASCII without spaces; `-` if not known.

    Args:
        value: The bytes as the kernel or the record gave them.
        max_bytes: Where to cut.
    """
    if value is None:
        return "-"
    if len(value) > max_bytes:
        value = value[:max_bytes] + b"..."
    if _PLAIN.fullmatch(value):
        return value.decode("ascii")
    return "".join([_ESCAPED[b] for b in value])


def parse_escaped(text: str) -> bytes:
    """The reverse of `render_escaped`. Raises ValueError where it is not what that gives."""
    return _ESCAPE.sub(lambda found: bytes([int(found[1], 16)]), text.encode("ascii"))


def parse_address(text: str) -> bytes:
    """The reverse of `render_address`. Raises ValueError."""
    return ipaddress.ip_address(text).packed


def render_quoted(value: bytes | None) -> str:
    """Escape untrusted bytes and put them in double quotes: `"-"` if not known."""
    return f'"{render_escaped(value)}"'


CONTAINED = "container"
"""Behind an @: what is nobody's on this host. No account is called so."""


def render_user(uid: int, name: str | None) -> str:
    """The USER field: the account's name, percent-escaped, or `uid:N` where there is none.

    Args:
        uid: The account's uid.
        name: Login name as passwd has it.
    """
    if not name:
        return f"uid:{uid}"
    if _NAME.fullmatch(name):
        return name
    raw = to_bytes(name)[:85]
    return "".join(chr(b) if b in (_NAME_REST if i else _NAME_FIRST) else f"%{b:02X}" for i, b in enumerate(raw))


def render_subject(uid: int, name: str | None, *, is_contained: bool) -> str:
    """A user for people: whoever is in a container is not taken for the account of that number here.

    Args:
        uid: The uid, there.
        name: The login name; a subordinate uid has its owner's, wherever it is seen.
        is_contained: Whether it was seen in another network namespace, or belongs to a container.
    """
    user = render_user(uid, name)
    return f"{user}@{CONTAINED}" if is_contained and not name else user


def render_address(address: bytes) -> str:
    """A packed address (4 or 16 bytes, network order) as RFC 5952 text."""
    if len(address) == 4:
        return ".".join(map(str, address))
    return str(ipaddress.IPv6Address(address))


def render_words(text: str, *, max_bytes: int = 64) -> str:
    """Text as people may see it: escaped, its plain spaces kept.

    Args:
        text: What somebody else wrote.
        max_bytes: Characters of it that are shown.
    """
    return " ".join(render_escaped(to_bytes(word)) for word in text[:max_bytes].split(" "))


def render_visible(text: str) -> str:
    """Text on one line in which nothing is hidden; spaces and Latin letters with accents stay.

    What drives a terminal, turns the direction, is wide or looks like another letter is escaped.

    Args:
        text: What somebody else wrote, or what is escaped already.
    """
    return _HIDDEN.sub(lambda found: "".join(_ESCAPED[b] for b in to_bytes(found[0])), text)


def render_duration(seconds: float) -> str:
    """A duration as people say it, in two units at most: `10 min`, `1 h 5 min`, `200 ms`.

    Args:
        seconds: How long; less than nothing is nothing.
    """
    if 0 < seconds < 0.9995:
        return f"{max(1, round(seconds * 1000))} ms"
    rest = max(0, round(seconds))
    if rest > 3600:  # nobody plans by the seconds of hours
        rest = round(rest / 60) * 60
    words = []
    for unit, size in _UNITS if rest >= 2 * 86_400 else _UNITS[1:]:  # limits are of 24 h, not of a day
        count, rest = divmod(rest, size)
        if count:
            words.append(f"{count} {unit}")
    return " ".join(words[:2]) or "0 s"


def split_line(script: str | None) -> tuple[str | None, int | None]:
    """`/a/send.php:41` as path and line."""
    path, colon, line = (script or "").rpartition(":")
    return (path, int(line)) if colon and line.isascii() and line.isdigit() else (script, None)


def render_count(number: int, thing: str) -> str:
    """A number and what is counted: `1 user`, `2 users`.

    Args:
        number: How many.
        thing: One of them, in a word whose plural ends in s.
    """
    return f"{number} {thing}{'' if number == 1 else 's'}"


def render_ports(ports: Sequence[int] | None, *, before: str = " on") -> str:
    """Ports within a sentence: ` on port 25`, ` on ports 465, 587`; nothing where all of SMTP is meant.

    Args:
        ports: In order; None for all.
        before: What stands before the word.
    """
    if ports is None:
        return ""
    return f"{before} port{'' if len(ports) == 1 else 's'} {', '.join(map(str, ports))}"


def list_ports(ports: Iterable[int] | None) -> str:
    """Ports in a column or field: `25,587`, or `all`.

    Args:
        ports: In order; None for all.
    """
    return "all" if ports is None else ",".join(map(str, ports))


def render_look(user: str) -> str:
    """The command that shows most about a user.

    Args:
        user: As render_user has them. An escaped name can't be typed; whoever is in a container has no account here.
    """
    if "%" in user or (user.startswith("uid:") and "@" in user):
        return "smtpguard blocks"
    return f"smtpguard why {user}"


def join_sentences(*parts: str) -> str:
    """Sentences, with or without their full stops, as one text; empty ones are left out."""
    kept = [part for part in parts if part]
    return ". ".join([*(part.removesuffix(".") for part in kept[:-1]), *kept[-1:]])


def tell_limits(watch: Mapping[str, Any]) -> str:
    """What a watch does to limits now.

    Args:
        watch: As `status` and `why` have it.
    """
    allowed = watch.get("allowed_until")
    if allowed is None:
        return "limits are halved"
    return f"limits are not halved, an allowance counts until {render_minute(allowed)}"


def render_minute(time: str) -> str:
    """A time as JSON has it, to the minute and for people: `2026-02-18 13:39`."""
    return time[:16].replace("T", " ")
