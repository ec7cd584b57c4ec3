"""When a live audit source lets go what its decoder holds back: nothing more has come for a moment."""

import time

from smtpguard.decode.audit.decoder import AuditDecoder
from smtpguard.model import NS, Connect

SETTLE_NS = NS // 50
"""auditd writes the records of an event, and a resolver makes its calls, in far less."""
_CLOCK_REALTIME_COARSE = 5
"""include/uapi/linux/time.h."""


def stamp_tick_ns() -> int:
    """How far audit's time stamps jump on this host: they are read from the coarse clock."""
    return round(time.clock_getres(_CLOCK_REALTIME_COARSE) * NS)


class Settlement:
    """Calls `settle` at the right moments.

    Args:
        decoder: Whose.

    Attributes:
        next_ns: When it wants to be asked again (CLOCK_BOOTTIME); None while nothing is held.
    """

    def __init__(self, decoder: AuditDecoder) -> None:
        self.next_ns: int | None = None
        self._decoder = decoder

    def settle(self, now_ns: int, *, more: bool) -> list[Connect]:
        """What need not be held any longer.

        Args:
            now_ns: CLOCK_BOOTTIME.
            more: Whether there is more to read at once; then it is too early.
        """
        out: list[Connect] = []
        if self.next_ns is not None and now_ns >= self.next_ns and not more:
            out = self._decoder.settle()
            self.next_ns = None
        if not self._decoder.is_holding:
            self.next_ns = None
        elif self.next_ns is None:
            self.next_ns = now_ns + SETTLE_NS
        return out
