"""Whether anything is refused at all: the nftables table is there, and the BPF program carries out what its maps say.

Decides nothing: `Enforcement` says what is wanted. A table that can't be had is named and tried again; the BPF program
is switched all the same.
"""

import logging
from typing import Protocol

from smtpguard.actions.nft.render import TableSpec
from smtpguard.errors import EnforceError

log = logging.getLogger(__name__)


class Switch(Protocol):
    """What can refuse, and can be told not to."""

    def set_enforcing(self, *, on: bool) -> None:
        """Whether refusals are carried out."""
        ...


class Table(Protocol):
    """The nftables table. Methods may raise EnforceError."""

    spec: TableSpec

    def ensure(self) -> None:
        """Put it there as `spec` says; elements in force stay."""
        ...

    def restore(self) -> None:
        """Put a lost one back, with every refusal that was asked for."""
        ...

    def remove(self) -> None:
        """Delete it, and forget what was asked for."""
        ...

    def exists(self) -> bool:
        """Whether it is in the kernel."""
        ...


class Activation:
    """Raises and lowers the means of enforcement.

    Args:
        table: The nftables table.

    Attributes:
        trouble: Why the table is not there though it ought to be; None when all is well.
    """

    def __init__(self, table: Table) -> None:
        self._table = table
        self._switch: Switch | None = None
        self._up: bool | None = None
        self._spec: TableSpec | None = None
        self.trouble: str | None = None

    @property
    def up(self) -> bool:
        """Whether refusals are carried out now."""
        return self._up is True

    @property
    def has_switch(self) -> bool:
        """Whether a BPF program is there."""
        return self._switch is not None

    def attach(self, switch: Switch) -> None:
        """A BPF program has come: it does as the table does."""
        self._switch = switch
        switch.set_enforcing(on=self.up)

    def detach(self) -> None:
        """The BPF program is gone."""
        self._switch = None

    def apply(self, *, up: bool, lost: bool = False) -> None:
        """Raise or lower; does nothing where nothing has changed.

        Args:
            up: Whether refusals are to be carried out.
            lost: Somebody has deleted the table: it is put back with every refusal that was asked for.
        """
        before, self._up = self._up, up
        if self._switch is not None and before != up:
            self._switch.set_enforcing(on=up)
        if up and (lost or before is not True or self.trouble is not None or self._table.spec != self._spec):
            self._raise(lost=lost)
        elif not up and (before is not False or self.trouble is not None):
            self._lower(known=before is True)

    def _raise(self, *, lost: bool) -> None:
        spec = self._table.spec
        try:
            if lost:
                self._table.restore()
            else:
                self._table.ensure()
        except EnforceError as error:
            self._tell(error)
        else:
            self._spec, self.trouble = spec, None

    def _lower(self, *, known: bool) -> None:
        try:
            # An earlier run may have left it. Where nothing is to be refused, a host without nft is no trouble.
            if known or self.trouble is not None or self._table.exists():
                self._table.remove()
        except EnforceError as error:
            if known or self.trouble is not None:
                self._tell(error)
            else:
                log.debug("nft: %s", error)
        else:
            self.trouble = None

    def _tell(self, error: EnforceError) -> None:
        if str(error) != self.trouble:
            log.error("nft: %s", error)
        self.trouble = str(error)
