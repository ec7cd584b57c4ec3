"""Hooks that several parts share, as protocols: what is called, with which names, and what comes back.

A hook that one part alone has stands beside that part. None is a `Callable` of the typing kind: it hides the names of
arguments, and `Callable[..., None]` all of them, so that a call with the wrong ones is found by the running daemon.
"""

from collections.abc import Sequence
from typing import Protocol


class ClockNs(Protocol):
    """A clock in nanoseconds: CLOCK_BOOTTIME (event time) unless its user says another."""

    def __call__(self) -> int:
        """The time now."""


class ClockS(Protocol):
    """A monotonic clock in seconds."""

    def __call__(self) -> float:
        """The time now."""


class Task(Protocol):
    """Something to be done, told nothing."""

    def __call__(self) -> None:
        """Do it."""


class YesNo(Protocol):
    """A question about how things stand now."""

    def __call__(self) -> bool:
        """The answer, from memory: nothing is waited for."""


class NameOf(Protocol):
    """Knows logins."""

    def __call__(self, uid: int, /) -> str | None:
        """The login name of a uid; None if it has none."""


class TellFail2ban(Protocol):
    """Has fail2ban unban somebody; never waits."""

    def __call__(self, sources: Sequence[str], user: str, /) -> int:
        """Tell the jails among the sources of blocks; how many there were."""
        ...


class Change(Protocol):
    """A change of what the kernel holds. Raises EnforceError."""

    def __call__(self) -> object:
        """Make it."""
        ...
