"""What an enforcer is: something in the kernel that refuses a user's SMTP until a time, and ends by itself.

The daemon merges the blocks of all sources into one Deny per (subject, kind, port) and hands it to every enforcer, BPF
first. Enforcers keep no policy: what passes in spite of a deny is told to them beforehand as `Exemptions`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv6Network
from typing import Literal, NamedTuple, Protocol, runtime_checkable

from smtpguard.model import Subject
from smtpguard.settings import Network

Kind = Literal["block", "throttle"]


class Reach(NamedTuple):
    """What is refused: every SMTP packet or new connections, at all guarded ports or at one.

    Attributes:
        kind: As in Deny.
        port: The destination port; None for all that are guarded.
    """

    kind: Kind
    port: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Deny:
    """One refusal as the kernel keeps it.

    Attributes:
        subject: Whom it refuses; with `netns` set only BPF can carry it out.
        kind: "block" refuses every SMTP packet, open sessions too; "throttle" new connections only.
        until_ns: CLOCK_BOOTTIME at which the kernel lets go by itself.
        ranges: Subordinate uid ranges refused with it, as (first, count).
        comment: Short, safe ASCII note kept beside it where the kernel can (nft); source and rule.
        port: The destination port that is refused; None for all that are guarded.
    """

    subject: Subject
    kind: Kind
    until_ns: int
    ranges: tuple[tuple[int, int], ...] = ()
    comment: str = ""
    port: int | None = None

    @property
    def reach(self) -> Reach:
        """What is refused."""
        return Reach(self.kind, self.port)


@dataclass(frozen=True, slots=True, kw_only=True)
class Exemptions:
    """What passes in spite of any deny.

    Attributes:
        uids: Inclusive (first, last) uid ranges that are never refused: root, MTA and exempt users.
        uncapped: Inclusive uid ranges that the cap leaves alone too: who is report-only, and who has an allowance.
        networks: Exempt destinations and the host's own addresses.
        loopback: Whether 127.0.0.0/8 and ::1 pass too.
        translators: Not what passes, but how networks are told apart: prefixes of the host's own NAT64.
    """

    uids: tuple[tuple[int, int], ...] = ((0, 0),)
    uncapped: tuple[tuple[int, int], ...] = ()
    networks: tuple[Network, ...] = ()
    loopback: bool = True
    translators: tuple[IPv6Network, ...] = ()


class Enforcer(Protocol):
    """One means in the kernel. All methods raise EnforceError naming what was refused and why."""

    name: str

    def apply_deny(self, deny: Deny) -> None:
        """Begin or change a refusal; the later call wins, also if it ends earlier."""
        ...

    def apply_release(self, subject: Subject, kind: Kind, port: int | None = None) -> None:
        """End a refusal, its ranges too; nothing to end is fine."""
        ...

    def apply_exemptions(self, exemptions: Exemptions) -> None:
        """Replace what passes."""
        ...

    def read_denies(self) -> list[Deny]:
        """What the kernel holds now."""
        ...


@runtime_checkable
class BulkEnforcer(Protocol):
    """An enforcer that carries out thousands of changes at once, much cheaper than one by one."""

    def apply_many(self, denies: Sequence[Deny], releases: Sequence[tuple[Subject, Reach]]) -> None:
        """All of these changes.

        Raises:
            EnforceError: Some were not carried out; nobody can say which, so ask for each one by itself.
        """
        ...
