"""Single fields of audit records: ids, stamps, texts and addresses. Pure."""

import re
import struct
from functools import lru_cache
from ipaddress import AddressValueError, IPv6Address

from smtpguard.errors import DecodeError
from smtpguard.model import NS

UNSET_UID = 4294967295
"""(uid_t)-1: no uid was set."""
MIN_DIGITS = 32
"""Of an address in ENRICHED format: the kernel takes no sockaddr_in of less than 16 bytes. A path has room for a forged
record of 8 bytes with the shorter of these parts, for none of 16."""
_OCTETS = tuple(b"%d" % octet for octet in range(256))
_unpack8 = struct.Struct(">8H").unpack
_SADDR_TAIL = re.compile(
    # auditd 3.0; auditd 2.6 to 2.8; with the interface of a link-local address. And what was before them.
    rb"SADDR=(?:\{ (?:saddr_)?+fam=inet6? laddr=([0-9A-Fa-f.:]{2,45}+)(?:%[^ \n{}]{1,20}+)?+ lport=([0-9]{1,5}+) \}"
    rb"|inet6? host:([0-9A-Fa-f.:]{2,45}+) serv:([0-9]{1,5}+))\r?"
).fullmatch
_UID_NAME = re.compile(rb'(?:\A| )UID="([^"]++)"').search


def parse_uid(digits: bytes) -> int | None:
    """A uid; None for (uid_t)-1."""
    uid = int(digits)
    return None if uid == UNSET_UID else uid


def parse_seconds(digits: bytes) -> int:
    """The seconds of a time stamp, in nanoseconds since the epoch. Raises DecodeError for anything but some digits."""
    return _parse_digits(digits, 11) * NS


def parse_fraction(digits: bytes) -> int:
    """What follows the point in a time stamp, in nanoseconds; raises likewise."""
    return _parse_digits(digits.ljust(9, b"0"), 9)


def _parse_digits(digits: bytes, most: int) -> int:
    if not digits.isdigit() or len(digits) > most:
        raise DecodeError("time stamp is not made of digits")
    return int(digits)


def parse_text(field: bytes) -> bytes | None:
    """An untrusted field (comm, exe): quoted as it is, hex decoded, `(null)` and `?` as not known.

    Raises:
        DecodeError: Neither quoted nor hex.
    """
    if field[0] == 0x22:
        if len(field) > 1 and field[-1] == 0x22:
            return field[1:-1]
    elif field in {b"(null)", b"?"}:
        return None
    else:
        try:
            return bytes.fromhex(field.decode("ascii"))
        except ValueError:
            pass
    raise DecodeError("audit text field is neither quoted nor hex")


def parse_user(tail: bytes) -> bytes | None:
    """The name that the ENRICHED part of a call's record gives for uid; None if it gives none."""
    found = _UID_NAME(tail)
    if found is None or found[1] == b"unset" or found[1].startswith(b"unknown("):
        return None
    name: bytes = found[1]
    return name


def is_same_address(tail: bytes, port: int, address: bytes) -> bool:
    """Whether the ENRICHED part of a SOCKADDR record is whole and says the same as its hex digits.

    Args:
        tail: What follows 0x1d.
        port: Port from the hex digits.
        address: Address from the hex digits, mapped ones as 4 bytes.
    """
    # Nearly always it is just what auditd writes; an IPv6 address with zeros in it is shortened, a mapped one has dots.
    if len(address) == 4:
        one, two, three, four = address
        octets = (_OCTETS[one], _OCTETS[two], _OCTETS[three], _OCTETS[four])
        usual = b"SADDR={ saddr_fam=inet laddr=%b.%b.%b.%b lport=%d }" % (*octets, port)
    else:
        usual = b"SADDR={ saddr_fam=inet6 laddr=%x:%x:%x:%x:%x:%x:%x:%x lport=%d }" % (*_unpack8(address), port)
    if tail == usual:
        return True
    found = _SADDR_TAIL(tail)
    if not found or int(found[2] or found[4]) != port:
        return False
    text = found[1] or found[3]
    if b":" not in text:
        return len(address) == 4 and text == b"%d.%d.%d.%d" % tuple(address)
    try:
        return _pack6(text) == address
    except AddressValueError:
        return False


@lru_cache(maxsize=4096)
def _pack6(text: bytes) -> bytes:
    """An IPv6 address from its text, an IPv4-mapped one as its 4 bytes; slow to read, and much the same ones recur."""
    address = IPv6Address(text.decode("ascii"))
    return address.ipv4_mapped.packed if address.ipv4_mapped else address.packed
