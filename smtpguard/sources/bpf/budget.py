"""What a user's events beyond the budget, and beyond the ring, were: read from where the program counted them.

The program judges and refuses whatever it can't report. See budget.bpf.h for the budget itself.
"""

import struct

from smtpguard.decode.bpf_event import NEWS, cut_address
from smtpguard.errors import SourceError
from smtpguard.model import RefusedBy, SocketNews, SocketReport
from smtpguard.sources.base import Unsent
from smtpguard.sources.bpf.libbpf import BpfError
from smtpguard.sources.bpf.program import BpfProgram

_KEY = struct.Struct("=IHBB")
_COUNT = struct.Struct("=Q")
_REFUSED: tuple[RefusedBy | None, ...] = (None, "block", "throttle", "credit", "cap")
_NEWS: tuple[SocketNews | None, ...] = (None, *NEWS)
_REPORT = 16
_OWED_KEY = struct.Struct("=IHBB")
_OWED = struct.Struct("=Q16s")


def read_unsent(guard: BpfProgram) -> list[Unsent]:
    """What was counted in the kernel since it was loaded, instead of being reported. Raises SourceError."""
    try:
        rows = guard.map("unsent").read_all()
    except BpfError as error:
        raise SourceError(f"what was not reported can't be read: {error.strerror}", where="bpf") from error
    found = []
    for key, value in rows:
        owner, port, result, elsewhere = _KEY.unpack(key)
        (count,) = _COUNT.unpack(value)
        is_report = result >= _REPORT
        found.append(
            Unsent(
                owner=owner,
                port=port,
                refused_by=None if is_report else _REFUSED[result],
                news=_NEWS[result - _REPORT] if is_report else None,
                count=count,
                elsewhere=bool(elsewhere),
            )
        )
    return found


class Owed:
    """Bytes of sessions whose last report could not be sent: the program adds them up for their owner.

    Args:
        guard: The loaded program.
    """

    def __init__(self, guard: BpfProgram) -> None:
        self._table = guard.map("owed_bytes")
        self._read: dict[bytes, int] = {}

    def read(self, now_ns: int) -> list[SocketReport]:
        """What was added since the last call, as the end of a session each. Raises BpfError."""
        reports = []
        for key, value in self._table.read_all():
            owner, port, family, _ = _OWED_KEY.unpack(key)
            total, address = _OWED.unpack(value)
            told = self._read.get(key, 0)
            if total > told:
                self._read[key] = total
                reports.append(
                    SocketReport(
                        time_ns=now_ns,
                        kind="closed",
                        uid=owner,
                        netns=None,
                        cookie=0,
                        connect_time_ns=0,
                        port=port,
                        address=cut_address(address, family),
                        latency_ns=None,
                        bytes_sent=total,
                        bytes_received=0,
                        retransmissions=0,
                        bytes_told=told,
                    )
                )
        return reports
