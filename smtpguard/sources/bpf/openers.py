"""Who opened the sessions of sockets: the program keeps it with each socket, or in a map where there is no room for it.

Of sockets that were open before the program was attached nothing is known here. Layouts: `struct session` of
layout.bpf.h.
"""

import struct
import sys

from smtpguard.errors import SourceError
from smtpguard.kernel.openers import FindOpener, Opener
from smtpguard.sources.bpf.libbpf import BpfError
from smtpguard.sources.bpf.program import BpfProgram

_SESSION = struct.Struct("=QQQQII")
_IN_MAPS = ("beginning", "followed")


class BpfOpeners:
    """What one loaded program knows.

    Args:
        guard: The program.

    Attributes:
        storage_fd: The map in which it keeps it with the sockets; None where the kernel has no such thing.
    """

    def __init__(self, guard: BpfProgram) -> None:
        self._maps = [guard.map(name) for name in _IN_MAPS]
        self.storage_fd = guard.map("of_socket").fd if guard.features.storage else None

    def look(self) -> FindOpener:
        """What is kept in maps now, some 1,000 entries in most cases; the rest comes with the sockets."""
        found: dict[int, Opener] = {}
        try:
            for table in self._maps:
                for key, value in table.read_all():
                    found[int.from_bytes(key, sys.byteorder)] = _unpack(value)
        except BpfError as error:
            raise SourceError(f"who opened sessions can't be read: {error.strerror}", where="bpf") from error

        def find(cookie: int, storage: bytes | None) -> Opener | None:
            return _unpack(storage) if storage is not None and len(storage) >= _SESSION.size else found.get(cookie)

        return find


def _unpack(value: bytes) -> Opener:
    *_, uid, owner = _SESSION.unpack_from(value)
    return Opener(uid=uid, owner=owner)
