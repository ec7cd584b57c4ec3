"""The BPF program while there is one: its tables of ports and owners, and the refusals in its maps. Decides nothing."""

import logging
from collections.abc import Iterable
from typing import Protocol

from smtpguard.actions.bpf_deny import BpfDeny, DenyMaps
from smtpguard.errors import EnforceError

log = logging.getLogger(__name__)


class LoadedProgram(DenyMaps, Protocol):
    """The loaded program. Methods raise EnforceError."""

    def set_ports(self, ports: Iterable[int]) -> None:
        """Guard exactly these ports."""
        ...

    def replace_owners(self, ranges: Iterable[tuple[int, int, int]]) -> None:
        """Say who owns which subordinate uids, as (first, count, owner)."""
        ...


class BpfAttachment:
    """What follows configuration and accounts in the program.

    Args:
        program: The loaded program.

    Attributes:
        deny: Refusals in its maps.
        trouble: Why a table is out of step; None when all is well.
    """

    def __init__(self, program: LoadedProgram) -> None:
        self._program = program
        self._ports: frozenset[int] | None = None
        self._owners: tuple[tuple[int, int, int], ...] | None = None
        self.deny = BpfDeny(program)
        self.trouble: str | None = None

    def refresh(self, ports: frozenset[int], owners: Iterable[tuple[int, int, int]]) -> None:
        """Write what has changed.

        Args:
            ports: Guarded ports.
            owners: Subordinate uids, as (first, count, owner).
        """
        wanted = tuple(owners)
        try:
            if ports != self._ports:
                self._program.set_ports(ports)
                self._ports = ports
            if wanted != self._owners:
                self._program.replace_owners(wanted)
                self._owners = wanted
        except EnforceError as error:
            if str(error) != self.trouble:
                log.error("bpf: %s", error)  # noqa: TRY400 - one line for people
            self.trouble = str(error)
        else:
            self.trouble = None
