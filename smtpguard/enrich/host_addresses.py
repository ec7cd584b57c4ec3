"""What is known of the addresses of one exempt name, and how names are asked."""

import time
from dataclasses import dataclass, field
from typing import Protocol

from smtpguard.enrich.resolver import Resolved
from smtpguard.model import Subject


class ResolveName(Protocol):
    """Looks a name up; may wait long. Raises OSError if it has no address now, or nobody could say."""

    def __call__(self, name: str, /) -> Resolved:
        """The addresses of a host name."""


class Now(Protocol):
    """A clock."""

    def __call__(self) -> int:
        """CLOCK_BOOTTIME in nanoseconds."""


def read_boottime() -> int:
    """CLOCK_BOOTTIME in nanoseconds: goes on while the host is suspended, as addresses do."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cleared:
    """An address at which a user was refused or judged turned out to be a name's.

    Attributes:
        subject: Whose attempt it was.
        address: Packed.
        name: Whose address it is.
    """

    subject: Subject
    address: bytes
    name: str


@dataclass(slots=True)
class HostAddresses:
    """What is known of one name.

    Attributes:
        addresses: Address to when the name gave it last.
        latest: Those of the last answer: they hold until there is another one.
        due_ns: When it is asked again.
        failed: Whether the last look-up failed.
        dropped: Addresses that did not fit.
    """

    addresses: dict[str, int] = field(default_factory=dict)
    latest: frozenset[str] = frozenset()
    due_ns: int = 0
    failed: bool = False
    dropped: int = 0
