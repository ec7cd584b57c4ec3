"""Which destinations never count: loopback, the host's own addresses, exempt networks. Pure, and answered from memory.

Asked for every attempt: each answer is remembered, and a look-up that is not costs one set look-up per prefix length in
use. Addresses are packed, 4 or 16 bytes; an IPv4-mapped one is given as its 4 bytes.
"""

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Literal

from smtpguard.settings import Network

NeverCounts = Literal["loopback", "own", "exempt"]

MAX_REMEMBERED = 65_536
"""Answers remembered; then all are forgotten at once. A spammer's fan-out is dearer that way, not larger."""
_LOOPBACK: tuple[Network, ...] = (ip_network("127.0.0.0/8"), ip_network("::1/128"), ip_network("0.0.0.0/32"))
"""0.0.0.0 connects to this host (connect(2) in ip(7))."""
_STRONGEST_FIRST: tuple[NeverCounts, ...] = ("exempt", "own", "loopback")
_UNSPECIFIED6 = ip_network("::/128")


class Destinations:
    """Tells which destinations never count.

    Args:
        own: The host's own addresses. Those of loopback are among them in the kernel, and not here: whether loopback
            counts is a question of its own, and an own address never does.
        exempt: Networks that the operator exempts.
    """

    __slots__ = ("_known", "_tables", "exempt", "own")

    def __init__(self, *, own: Iterable[Network] = (), exempt: Iterable[Network] = ()) -> None:
        self.own: tuple[Network, ...] = ()
        self.exempt: tuple[Network, ...] = ()
        self._known: dict[bytes, NeverCounts | None] = {}
        self._tables: dict[int, list[tuple[int, dict[int, NeverCounts]]]] = {}
        self.replace(own=own, exempt=exempt)

    def replace(self, *, own: Iterable[Network] | None = None, exempt: Iterable[Network] | None = None) -> bool:
        """Take new networks; what is None stays.

        Returns:
            Whether anything changed.
        """
        before = (self.own, self.exempt)
        if own is not None:
            self.own = _ordered(network for network in own if not _is_loopback(network))
        if exempt is not None:
            self.exempt = _ordered(exempt)
        if before == (self.own, self.exempt) and self._tables:
            return False
        self._known.clear()
        found: dict[int, dict[int, dict[int, NeverCounts]]] = {4: {}, 16: {}}
        kinds: tuple[tuple[NeverCounts, tuple[Network, ...]], ...] = (
            ("loopback", (*_LOOPBACK, _UNSPECIFIED6)),
            ("own", self.own),
            ("exempt", self.exempt),
        )
        for kind, networks in kinds:
            for network in networks:
                size = network.max_prefixlen // 8
                shift = network.max_prefixlen - network.prefixlen
                found[size].setdefault(shift, {})[int(network.network_address) >> shift] = kind
        self._tables = {size: sorted(shifts.items()) for size, shifts in found.items()}
        return True

    def networks(self) -> tuple[Network, ...]:
        """Own and exempt networks together, for the kernel."""
        return (*self.own, *self.exempt)

    def why_exempt(self, address: bytes) -> NeverCounts | None:
        """What kind of destination an address is that does not count; None if it counts."""
        try:
            return self._known[address]
        except KeyError:
            pass
        number = int.from_bytes(address, "big")
        kinds = {table.get(number >> shift) for shift, table in self._tables.get(len(address), ())}
        kind = next((kind for kind in _STRONGEST_FIRST if kind in kinds), None)
        if len(self._known) >= MAX_REMEMBERED:
            self._known.clear()
        self._known[address] = kind
        return kind


def _is_loopback(network: Network) -> bool:
    return any(
        known.version == network.version
        and known.prefixlen <= network.prefixlen
        and int(known.network_address) == int(network.network_address) & int(known.netmask)
        for known in _LOOPBACK
    )


def _ordered(networks: Iterable[Network]) -> tuple[Network, ...]:
    def key(network: IPv4Network | IPv6Network) -> tuple[int, int, int]:
        return network.version, int(network.network_address), network.prefixlen

    return tuple(sorted(set(networks), key=key))
