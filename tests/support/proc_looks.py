"""Looks of the `proc` source, which are made by a thread: who reads waits for it for a few milliseconds only."""

from smtpguard.model import Connect
from smtpguard.sources.proc import ProcSource

_LATE_S = 10


def look_now(source: ProcSource) -> list[Connect]:
    """What a look that begins now finds, however late the thread has its turn; before it, what an earlier one found."""
    found: list[Connect] = []
    if source._beside.is_busy:
        source._beside.wait(_LATE_S)
        found += source.read()
    found += source.read()
    if source._beside.is_busy:
        source._beside.wait(_LATE_S)
        found += source.read()
    return found
