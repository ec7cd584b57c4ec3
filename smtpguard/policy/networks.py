"""Which network an address counts for, in rules of count `networks`. Pure.

One subscriber's share of IPv6 is a /48 (RFC 6177), of IPv4 a /24 that a provider announces. An IPv6 address that only
carries an IPv4 one counts as that one's /24: through a translator a single /96 leads to all of IPv4 (THREATS 32).
"""

_IPV4_BYTES = 4
_NAT64 = bytes.fromhex("0064ff9b") + bytes(8)
"""64:ff9b::/96, the well-known prefix of RFC 6052: the last four bytes are the IPv4 address."""
_LOCAL_NAT64 = bytes.fromhex("0064ff9b0001")
"""64:ff9b:1::/48, for a network's own translators (RFC 8215); taken as prefixes of /96, as nearly all are."""
_MAPPED = bytes(10) + b"\xff\xff"
_COMPATIBLE = bytes(12)
"""::a.b.c.d, RFC 4291 2.5.5.1; loopback and the unspecified address never come here."""
_6TO4 = bytes.fromhex("2002")
"""2002:a.b.c.d::/48, RFC 3056: the whole /48 belongs to that one IPv4 address."""


def network_of(address: bytes) -> bytes:
    """The network an address counts for: its /24 as 3 bytes, or its /48 as 6.

    Args:
        address: 4 or 16 bytes, network order.
    """
    if len(address) == _IPV4_BYTES:
        return address[:3]
    if address.startswith((_NAT64, _LOCAL_NAT64, _MAPPED, _COMPATIBLE)):
        return address[12:15]
    return address[2:5] if address.startswith(_6TO4) else address[:6]
