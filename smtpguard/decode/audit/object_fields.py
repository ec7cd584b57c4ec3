"""Fields of JSON objects that hold audit records, brought into the form that a record has them in."""

import errno
import re
from collections.abc import Mapping

from smtpguard.decode.audit.fields import UNSET_UID


def find_field(value: object, path: str) -> object:
    """A field by its dotted name, nested or written with dots."""
    if not isinstance(value, Mapping):
        return None
    if path in value:
        return value[path]
    head, dot, rest = path.partition(".")
    while dot:
        if head in value:
            found = find_field(value[head], rest)
            if found is not None:
                return found
        more, dot, rest = rest.partition(".")
        head = f"{head}.{more}"
    return None


def parse_number(value: object) -> int | None:
    """A number, or a text of one; in hex behind 0x."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    try:
        text = str(value)
        return int(text, 16) if text.startswith("0x") else int(text)
    except ValueError:
        return None


def parse_uid_field(value: object) -> int | None:
    """A uid, (uid_t)-1 for one that is not set; None for what is none."""
    uid = UNSET_UID if value == "unset" else parse_number(value)
    return uid if uid is not None and 0 <= uid <= UNSET_UID else None


def parse_exit_value(value: object) -> int | None:
    """What a call returned; auditbeat names errors."""
    if isinstance(value, str) and value.startswith("E"):
        code: int | None = getattr(errno, value, None)
        return None if code is None else -code
    return parse_number(value)


def render_argument(value: object) -> str:
    """An argument of the call in hex, as the kernel writes it; `?` for one that is not there."""
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value & 0xFFFFFFFFFFFFFFFF:x}"
    text = str(value).removeprefix("0x").lower()
    return text if re.fullmatch(r"[0-9a-f]{1,16}", text) else "?"


def render_field(value: object) -> str:
    """A text that a user chose, in hex; `(null)` for none."""
    raw = (
        value
        if isinstance(value, bytes)
        else value.encode("utf-8", "surrogateescape")
        if isinstance(value, str)
        else b""
    )
    return raw.hex().upper() or "(null)"


def parse_bytes(value: object) -> bytes | None:
    """Journald writes a text with odd bytes as a list of numbers."""
    try:
        return bytes(value) if isinstance(value, list) and value and isinstance(value[0], int) else None
    except (TypeError, ValueError):
        return None
