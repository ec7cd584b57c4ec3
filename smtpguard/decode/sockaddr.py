"""Socket addresses as the kernel logs them: `struct sockaddr_in` and `sockaddr_in6` to a port and a packed address.

Never resolves, never judges: loopback and 0.0.0.0 are decoded like any other. Layouts from ip(7) and ipv6(7); the
family is in the byte order of the host that logged it.
"""

from binascii import unhexlify

from smtpguard.errors import DecodeError

AF_INET = 2
AF_INET6 = 10
_MAPPED = bytes(10) + b"\xff\xff"
_V4_BYTES = 8
"""Family, port and address of sockaddr_in; its 8 bytes of padding say nothing."""
_V6_BYTES = 24
"""sockaddr_in6 without its scope id, as RFC 2133 had it and as the kernel still takes it (SIN6_LEN_RFC2133)."""


def parse_sockaddr_hex(text: bytes, *, big_endian: bool | None = False) -> tuple[int, bytes]:
    """Read an address written as hex digits in either case, as audit's SOCKADDR record has it.

    Args:
        text: The digits.
        big_endian: Byte order of the host that logged it; None for either. No family fits both.

    Raises:
        DecodeError: Not hex, another family, or too short.
    """
    try:
        raw = unhexlify(text)
    except ValueError:
        raise DecodeError("socket address is not pairs of hex digits") from None
    if big_endian or (big_endian is None and raw[:1] == b"\0"):
        raw = raw[1::-1] + raw[2:]
    return parse_sockaddr(raw)


def parse_sockaddr(raw: bytes) -> tuple[int, bytes]:
    """Read an AF_INET or AF_INET6 address.

    Args:
        raw: The bytes of the sockaddr; longer than needed is fine, callers pass a whole sockaddr_storage.

    Returns:
        The port, and the address as 4 or 16 bytes; an IPv4-mapped IPv6 address becomes its 4 bytes.

    Raises:
        DecodeError: Another family, or too short.
    """
    size = len(raw)
    if size >= _V4_BYTES and raw[0] == AF_INET and raw[1] == 0:
        return raw[2] << 8 | raw[3], raw[4:8]
    if size >= _V6_BYTES and raw[0] == AF_INET6 and raw[1] == 0:
        address = raw[8:24]
        return raw[2] << 8 | raw[3], address[12:] if address.startswith(_MAPPED) else address
    if raw[:2] in {b"\x02\x00", b"\x0a\x00"}:
        raise DecodeError(f"socket address of {size} bytes is cut short")
    raise DecodeError(f"socket address of family {raw[:2].hex() or 'nothing'} is neither IPv4 nor IPv6")
