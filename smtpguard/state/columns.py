"""How values stand in the columns of the state file, and what a change of it is.

Text that tenants or people wrote is BLOB, as it need not be UTF-8. A `Statement` has a key where the latest one for
that key is all that matters.
"""

import json
from dataclasses import dataclass

from smtpguard.text import to_bytes

MAX_EVIDENCE_BYTES = 16_384
_SIGN = 1 << 63

MARK = ""
"""The kind of loss of a row that says only: now losses are written down."""

Parameters = tuple[int | str | bytes | None, ...]
Key = tuple[str | bytes | int | None, ...]
"""Table, uid (0 where it concerns nobody), and what else names a row; as the file has them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """One change of the file: SQL with its parameters."""

    sql: str
    parameters: Parameters


def to_signed(value: int | None) -> int:
    """A namespace cookie as SQLite keeps integers; 0 for the watched namespace."""
    return 0 if value is None else value - 2 * _SIGN if value >= _SIGN else value


def from_signed(value: int) -> int | None:
    """The reverse of `to_signed`."""
    return None if value == 0 else value + 2 * _SIGN if value < 0 else value


def from_bytes(value: bytes) -> str:
    """The reverse of text.to_bytes."""
    return value.decode("utf-8", "surrogateescape")


def to_name(name: str | None) -> bytes:
    """An account name as stored: b"" for none."""
    return to_bytes(name or "")


def from_name(value: bytes) -> str | None:
    """The reverse of `to_name`."""
    return from_bytes(value) or None


def to_ports(ports: tuple[int, ...] | None) -> str:
    """Ports as stored: "" for all."""
    return "" if ports is None else ",".join(map(str, ports))


def from_ports(value: str) -> tuple[int, ...] | None:
    """The reverse of `to_ports`. Raises ValueError."""
    return tuple(int(port) for port in value.split(",")) if value else None


def to_ns(value: int | None, unit_ns: int) -> int | None:
    """A time in minutes or hours as nanoseconds; None for none. Raises TypeError: a text so many times is 60 GB."""
    if value is None:
        return None
    if not isinstance(value, int):
        raise TypeError("a time that is no number")
    return value * unit_ns


def render_json(value: object, max_bytes: int = MAX_EVIDENCE_BYTES) -> str:
    """JSON in ASCII; what is too long is replaced by a note of its size, as half a document is none."""
    if value == ():  # as are ranges and ids of nearly all blocks
        return "[]"
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"))
    return text if len(text) <= max_bytes else json.dumps({"omitted_bytes": len(text)})
