"""The kernel half of `block.verdict: tell`: the program leads refused senders to a responder on loopback.

`start` says where the responder listens; until then, where the kernel lacks the hooks, and while no heartbeat comes,
refusals stay EPERM. Containers are refused as before: the responder does not live in their network.
"""

import struct
import sys
from collections.abc import Iterable

from smtpguard.errors import EnforceError
from smtpguard.sources.bpf import maps
from smtpguard.sources.bpf.features import TELL_PROGRAMS
from smtpguard.sources.bpf.libbpf import BpfError
from smtpguard.sources.bpf.program import BpfProgram
from smtpguard.sources.bpf.refusals import refused

SPEAKING_PORTS = frozenset({25, 587, 2525})
"""Where a server speaks first, in the clear: on 465 a client waits for TLS and would not understand."""

_TOLD = struct.Struct("=QII")


class TellHooks:
    """Refusals with a reason.

    Args:
        guard: The loaded program.
    """

    def __init__(self, guard: BpfProgram) -> None:
        self._guard = guard
        self._told = guard.map("told")
        self._attached = False

    def start(self, port: int, ports: Iterable[int] = SPEAKING_PORTS) -> None:
        """Lead refused attempts to a port of 127.0.0.1 and ::1.

        Args:
            port: Where the responder listens; below 1024, or a tenant could take its place.
            ports: Guarded ports on which a refused sender is told.

        Raises:
            EnforceError: This kernel can't.
        """
        features = self._guard.features
        if not (features.tell and features.netns):
            raise EnforceError("refused senders can't be told why: the kernel lacks the hooks", where="bpf")
        if not 0 < port < 1024:
            raise EnforceError(f"a responder on port {port} could be anybody's", where="bpf")
        try:
            if not self._attached:
                self._guard.attach_programs(TELL_PROGRAMS)
                self._attached = True
        except BpfError as error:
            raise refused("refused senders can't be told why", error) from error
        self._guard.set_port_bits(maps.PORT_TELL, ports)
        self._guard.config.fields.tell_port = port
        self._guard.config.set_flag(maps.FLAG_TELL, on=True)

    def stop(self) -> None:
        """Refuse without a word again; who was led to the responder still sees the peer that was asked for."""
        self._guard.config.set_flag(maps.FLAG_TELL, on=False)

    def find_owner(self, cookie: int) -> int | None:
        """For whom a socket counts that was led to the responder; None if it was not. Raises EnforceError."""
        try:
            value = self._told.lookup(cookie.to_bytes(8, sys.byteorder))
        except BpfError as error:
            raise refused("who was refused can't be read", error) from error
        return None if value is None else int(_TOLD.unpack_from(value)[2])
