"""The `replay` Source: audit logs that were written earlier, plain or compressed, or standard input.

Event times are the file's own wall stamps, in nanoseconds since the epoch. Nothing of this host enters: no clock, no
address, no process. Files are read in the order of their first records, whatever order they are named in, as one
stream, so that an event whose records lie on both sides of a rotation is whole.
"""

import bz2
import contextlib
import gzip
import io
import lzma
import os
import re
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import BinaryIO, cast

from smtpguard.decode.audit import AuditDecoder
from smtpguard.decode.audit_probes import guess_tick_ns
from smtpguard.decode.retries import Retries
from smtpguard.decode.sieve import LineBuffer
from smtpguard.errors import SourceError
from smtpguard.model import Connect
from smtpguard.sources.base import SourceStats
from smtpguard.sources.pcre import make_sieve

HOLD_BYTES = 1 << 18
"""How long ENRICHED events wait for a second address to betray itself; nobody waits for a replay's verdicts."""
_CHUNK_BYTES = 1 << 19
_HEAD_BYTES = 1 << 16
_STAMP = re.compile(rb"msg=audit\((\d{1,11}\.\d{1,9}):\d+\): ")
_COMPRESSED: tuple[tuple[bytes, Callable[[BinaryIO], io.BufferedIOBase]], ...] = (
    (b"\x1f\x8b", lambda file: gzip.GzipFile(fileobj=file)),
    (b"\xfd7zXZ\x00", lzma.LZMAFile),
    (b"BZh", bz2.BZ2File),
)
_MAGICS = tuple(magic for magic, _ in _COMPRESSED)
_Reader = io.BufferedReader | io.FileIO
_DAMAGED = (OSError, EOFError, zlib.error, lzma.LZMAError)


class ReplaySource:
    """Files as a sensor.

    Args:
        paths: Files; `-` is standard input.
        ports: Ports that matter.
        stdin: What `-` stands for; None for this process's standard input.
    """

    name = "replay"

    def __init__(self, paths: Sequence[str], *, ports: frozenset[int], stdin: BinaryIO | None = None) -> None:
        self.stats = SourceStats()
        self.silent: list[str] = []
        """Files in which not one audit record was found."""
        self._paths = list(paths)
        self._stdin = stdin
        self._stack = contextlib.ExitStack()
        self._retries = Retries()
        self._decoder = AuditDecoder(
            ports=ports,
            sensor=self.name,
            retries=self._retries,
            buffer=LineBuffer(chunk_bytes=_CHUNK_BYTES),
            hold_bytes=HOLD_BYTES,
            sieve=make_sieve(ports),
        )
        self._chunks: Iterator[list[Connect]] | None = None
        self._done = False

    def open(self) -> None:
        """Open all files and find their order. Raises SourceError naming the file that can't be read."""
        files = []
        ticks = []
        for path in self._paths:
            try:
                file, head = self._open_file(path)
            except _DAMAGED as error:
                self.close()
                raise _unreadable(path, error) from error
            stamp = _STAMP.search(head)
            if stamp is None and path != "-":
                self.silent.append(path)
            ticks.append(guess_tick_ns(head))
            files.append((float(stamp[1]) if stamp else 0.0, path, file))
        files.sort(key=lambda entry: entry[0])
        self._retries.set_tick(min(ticks))
        self._chunks = self._read_all([(path, file) for _, path, file in files])

    def probe(self, timeout_s: float) -> None:
        """A file needs no proof."""
        del timeout_s

    def filenos(self) -> Sequence[int]:
        """None: a file is always ready."""
        return []

    def read(self) -> list[Connect]:
        """What the next stretch of the files holds; [] at the end, or where there was nothing. See `done`.

        Raises:
            SourceError: A file is damaged, or can't be read further.
        """
        if self._chunks is None:
            raise SourceError("not open", where=self.name)
        connects = next(self._chunks, None)
        if connects is None:
            self._done = True
            return []
        self.stats.events += len(connects)
        return connects

    @property
    def done(self) -> bool:
        """Whether everything was read."""
        return self._done

    def next_poll_ns(self) -> int | None:
        """At once, until everything was read."""
        return None if self._done else 0

    def close(self) -> None:
        """Close the files; may be called twice."""
        self._stack.close()
        self._chunks = None

    def _open_file(self, path: str) -> tuple[_Reader, bytes]:
        """A file and its beginning, unpacked; a plain file is read without a buffer in between."""
        if path == "-":
            file = _buffered(self._stdin or sys.stdin.buffer)
        else:
            plain = self._stack.enter_context(io.FileIO(path))
            if plain.seekable():  # a pipe is not: <(zcat ...)
                head = plain.read(_HEAD_BYTES)
                plain.seek(0)
                if not head.startswith(_MAGICS):
                    return plain, head
            file = self._stack.enter_context(io.BufferedReader(plain, _HEAD_BYTES))
        for magic, unpack in _COMPRESSED:
            if file.peek(8).startswith(magic):
                unpacked = self._stack.enter_context(unpack(cast("BinaryIO", file)))
                file = self._stack.enter_context(_buffered(unpacked))
                break
        return file, file.peek(_HEAD_BYTES)

    def _read_all(self, files: Sequence[tuple[str, _Reader]]) -> Iterator[list[Connect]]:
        """One list of Connects for each stretch that was read."""
        decoder = self._decoder
        for path, file in files:
            while True:
                room = decoder.room()
                try:
                    count = file.readinto(room)
                except _DAMAGED as error:
                    raise _unreadable(path, error) from error
                if not count:
                    break
                yield decoder.commit(count)
                self._note()
            yield decoder.feed(b"\n")  # a file may end without one; an empty line is nothing
        yield decoder.finish()
        self._note()

    def _note(self) -> None:
        counters = self._decoder.counters
        self.stats.garbled = counters.garbled + self._decoder.overlong
        self.stats.lost = counters.unpaired
        self.stats.notes = {
            "forged": counters.forged,
            "doubled": counters.doubled,
            "repeats": counters.repeats,
            "probes": counters.probes,
            "others": counters.others,
        }


def _buffered(file: BinaryIO | io.BufferedIOBase) -> io.BufferedReader:
    """A reader that can look ahead, whatever gives the bytes."""
    if isinstance(file, io.BufferedReader):
        return file
    return io.BufferedReader(cast("io.RawIOBase", file), _HEAD_BYTES)


def _unreadable(path: str, error: Exception) -> SourceError:
    """What to say of a file that can't be read."""
    if isinstance(error, OSError) and error.errno is not None:
        fix = "name files, not directories" if isinstance(error, IsADirectoryError) else None
        return SourceError(f"can't be read: {os.strerror(error.errno)}", where=path, fix=fix)
    return SourceError(f"is damaged or cut short: {error}", where=path, fix="unpack what can be saved and replay that")
