"""The section `listed` of the configuration as typed values. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from smtpguard.model import NS
from smtpguard.settings.keys import live

SHORTEST_NS = 600 * NS
"""Who asks more often is refused by the lists, and learns nothing from it."""


def _read_names(value: Iterable[str], /) -> tuple[str, ...]:
    """Each once: two spellings may be one name."""
    return tuple(dict.fromkeys(value))


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedSettings:
    """Which DNS block lists are asked for which addresses.

    Attributes:
        zones: The lists, as host names.
        every_ns: How often.
        addresses: What is asked for besides the public addresses of this host's interfaces.
    """

    zones: tuple[str, ...] = field(default=(), metadata=live("listed.zones", _read_names))
    every_ns: int = field(default=3600 * NS, metadata=live("listed.every"))
    addresses: tuple[str, ...] = field(default=(), metadata=live("listed.addresses", _read_names))
