"""Which network an address counts for, in rules of count `networks`. Pure, but for which translators the host has.

One subscriber's share of IPv6 is a /48 (RFC 6177), of IPv4 a /24 that a provider announces. An IPv6 address that only
carries an IPv4 one counts as that one's /24: through a translator a single /96 leads to all of IPv4. The host's own
translators (NAT64) have prefixes of a provider's choice: those are told to `use_translators`, for the whole process, as
there is one network that the host is in.
"""

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network

from smtpguard.settings import Network

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

PLACES = {
    32: (4, 5, 6, 7),
    40: (5, 6, 7, 9),
    48: (6, 7, 9, 10),
    56: (7, 9, 10, 11),
    64: (9, 10, 11, 12),
    96: (12, 13, 14, 15),
}
"""Where a translator's address has the IPv4 one, by the length of its prefix: RFC 6052, 2.2. Byte 8 is nobody's."""
MAX_TRANSLATORS = 4
_WELL_KNOWN = IPv6Network("64:ff9b::/96")
_KNOWN = frozenset({bytes([192, 0, 0, 170]), bytes([192, 0, 0, 171])})
"""What ipv4only.arpa stands for, RFC 7050 section 8."""
_NEVER = IPv6Network("ff00::/8"), IPv6Network("fe80::/10"), IPv6Network("::/16")

_own: tuple[tuple[bytes, tuple[int, ...]], ...] = ()


def use_translators(prefixes: Iterable[IPv6Network]) -> None:
    """Say which prefixes the host's own translators have; the first MAX_TRANSLATORS are taken."""
    global _own  # noqa: PLW0603 - one network for the process; asked at every attempt
    taken = list(prefixes)[:MAX_TRANSLATORS]
    _own = tuple((net.network_address.packed[: net.prefixlen // 8], PLACES[net.prefixlen][:3]) for net in taken)


def list_translated(networks: Iterable[Network], prefixes: Iterable[IPv6Network]) -> list[IPv6Network]:
    """The same IPv4 networks as they are reached through translators.

    Args:
        networks: Those of IPv6 have no other form.
        prefixes: Of the host's own translators; the well-known one is taken too.
    """
    through = {_WELL_KNOWN, *prefixes}
    return [_embed(network, prefix) for network in networks if isinstance(network, IPv4Network) for prefix in through]


def _embed(network: IPv4Network, prefix: IPv6Network) -> IPv6Network:
    address, places = bytearray(prefix.network_address.packed), PLACES[prefix.prefixlen]
    for place, byte in zip(places, network.network_address.packed, strict=True):
        address[place] = byte
    whole, bits = divmod(network.prefixlen, 8)
    end = places[whole] * 8 + bits if bits else places[whole - 1] * 8 + 8 if whole else prefix.prefixlen
    return IPv6Network((bytes(address), end), strict=False)


def find_prefix(address: bytes) -> IPv6Network | None:
    """The prefix of the translator that made this address of ipv4only.arpa (RFC 7050); None if it is not plain.

    Args:
        address: 16 bytes, as a name server gave them: whatever they like.
    """
    fits = [length for length, places in PLACES.items() if bytes(address[place] for place in places) in _KNOWN]
    if len(fits) != 1:
        return None
    length = fits[0]
    if any(address[place] for place in range(max(8, length // 8), 16) if place not in PLACES[length]):
        return None
    prefix = IPv6Network((address, length), strict=False)
    return None if any(prefix.overlaps(never) for never in _NEVER) else prefix


def network_of(address: bytes) -> bytes:
    """The network an address counts for: its /24 as 3 bytes, or its /48 as 6.

    Args:
        address: 4 or 16 bytes, network order.
    """
    if len(address) == _IPV4_BYTES:
        return address[:3]
    for head, places in _own:
        if address.startswith(head):
            return bytes([address[place] for place in places])
    if address.startswith((_NAT64, _LOCAL_NAT64, _MAPPED, _COMPATIBLE)):
        return address[12:15]
    return address[2:5] if address.startswith(_6TO4) else address[:6]
