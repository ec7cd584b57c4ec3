"""What keeps a refusal from being carried out, or from being lifted: told by means, for people. Changes nothing."""

from typing import Protocol

from smtpguard.daemon.enforce.activation import Activation
from smtpguard.daemon.enforce.reconciler import Reconciler
from smtpguard.daemon.enforce.table_upkeep import TableUpkeep


class ProgramTables(Protocol):
    """The BPF program, as far as its tables follow."""

    trouble: str | None


class MeansHealth:
    """How the means of enforcement fare.

    Args:
        activation: Whether the table is there.
        upkeep: What else the table needs.
        reconciler: Whether each means holds what it was told.
        sessions: Name of the means that ends open sessions.

    Attributes:
        program: The BPF program; None while there is none.
    """

    def __init__(self, activation: Activation, upkeep: TableUpkeep, reconciler: Reconciler, sessions: str) -> None:
        self._activation = activation
        self._upkeep = upkeep
        self._reconciler = reconciler
        self._sessions = sessions
        self.program: ProgramTables | None = None

    @property
    def table_trouble(self) -> str | None:
        """Why the table is not there though it ought to be, or is though it ought not; None when all is well."""
        return self._activation.trouble

    @property
    def template_trouble(self) -> str | None:
        """Why an administrator's own ruleset is not taken; None when all is well."""
        return self._upkeep.template_trouble

    def list_out_of_sync(self) -> list[str]:
        """Which means do not do what they are told, and why."""
        found = {
            "bpf": self.program.trouble if self.program is not None else None,
            "nft: who is not listed may be refused": self._upkeep.clear_trouble,
            "nft: the cap does not hold": self._upkeep.beat_trouble,
        }
        return [*(f"{what}: {why}" for what, why in found.items() if why), *self._reconciler.trouble()]

    def troubles(self) -> list[str]:
        """All that keeps a refusal from being carried out."""
        found = [f"nft: {trouble}" for trouble in (self.table_trouble, self.template_trouble) if trouble]
        return found + self.list_out_of_sync()

    def refusal_troubles(self) -> list[str]:
        """Those of them that keep what is configured from being in force; sessions that live on are none."""
        return [text for text in self.troubles() if not text.startswith(f"{self._sessions}: ")]

    def may_refuse_freed(self) -> bool:
        """Whether somebody who was let go may be refused still, as the kernel did not do it."""
        return not self._upkeep.is_clear or self._reconciler.has_late_releases()

    def knows_exemptions(self) -> bool:
        """Whether the kernel lets pass whoever it is to let pass."""
        return not self.may_refuse_freed() and self._reconciler.knows_exemptions()
