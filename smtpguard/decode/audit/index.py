"""Where in the buffer the SYSCALL record of a serial lies, when it is not simply the line before.

First it is looked for a little way back; if it is not there, an index of all calls in the history is made, as far as
needed and each byte once, so that a flood of records without a call costs time in proportion to its length only.
"""

import re
from collections.abc import Iterator

from smtpguard.decode.audit.line_buffer import LineBuffer
from smtpguard.decode.audit.record import URINGOP_GROUPS, is_uring_connect, match_syscall, match_uringop

Key = tuple[bytes | None, bytes]
"""Node (None without a node= prefix) and serial with its time stamp: what the records of one event share."""

_NEAR_BYTES = 16 * 1024
"""A few interleaved events."""
_PURGE_ABOVE = 4096
_CALL_HEAD = re.compile(rb"type=(?:SYSCALL|URINGOP|UNKNOWN\[1336\]) msg=audit\([0-9.]++:[0-9]++\): ").finditer
_URINGOP_TYPES = (b"type=URINGOP", b"type=UNKNOWN[1336]")
_CALL_TYPES = (b"type=SYSCALL", *_URINGOP_TYPES)
# NUL bytes before a line are a hole in the file: copytruncate leaves one before a writer that does not append.
_LINE_HEAD = re.compile(rb"(?:\A|[\n\0])(?:node=([^ \n\0]{1,255}+) )?\Z").search
_LINE_HEAD_BYTES = 300


def find_line(data: bytearray, at: int) -> tuple[int, bytes | None]:
    """Where the line begins whose `type=` stands at an offset, and its node; (-1, None) if something else is before."""
    low = max(0, at - _LINE_HEAD_BYTES)
    before = bytes(data[low:at])
    head = _LINE_HEAD(before)
    if head is None or (head.start() == 0 and low and before[:1] not in {b"\n", b"\0"}):
        return -1, None
    node: bytes | None = head[1]
    return (at - len(node) - 6 if node else at), node


class CallIndex:
    """Finds calls in the history of a buffer."""

    def __init__(self, buffer: LineBuffer) -> None:
        self._buffer = buffer
        self._places: dict[Key, int] = {}
        self._done = 0  # how far in the stream the index reaches
        self._purged = 0  # what the base was when old places were last thrown out

    def find_near(self, key: Key, begin: int) -> tuple["re.Match[bytes] | None", bool]:
        """The call of a serial within some lines before an offset, and whether there are some that can't be read."""
        data = self._buffer.data
        needle = b" msg=audit(%s): " % key[1]
        garbled = False
        at = begin
        while (at := data.rfind(needle, max(0, begin - _NEAR_BYTES), at)) >= 0:
            for kind in _CALL_TYPES:
                if not data.startswith(kind, at - len(kind), at):
                    continue
                line, node = find_line(data, at - len(kind))
                if line < 0 or node != key[0]:
                    continue
                call = match_call(data, line, begin)
                if call is None:
                    garbled = True
                elif len(call.groups()) != URINGOP_GROUPS or is_uring_connect(call):
                    return call, garbled
        return None, garbled

    def find_uring(self, key: Key, begin: int) -> "re.Match[bytes] | None":
        """The URINGOP record of a connect within some lines before an offset."""
        data = self._buffer.data
        needle = b" msg=audit(%s): " % key[1]
        at = begin
        while (at := data.rfind(needle, max(0, begin - _NEAR_BYTES), at)) >= 0:
            for kind in _URINGOP_TYPES:
                line, node = (
                    find_line(data, at - len(kind)) if data.startswith(kind, at - len(kind), at) else (-1, None)
                )
                call = match_call(data, line, begin) if line >= 0 and node == key[0] else None
                if call and is_uring_connect(call):
                    return call
        return None

    def find_far(self, key: Key) -> "re.Match[bytes] | None":
        """The call of a serial, if it lies in what `advance` has gone through and the buffer still holds."""
        at = self._places.get(key, -1) - self._buffer.base
        return match_call(self._buffer.data, at, len(self._buffer.data)) if at >= 0 else None

    def advance(self, stop: int) -> Iterator[tuple[Key, "re.Match[bytes]"]]:
        """Go through the lines before an offset that were not gone through yet; yields their calls."""
        data, base = self._buffer.data, self._buffer.base
        if base != self._purged and len(self._places) > _PURGE_ABOVE:
            self._places = {key: at for key, at in self._places.items() if at >= base}
            self._purged = base
        start = max(self._done - base, 0)
        self._done = base + stop
        for head in _CALL_HEAD(data, start, stop):
            begin, node = find_line(data, head.start())
            call = match_call(data, begin, stop) if begin >= 0 else None
            if call and (len(call.groups()) != URINGOP_GROUPS or is_uring_connect(call)):
                key = (node, call[2])
                self._places[key] = base + begin
                yield key, call


def match_call(data: bytearray, begin: int, stop: int) -> "re.Match[bytes] | None":
    """The SYSCALL or URINGOP record that is the line at an offset."""
    end = data.find(b"\n", begin, stop) + 1
    return match_syscall(data, begin, end) or match_uringop(data, begin, end)
