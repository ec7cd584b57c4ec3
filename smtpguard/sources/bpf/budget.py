"""What a user's events beyond his budget, and beyond the ring, were: read from where the program counted them.

The program judges and refuses whatever it can't report. See budget.bpf.h for the budget itself.
"""

import struct

from smtpguard.errors import SourceError
from smtpguard.model import RefusedBy, SocketNews
from smtpguard.sources.base import Unsent
from smtpguard.sources.bpf.guard import Guard
from smtpguard.sources.bpf.libbpf import BpfError

_KEY = struct.Struct("=IHBB")
_COUNT = struct.Struct("=Q")
_REFUSED: tuple[RefusedBy | None, ...] = (None, "block", "throttle", "credit", "cap")
_NEWS: tuple[SocketNews | None, ...] = (None, "established", "refused", "timeout", "gave-up", "open", "closed")
_REPORT = 16


def read_unsent(guard: Guard) -> list[Unsent]:
    """What was counted in the kernel since it was loaded, instead of being reported. Raises SourceError."""
    try:
        rows = guard.map("unsent").read_all()
    except BpfError as error:
        raise SourceError(f"what was not reported can't be read: {error.strerror}", where="bpf") from error
    found = []
    for key, value in rows:
        owner, port, result, _ = _KEY.unpack(key)
        (count,) = _COUNT.unpack(value)
        is_report = result >= _REPORT
        found.append(
            Unsent(
                owner=owner,
                port=port,
                refused_by=None if is_report else _REFUSED[result],
                news=_NEWS[result - _REPORT] if is_report else None,
                count=count,
            )
        )
    return found
