"""What `Enforcement` asks of the parts around it."""

from collections.abc import Iterable
from typing import Protocol

from smtpguard.actions.base import Enforcer, Passes
from smtpguard.daemon.enforce.activation import Table
from smtpguard.enrich.accounts import Accounts


class NftTable(Table, Enforcer, Protocol):
    """The nftables table: something to raise and lower, and what holds refusals."""

    def beat(self) -> None:
        """Say that the guard lives, or else a cap ends by itself. Raises EnforceError."""
        ...

    def read_capped(self) -> dict[int, int]:
        """Connections that the cap refused, by uid. Raises EnforceError."""
        ...


class Sessions(Enforcer, Protocol):
    """What ends open sessions."""

    ports: frozenset[int]


class Around(Protocol):
    """Who is who, and what passes."""

    accounts: Accounts

    def passes(self, forced: Iterable[int], allowed: Iterable[int]) -> Passes:
        """What passes in spite of any refusal, given exempt uids that are blocked all the same and who is allowed."""
        ...


class Comparison(Protocol):
    """Looks whether the kernel's sets hold what the list says, and mends what differs."""

    def compare(self, *, reason: str) -> None:
        """Compare now.

        Args:
            reason: What makes a look necessary: `start`, `heal`, `changed` (by somebody else) or `time`.
        """
        ...


class Judging(Protocol):
    """Whether the parts that judge attempts do so."""

    vital_failures: int

    def is_sound(self) -> bool:
        """Whether attempts are judged now."""
        ...
