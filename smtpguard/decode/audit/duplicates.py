"""Events that stand in more than one file: counted once. Pure.

A log, its packed copy and its extract hold the same events; each has a serial and a time stamp of its own, on its host.
Files are read in the order of their first records, so what is remembered of a file is forgotten when the next one
begins well after its end.
"""

from smtpguard.decode.audit.index import Key
from smtpguard.model import NS

_SLACK_NS = 60 * NS


class Duplicates:
    """Remembers the events of files that overlap: some 70 bytes each."""

    def __init__(self) -> None:
        self._files: list[set[int]] = []
        self._last_ns: list[int] = []
        self._present: set[int] = set()
        self._present_last_ns = 0

    @property
    def last_ns(self) -> int:
        """The latest event so far, of the files that are remembered; 0 for none."""
        return max((self._present_last_ns, *self._last_ns))

    def next_file(self, first_ns: int) -> None:
        """Another file begins, with a record of that time."""
        self._files.append(self._present)
        self._last_ns.append(self._present_last_ns)
        kept = [
            (events, last_ns)
            for events, last_ns in zip(self._files, self._last_ns, strict=True)
            if events and last_ns >= first_ns - _SLACK_NS
        ]
        self._files, self._last_ns = [events for events, _ in kept], [last_ns for _, last_ns in kept]
        self._present, self._present_last_ns = set(), 0

    def is_known(self, key: Key, time_ns: int) -> bool:
        """Whether an event was in a file before; remembers it."""
        mark = hash(key)
        if any(mark in events for events in self._files):
            return True
        self._present.add(mark)
        self._present_last_ns = max(self._present_last_ns, time_ns)
        return False
