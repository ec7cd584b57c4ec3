"""How values of several keys are read from what a file holds. Pure; they are right, and their notations are read."""

from collections.abc import Iterable
from ipaddress import IPv6Network

from smtpguard.settings.notations import Network

_MB = 1_000_000
_JOURNAL = "/run/systemd/journal/socket"
_WORDS = ("auto", "none")


def read_choice(value: str | list[str], /) -> str | tuple[str, ...]:
    """`auto`, `none`, or a list."""
    return value if isinstance(value, str) else tuple(value)


def read_command(value: str | list[str] | None, /) -> str | tuple[str, ...] | None:
    """A command as argv; `auto`, `none` and null stay what they are."""
    if value is None or value in _WORDS:
        return value
    return (value,) if isinstance(value, str) else tuple(value)


def read_journal(value: bool | str, /) -> str | None:
    """The socket of journald; None for no journal."""
    return _JOURNAL if value is True else value or None


def read_megabytes(value: int, /) -> int:
    """Megabytes in bytes."""
    return value * _MB


def read_uids(value: Iterable[int | tuple[int, int]], /) -> tuple[tuple[int, int], ...]:
    """Uids and ranges as (first, last)."""
    return tuple((uids, uids) if isinstance(uids, int) else uids for uids in value)


def read_networks(value: Iterable[Network | str], /) -> tuple[Network, ...]:
    """Those of some destinations that are networks, each once."""
    return tuple(dict.fromkeys(destination for destination in value if not isinstance(destination, str)))


def read_host_names(value: Iterable[Network | str], /) -> tuple[str, ...]:
    """Those of some destinations that are host names, each once."""
    return tuple(dict.fromkeys(destination for destination in value if isinstance(destination, str)))


def read_translators(value: str | list[IPv6Network], /) -> str | tuple[IPv6Network, ...]:
    """`auto`, `none`, or prefixes."""
    return value if isinstance(value, str) else tuple(value)
