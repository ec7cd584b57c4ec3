"""DNS messages, as much as asking for a name's addresses or texts takes: RFC 1035, RFC 3596 (AAAA), RFC 2308 (no TTL).

Pure and bounded. An answer counts only where its number, its question and the chain of aliases from the name asked for
fit: what else a server adds is left out.
"""

import struct
from dataclasses import dataclass
from typing import Literal

from smtpguard.errors import DecodeError

Kind = Literal["A", "AAAA", "TXT"]
TYPES: dict[Kind, int] = {"A": 1, "AAAA": 28, "TXT": 16}
_SIZES = {1: 4, 28: 16}
_CNAME = 5
_IN = 1
_HEADER = struct.Struct("!HHHHHH")
_FIXED = struct.Struct("!HHIH")
_QUESTION = struct.Struct("!HH")
MAX_RECORDS = 512
"""Records read of one answer."""
MAX_ALIASES = 16
"""Aliases followed from the name asked for."""
_MAX_TTL_S = 2**31 - 1
NOERROR, NXDOMAIN = 0, 3


@dataclass(frozen=True, slots=True, kw_only=True)
class DnsAnswer:
    """What a server says.

    Attributes:
        code: RCODE; 0 is fine, 3 means that there is no such name.
        addresses: Packed, in the answer's order.
        ttl_s: The shortest lifetime of what led to them; None where there are none.
        is_cut: It did not fit into the datagram: ask again by TCP.
        texts: What somebody wrote, each in one piece; where texts were asked for.
    """

    code: int
    addresses: tuple[bytes, ...] = ()
    ttl_s: int | None = None
    is_cut: bool = False
    texts: tuple[bytes, ...] = ()


def render_query(number: int, name: str, kind: Kind) -> bytes:
    """The question for a name's addresses or texts, recursion desired.

    Args:
        number: 16 bits that the answer repeats.
        name: Host name in ASCII, absolute, without the last dot.
        kind: IPv4, IPv6 or text.

    Raises:
        DecodeError: It is no host name.
    """
    labels = name.encode("ascii", "replace").split(b".")
    if len(name) > 253 or not all(0 < len(label) < 64 for label in labels):
        raise DecodeError(f"not a host name: {name!a}")
    wire = b"".join(bytes([len(label)]) + label for label in labels) + b"\0"
    return _HEADER.pack(number, 0x0100, 1, 0, 0, 0) + wire + _QUESTION.pack(TYPES[kind], _IN)


def parse_answer(data: bytes, number: int, name: str, kind: Kind) -> DnsAnswer:
    """What a server answers to `render_query`.

    Args:
        data: The whole message.
        number: Of the question.
        name: Of the question.
        kind: Of the question.

    Raises:
        DecodeError: It is no answer to that question.
    """
    try:
        return _parse(data, number, name, kind)
    except (struct.error, IndexError) as error:
        raise DecodeError("a DNS answer ends too early") from error


def _parse(data: bytes, number: int, name: str, kind: Kind) -> DnsAnswer:
    found, flags, questions, answers, _, _ = _HEADER.unpack_from(data)
    if found != number or not flags & 0x8000 or questions != 1:
        raise DecodeError("not the answer to this question")
    asked, at = _read_name(data, _HEADER.size)
    wanted = name.lower().encode("ascii", "replace")
    if asked != wanted or _QUESTION.unpack_from(data, at) != (TYPES[kind], _IN):
        raise DecodeError("the answer to another question")
    at += _QUESTION.size
    code, is_cut = flags & 0xF, bool(flags & 0x0200)
    aliases: dict[bytes, tuple[bytes, int]] = {}
    records: dict[bytes, list[tuple[bytes, int]]] = {}
    if is_cut:
        return DnsAnswer(code=code, is_cut=True)
    for _ in range(min(answers, MAX_RECORDS)):
        owner, at = _read_name(data, at)
        type_, class_, ttl_s, length = _FIXED.unpack_from(data, at)
        at += _FIXED.size
        if at + length > len(data):
            raise DecodeError("a DNS answer ends too early")
        ttl_s = ttl_s if ttl_s <= _MAX_TTL_S else 0
        if class_ == _IN and type_ == _CNAME:
            aliases[owner] = (_read_name(data, at)[0], ttl_s)
        elif class_ == _IN and type_ == TYPES[kind] and length == _SIZES.get(type_, length):
            records.setdefault(owner, []).append((data[at : at + length], ttl_s))
        at += length
    ttls: list[int] = []
    for _ in range(MAX_ALIASES):
        if wanted in records or wanted not in aliases:
            break
        wanted, ttl_s = aliases[wanted]
        ttls.append(ttl_s)
    mine = records.get(wanted, [])
    lifetime = min([*ttls, *(ttl_s for _, ttl_s in mine)]) if mine else None
    if kind == "TXT":
        return DnsAnswer(code=code, texts=tuple(_join_strings(data) for data, _ in mine), ttl_s=lifetime)
    return DnsAnswer(code=code, addresses=tuple(address for address, _ in mine), ttl_s=lifetime)


def _join_strings(data: bytes) -> bytes:
    """The character strings of a TXT record; a last one that is shorter than it says is taken as it is."""
    parts: list[bytes] = []
    at = 0
    while at < len(data):
        parts.append(data[at + 1 : at + 1 + data[at]])
        at += 1 + data[at]
    return b"".join(parts)


def _read_name(data: bytes, at: int) -> tuple[bytes, int]:
    """A name in lower case, and where the message goes on; pointers lead backwards only, so no name is endless."""
    labels: list[bytes] = []
    end: int | None = None
    limit = at
    size = 0
    while True:
        length = data[at]
        if length & 0xC0 == 0xC0:
            target = (length & 0x3F) << 8 | data[at + 1]
            end = at + 2 if end is None else end
            if target >= limit:
                raise DecodeError("a name in a DNS answer points forward")
            at = limit = target
        elif length & 0xC0:
            raise DecodeError("a name in a DNS answer is garbled")
        elif length == 0:
            return b".".join(labels).lower(), at + 1 if end is None else end
        else:
            size += length + 1
            if size > 254:
                raise DecodeError("a name in a DNS answer is too long")
            label = data[at + 1 : at + 1 + length]
            if len(label) < length:
                raise DecodeError("a DNS answer ends too early")
            labels.append(label)
            at += 1 + length
