"""Whether the means of enforcement are there at all. In dry run they are not, unless a person's block needs them.

The nftables table is made when the first refusal in earnest is due, or at the start when the guard enforces; it goes
again when nothing in dry run needs it. The same switch turns the refusals of the BPF program on and off.
"""

import logging
from collections.abc import Callable
from typing import Protocol

from smtpguard.actions.nft.apply import NftEnforcer
from smtpguard.errors import EnforceError

log = logging.getLogger(__name__)


class Switch(Protocol):
    """What can refuse, and can be told not to."""

    def set_enforcing(self, *, on: bool) -> None:
        """Whether refusals are carried out."""
        ...


class Arms:
    """Raises and lowers the means of enforcement.

    Args:
        nft: The table.
        always: Whether the guard enforces (not dry run, not off).
        needed: Whether a block in earnest is in force.

    Attributes:
        off: The panic switch: they are down, whatever is needed.
        healing: Whether a lost table is put back; `nft remove` turns it off.
        trouble: Why the table is not there though it ought to be; None when all is well.
    """

    def __init__(self, nft: NftEnforcer, *, always: bool, needed: Callable[[], bool]) -> None:
        self._nft = nft
        self._needed = needed
        self._switch: Switch | None = None
        self._up = False
        self.always = always
        self.healing = True
        self.off = False
        self.trouble: str | None = None

    @property
    def up(self) -> bool:
        """Whether refusals are carried out now."""
        return self._up

    @property
    def has_switch(self) -> bool:
        """Whether a BPF program is there."""
        return self._switch is not None

    def attach(self, switch: Switch) -> None:
        """A BPF program has come: it does as the table does."""
        self._switch = switch
        switch.set_enforcing(on=self._up)

    def detach(self) -> None:
        """The BPF program is gone."""
        self._switch = None

    def sync(self) -> bool:
        """Bring the means in step with what is needed; False if the table can't be had."""
        wanted = self.healing and not self.off and (self.always or self._needed())
        if wanted == self._up and self.trouble is None:
            return True
        try:
            if wanted:
                self._nft.ensure()
            elif self._up:
                self._nft.remove()
        except EnforceError as error:
            if str(error) != self.trouble:
                log.error("nft: %s", error)  # noqa: TRY400 - one line for people
            self.trouble = str(error)
        else:
            self.trouble = None
        self._up = wanted
        if self._switch is not None:
            self._switch.set_enforcing(on=wanted)
        return self.trouble is None
