"""A look at a few lines of each stretch of a log, so that what the search passes over in silence is named.

The search for SOCKADDR records stops at nothing else. Where a file goes on in another form (logs of several hosts or
tools put into one), or where somebody kept only the SYSCALL records, it would find nothing and say nothing.
"""

import re

from smtpguard.decode.audit.forms import is_not_auditds
from smtpguard.decode.audit.record import is_always_connect
from smtpguard.decode.audit.sieve import Sieve

_SAMPLES, _LARGE_SAMPLES = 16, 4
"""Lines looked at in a stretch, besides its last; in a large one, of which a file has many: 5 us for 2 MiB."""
_LARGE_BYTES = 1 << 20
_MAX_LINE_BYTES = 1 << 16
_ADDRESS = b"KADDR msg=audit("
_CALLS = re.compile(rb"type=SYSCALL msg=audit\([^)\n]{1,64}\): arch=([0-9a-f]{1,8} syscall=[0-9]{1,10}) ").finditer


class Survey:
    """A search for SOCKADDR records that looks around.

    Args:
        sieve: The search itself.

    Attributes:
        is_mixed: Whether some lines are not as auditd writes them, though they hold records.
    """

    def __init__(self, sieve: Sieve) -> None:
        self._sieve = sieve
        self.is_mixed = False
        self._has_addresses = self._has_connects = False

    @property
    def lacks_addresses(self) -> bool:
        """Whether there are calls that connect, and not one address of any kind."""
        return self._has_connects and not self._has_addresses

    def next_file(self) -> None:
        """Another file begins."""
        self.is_mixed = self._has_addresses = self._has_connects = False

    def find(self, data: bytearray, start: int, stop: int) -> list[int]:
        """As Sieve.find."""
        if not self.is_mixed:
            self.is_mixed = any(is_not_auditds(line) for line in _sample(data, start, stop))
        if not self._has_addresses:
            self._has_addresses = data.find(_ADDRESS, start, stop) >= 0
            if not self._has_addresses and not self._has_connects:
                self._has_connects = any(is_always_connect(call[1]) for call in _CALLS(data, start, stop))
        return self._sieve.find(data, start, stop)


def _sample(data: bytearray, start: int, stop: int) -> list[bytes]:
    """Some lines of a stretch of whole lines: the first, the last, and a few in between."""
    begins = {start, data.rfind(b"\n", start, stop - 1) + 1 or start}
    samples = _SAMPLES if stop - start < _LARGE_BYTES else _LARGE_SAMPLES
    for place in range(start, stop, max(1, (stop - start) // samples))[1:]:
        begins.add(data.find(b"\n", place, stop) + 1 or start)
    return [_line(data, begin, stop) for begin in sorted(begins) if begin < stop]


def _line(data: bytearray, begin: int, stop: int) -> bytes:
    end = data.find(b"\n", begin, min(stop, begin + _MAX_LINE_BYTES))
    return bytes(data[begin : end if end >= 0 else begin + _MAX_LINE_BYTES]).lstrip(b"\0")
