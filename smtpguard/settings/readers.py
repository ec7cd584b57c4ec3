"""How values of several keys are read from what a file holds. Pure; what they get is right, as `checks.py` has seen."""

from collections.abc import Iterable
from ipaddress import IPv6Network

from smtpguard.settings.notations import Network, parse_destination, parse_uids

_MB = 1_000_000
_WORDS = ("auto", "none")


def read_choice(value: str | list[str], /) -> str | tuple[str, ...]:
    """`auto`, `none`, or a list."""
    return value if isinstance(value, str) else tuple(value)


def read_command(value: str | list[str] | None, /) -> str | tuple[str, ...] | None:
    """A command as argv; `auto`, `none` and null stay what they are."""
    if value is None or value in _WORDS:
        return value
    return (value,) if isinstance(value, str) else tuple(value)


def read_megabytes(value: int, /) -> int:
    """Megabytes in bytes."""
    return value * _MB


def read_uids(value: Iterable[str | int], /) -> tuple[tuple[int, int], ...]:
    """Uids and ranges as (first, last)."""
    return tuple(map(parse_uids, value))


def read_networks(value: Iterable[str], /) -> tuple[Network, ...]:
    """Those of some destinations that are networks, each once."""
    return tuple(dict.fromkeys(found for text in value if not isinstance(found := parse_destination(text), str)))


def read_host_names(value: Iterable[str], /) -> tuple[str, ...]:
    """Those of some destinations that are host names, each once."""
    return tuple(dict.fromkeys(found for text in value if isinstance(found := parse_destination(text), str)))


def read_translators(value: str | list[str], /) -> str | tuple[IPv6Network, ...]:
    """`auto`, `none`, or prefixes."""
    return value if isinstance(value, str) else tuple(map(IPv6Network, value))
