"""What a source of Connects is: a thin adapter that opens one sensor, hands over what it saw, and says what it lost.

A source never decides, never counts per user and never blocks for long: `read` returns what is there. The daemon
owns the loop; a source gives it file descriptors to wait on and the time of its next poll.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from smtpguard.model import Connect, RefusedBy, SocketNews, SocketReport


@dataclass(slots=True, kw_only=True)
class SourceStats:
    """Running totals since the source was opened, shown by `status`.

    Attributes:
        events: Connects handed over.
        lost: Events that the kernel or the queue dropped before we saw them.
        garbled: Records that could not be decoded.
        notes: Counters of its own, by name.
        warnings: What people have to know of it now.
    """

    events: int = 0
    lost: int = 0
    garbled: int = 0
    notes: dict[str, int] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unsent:
    """Events of one kind that a sensor counted and did not hand over: their destinations are not recorded.

    Attributes:
        owner: Whom they count for: a uid, or the owner of its subordinate range in all network namespaces together.
        port: Where they went.
        refused_by: What refused these attempts; None if they passed, or are no attempts.
        news: What became of connections; None if these are attempts.
        count: How many.
        elsewhere: They are nobody's of this host: of uids of other network namespaces or of root's ranges, all
            together, as whoever is root there may take any number of them. The owner is 0.
    """

    owner: int
    port: int
    refused_by: RefusedBy | None
    news: SocketNews | None
    count: int
    elsewhere: bool = False


class Source(Protocol):
    """One sensor.

    `open` raises SourceError (with what, where, fix) if it is not available, PrivilegeError if a capability is missing;
    after it, `probe` proves that an own connect() comes out as an event. `close` may be called twice and leaves nothing
    behind in the kernel.
    """

    name: str
    stats: SourceStats

    def open(self) -> None:
        """Acquire the sensor."""
        ...

    def probe(self, timeout_s: float) -> None:
        """Self-test: make an own connect and see it; raises SourceError when nothing comes out."""
        ...

    def filenos(self) -> Sequence[int]:
        """Descriptors that become readable when there is something to `read`."""
        ...

    def read(self) -> list[Connect]:
        """What is there now, without waiting. Raises SourceError if the sensor has died."""
        ...

    def next_poll_ns(self) -> int | None:
        """When `read` wants to be called even without a readable descriptor (CLOCK_BOOTTIME); None for never."""
        ...

    def set_ports(self, ports: frozenset[int]) -> None:
        """Look at exactly these ports from now on; what is open on others already is no attempt.

        Raises:
            SourceError: It can't be told; it has to be opened anew.
        """
        ...

    def close(self) -> None:
        """Release the sensor."""
        ...


@runtime_checkable
class Reporting(Protocol):
    """A source that also tells what became of connections."""

    def sees_outcomes(self) -> bool:
        """Whether it does so on this host."""
        ...

    def take_reports(self) -> list[SocketReport]:
        """What `read` has seen of it since the last call."""
        ...


@runtime_checkable
class Budgeting(Protocol):
    """A source that hands over only so many events of each user, and counts the others."""

    def read_unsent(self) -> list[Unsent]:
        """What it counted since it was opened. Raises SourceError."""
        ...


@runtime_checkable
class LoopbackSensor(Protocol):
    """A source that leaves out connections to loopback by itself, where they do not count."""

    def set_loopback(self, *, counts: bool) -> None:
        """Tell of them from now on, or leave them out.

        Raises:
            SourceError: It can't be told; it has to be opened anew.
        """
        ...


@runtime_checkable
class Reviving(Protocol):
    """A source that can take up again what was taken from it, and keeps what it holds in the kernel."""

    def revive(self) -> None:
        """Take it up again. Raises SourceError if that can't be: it has to be opened anew."""
        ...
