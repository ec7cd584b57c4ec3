"""A byte stream as whole lines in one reused buffer, with enough of the past kept to look back into.

The reader of a large log must not make an object of every line. This hands out *regions*: offsets between which
whole, not yet seen lines lie, for a compiled regex to run over. Never reads anything itself, never interprets a line.

What is kept behind a region covers at least `history_lines` lines as long as that fits into `max_bytes`. A line of
any length is survived: beyond `max_line_bytes` it is dropped up to the next newline, and counted. A run of NUL bytes
(the hole that copytruncate leaves in front of a writer that does not append) parts lines like a newline there.
"""

MAX_LINE_BYTES = 64 * 1024
"""Longest line kept. auditd writes at most 8,970 bytes of kernel text a line (MAX_AUDIT_MESSAGE_LENGTH)."""

SLACK_BYTES = 128
"""How much may be read behind the end of a region without meeting the end of the buffer."""
_SAMPLES = 16
_SAMPLE_BYTES = 4096


class LineBuffer:
    """The buffer: write into `room()`, then `commit(n)`, then look at the region it returns.

    Args:
        chunk_bytes: Most bytes taken at once; the size of `room()`.
        history_lines: How many lines behind the region stay within reach, at least.
        max_bytes: Bound of the whole buffer, which wins over `history_lines`.
        max_line_bytes: Bound of one line.

    Attributes:
        data: The buffer. Replaced when it grows, so never keep a reference across `commit`.
        base: How many bytes have left the front: `base + i` names the byte `data[i]` for ever.
        overlong: How many lines were dropped for their length.
    """

    def __init__(
        self,
        *,
        chunk_bytes: int = 1 << 19,
        history_lines: int = 8192,
        max_bytes: int = 1 << 27,
        max_line_bytes: int = MAX_LINE_BYTES,
    ) -> None:
        self._chunk = chunk_bytes
        self._history_lines = history_lines
        self._max_line = max_line_bytes
        self._max = max(max_bytes, 4 * (chunk_bytes + max_line_bytes))
        # The past costs a memmove of its own size each time the buffer is full: three parts in four are new bytes.
        size = min(self._max, max(1 << 20, 4 * (chunk_bytes + max_line_bytes)))
        self._history = size // 4
        self._size = size
        self.data = bytearray(size + SLACK_BYTES)
        self.base = 0
        self.overlong = 0
        self._end = 0  # end of what is in the buffer
        self._seen = 0  # end of the last region
        self._skipping = False  # inside a line that was too long

    def room(self) -> memoryview:
        """Where the next bytes go: at least one, at most `chunk_bytes`."""
        if self._size - self._end < self._chunk:
            self._compact()
        return memoryview(self.data)[self._end : self._end + self._chunk]

    def commit(self, count: int) -> tuple[int, int]:
        """Take `count` bytes that were written into `room()`.

        Returns:
            Offsets (start, stop) in `data` of the whole lines not seen before; start == stop if there are none.
        """
        fresh = self._end
        self._end += count
        if self._skipping and not self._resume(fresh):
            return self._seen, self._seen
        stop = self.data.rfind(b"\n", max(fresh, self._seen), self._end) + 1
        start = self._seen
        if stop > start:
            self._seen = stop
        else:
            stop = start
        if self._end - self._seen > self._max_line:
            self._cut()
        return start, stop

    @property
    def unfinished(self) -> bytes:
        """What has come of a line whose end has not."""
        return b"" if self._skipping else bytes(self.data[self._seen : self._end])

    def finish(self) -> tuple[int, int]:
        """The stream has ended: what is left counts as a whole line, newline or not."""
        start = self._seen
        if self._skipping or self._end == start:
            return start, start
        if self._size == self._end:
            self._compact()
            start = self._seen
        self.data[self._end] = 0x0A
        self._end += 1
        self._seen = self._end
        return start, self._end

    def _resume(self, fresh: int) -> bool:
        """Look for the end of the dropped line in what just came; drop what came before it."""
        ends = [
            at for at in (self.data.find(b"\n", fresh, self._end), self.data.find(b"\0", fresh, self._end)) if at >= 0
        ]
        if not ends:
            self._end = fresh
            return False
        self._remove(fresh, min(ends) + 1)
        self._skipping = False
        return True

    def _cut(self) -> None:
        """The unfinished line is too long: keep what follows its last NUL byte, else drop it all and its rest."""
        hole = self.data.rfind(b"\0", self._seen, self._end)
        if hole >= 0:
            dropped = self.data[self._seen : hole].strip(b"\0")
            self.overlong += bool(dropped)
            self._remove(self._seen, hole + 1)
            return
        self.overlong += 1
        self._end = self._seen
        self._skipping = True

    def _remove(self, start: int, stop: int) -> None:
        """Drop bytes of the unfinished line, just before what follows them."""
        rest = self._end - stop
        self.data[start : start + rest] = self.data[stop : self._end]
        self._end = start + rest

    def _compact(self) -> None:
        """Move history and the unfinished line to the front; grow if the history holds too few lines."""
        keep = max(0, self._seen - self._history)
        while keep and self._size < self._max and self._count_lines(keep) < self._history_lines:
            more = min(self._max, 2 * self._size) - self._size
            self._size += more
            self.data = self.data + bytes(more)  # a new one: a caller may still hold a view of the old
            self._history = self._size // 4
            keep = max(0, self._seen - self._history)
        if keep:
            held = self._end - keep
            with memoryview(self.data) as view:  # a slice of the bytearray itself would be copied once more
                view[:held] = view[keep : self._end]
            self.base += keep
            self._end = held
            self._seen -= keep

    def _count_lines(self, keep: int) -> int:
        """How many lines lie between an offset and the last region's end, from samples, rather too few than too many.

        Counting all of them would cost as much as a third of the search for records.
        """
        step = (self._seen - keep) // _SAMPLES
        if step <= _SAMPLE_BYTES:
            return self.data.count(b"\n", keep, self._seen)
        starts = range(keep, self._seen - step + 1, step)
        fewest = sorted(self.data.count(b"\n", start, start + _SAMPLE_BYTES) for start in starts)[: _SAMPLES // 2]
        return sum(fewest) * 2 * step // _SAMPLE_BYTES
