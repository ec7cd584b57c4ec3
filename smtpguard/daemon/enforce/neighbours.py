"""What `Enforcement` and `Reconciler` ask of the parts around them."""

from collections.abc import Iterable, Sequence
from typing import Literal, Protocol

from smtpguard.actions.base import Deny, Enforcer, Exemptions
from smtpguard.daemon.enforce.activation import Table
from smtpguard.enrich.accounts.directory import AccountDirectory
from smtpguard.kernel.openers import Openers
from smtpguard.model import Block, Subject

Reason = Literal[
    "start",  # the guard begins
    "settings",  # another configuration
    "accounts",  # accounts, their standing or their ranges
    "destinations",  # own addresses, exempt destinations
    "allowance",  # one began or ended
    "off",  # the panic switch
    "state",  # what an earlier run kept could be read at last
    "bpf",  # a BPF program has come or gone
    "table",  # a person's `nft ensure` or `nft remove`
    "lost",  # somebody deleted the table
    "forgiven",  # a verdict was undone
    "judging",  # attempts are not judged, or are again
]
"""What has changed, so that the means have to follow."""


class NftTable(Table, Enforcer, Protocol):
    """The nftables table: something to raise and lower, and what holds refusals."""

    def beat(self) -> None:
        """Say that the guard lives, or else a cap ends by itself. Raises EnforceError."""
        ...

    def read_capped(self) -> dict[int, int]:
        """Connections that the cap refused, by uid. Raises EnforceError."""
        ...

    def read_again(self) -> None:
        """Take an administrator's ruleset as it is now. Raises EnforceError: the old one stays."""
        ...

    def clear_everywhere(self, intervals: Iterable[tuple[int, int]]) -> None:
        """Take out of all sets whoever is in one within these uids and was not asked for. Raises EnforceError."""
        ...

    def clear_all(self) -> None:
        """Empty all sets. Raises EnforceError."""
        ...


class Sessions(Enforcer, Protocol):
    """What ends open sessions."""

    ports: frozenset[int]

    def set_openers(self, openers: Openers | None) -> None:
        """Take who opened sessions, while a BPF program sees it."""
        ...

    def look_again(self, denies: Sequence[Deny]) -> None:
        """End what blocked users have open once more, without waiting for it."""
        ...


class Around(Protocol):
    """Who is who, and what passes."""

    accounts: AccountDirectory

    def exemptions(self, forced: Iterable[int], allowed: Iterable[int]) -> Exemptions:
        """What passes in spite of any refusal, given exempt uids that are blocked all the same and who is allowed."""
        ...


class Comparison(Protocol):
    """Looks whether the kernel's sets hold what the list says, and mends what differs.

    Attributes:
        looked_ns: When it was looked at last; None for never.
        differences: What could not be mended, for people.
        trouble: Why nobody could look; None when all is well.
    """

    looked_ns: int | None
    differences: tuple[str, ...]
    trouble: str | None

    def compare(self, *, reason: str, who: str = "") -> None:
        """Compare now.

        Args:
            reason: What makes a look necessary: `heal`, `changed` (by somebody else), `time` or `status`.
            who: Who has changed it, where that is known.
        """
        ...


class Judging(Protocol):
    """Whether the parts that judge attempts do so."""

    vital_failures: int

    def is_sound(self) -> bool:
        """Whether attempts are judged now."""
        ...


class HeldBlocks(Protocol):
    """The blocks that the kernel has to carry out."""

    def blocks_of(self, subject: Subject) -> Sequence[Block]:
        """Those of a subject, enforced or not, over or not; none while nothing is refused."""
        ...

    def blocked_subjects(self) -> Iterable[Subject]:
        """All subjects that may have any."""
        ...

    @property
    def changed(self) -> set[Subject]:
        """Whose blocks may be others than those that were told; whoever tells takes them out."""
        ...
