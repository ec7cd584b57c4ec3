"""The `replay` Source: audit logs that were written earlier, plain, packed or wrapped, or standard input.

Event times are the file's own wall stamps, in nanoseconds since the epoch. Nothing of this host enters: no clock, no
address, no process. Files are read in the order of their first records, whatever order they are named in, as one
stream, so that an event whose records lie on both sides of a rotation is whole. An event that stands in several of
them (a log and its packed copy) counts once. Whatever of a file can't be read is named in `problems`.
"""

import contextlib
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from smtpguard.decode.audit.decoder import AuditDecoder
from smtpguard.decode.audit.duplicates import Duplicates
from smtpguard.decode.audit.forms import BOM, JOURNAL_TEXT, MIXED, Unwrapper, make_unwrapper
from smtpguard.decode.audit.line_buffer import LineBuffer
from smtpguard.decode.audit.probes import guess_tick_ns
from smtpguard.decode.audit.retries import Retries
from smtpguard.decode.audit.sieve import SockaddrSieve
from smtpguard.errors import SourceError
from smtpguard.model import NS, Connect
from smtpguard.sources.audit.packed import DAMAGED, Reader, open_file, unpack
from smtpguard.sources.audit.pcre import make_sieve
from smtpguard.sources.audit.replay_problems import (
    NO_ADDRESS,
    NO_RECORD,
    UNREADABLE_FORMS,
    USE_RAW,
    ReplayProblem,
    is_cut,
    unreadable_error,
)
from smtpguard.sources.audit.survey import Survey
from smtpguard.sources.base import SourceStats

HOLD_BYTES = 1 << 18
"""How long ENRICHED events wait for a second address to betray itself; nobody waits for a replay's verdicts."""
_CHUNK_BYTES = 1 << 21
_STAMP = re.compile(rb"msg=audit\((\d{1,11}\.\d{1,9}):\d+\): ")


@dataclass(slots=True)
class _ReplayFile:
    """One file.

    Attributes:
        path: Its name.
        reader: Where its bytes come from.
        unwrapper: What takes the wrapping off; None for a log as auditd writes it.
        first_ns: Time of its first record; None if there is none at its beginning.
        tick_ns: How far its stamps jump.
        is_empty: Whether there is nothing in it.
    """

    path: str
    reader: Reader
    unwrapper: Unwrapper | None
    first_ns: int | None
    tick_ns: int
    is_empty: bool


class ReplaySource:
    """Files as a sensor.

    Args:
        paths: Files; `-` is standard input.
        ports: Ports that matter.
        stdin: What `-` stands for; None for this process's standard input.

    Attributes:
        problems: What of the files was not read; whole once everything was read.
        cut: Files that end within a record.
    """

    name = "replay"

    def __init__(self, paths: Sequence[str], *, ports: frozenset[int], stdin: BinaryIO | None = None) -> None:
        self.stats = SourceStats()
        self.problems: list[ReplayProblem] = []
        self.cut: list[str] = []
        self._paths = list(paths)
        self._stdin = stdin
        self._stack = contextlib.ExitStack()
        self._retries = Retries()
        self._duplicates = Duplicates() if len(self._paths) > 1 else None
        self._survey = Survey(make_sieve(ports) or SockaddrSieve(ports))
        self._decoder = AuditDecoder(
            ports=ports,
            sensor=self.name,
            retries=self._retries,
            buffer=LineBuffer(chunk_bytes=_CHUNK_BYTES),
            hold_bytes=HOLD_BYTES,
            sieve=self._survey,
            duplicates=self._duplicates,
        )
        self._unwrapped_garbled = 0
        self._chunks: Iterator[list[Connect]] | None = None
        self._done = False

    def open(self) -> None:
        """Open all files and find their order. Raises SourceError naming the file that can't be read."""
        if self._paths.count("-") > 1:
            raise SourceError("is named twice", where="-", fix="standard input can be read once")
        files = []
        for path in self._paths:
            try:
                files.append(self._open_file(path))
            except DAMAGED as error:
                self.close()
                raise unreadable_error(path, error) from error
            except SourceError:
                self.close()
                raise
        files.sort(key=lambda file: file.first_ns or 0)
        self._chunks = self._read_all(files)

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

    def _open_file(self, path: str) -> _ReplayFile:
        """A file, what wraps it, and its first stamp."""
        if path == "-":
            stdin = self._stdin or (sys.stdin.buffer if sys.stdin is not None else None)
            if stdin is None:
                raise SourceError("is closed", where=path, fix="name a file, or pipe one in")
            reader, head = unpack(stdin, self._stack, path)
        else:
            reader, head = open_file(path, self._stack)
        if head.startswith(BOM):
            reader.read(len(BOM))
            head = head[len(BOM) :]
        unwrapper, plain = make_unwrapper(head), head
        if unwrapper is not None:
            trial = make_unwrapper(head)
            plain = b"" if trial is None else trial.feed(head)
        stamp = _STAMP.search(plain)
        return _ReplayFile(
            path,
            reader,
            unwrapper,
            round(float(stamp[1]) * 1000) * (NS // 1000) if stamp else None,
            guess_tick_ns(plain),
            not head,
        )

    def _read_all(self, files: Sequence[_ReplayFile]) -> Iterator[list[Connect]]:
        """One list of Connects for each stretch that was read."""
        decoder = self._decoder
        newest_ns = -1
        for file in files:
            self._retries.set_tick(file.tick_ns)
            first_ns = file.first_ns or 0
            if self._duplicates is not None:
                if first_ns <= max(newest_ns, self._duplicates.last_ns - NS):
                    yield decoder.forget()
                self._duplicates.next_file(first_ns)
                newest_ns = first_ns
            before, joined = self._bad(), decoder.joined
            self._survey.next_file()
            yield from self._read_plain(file) if file.unwrapper is None else self._read_wrapped(file, file.unwrapper)
            if file is files[-1]:
                yield decoder.finish()
            self._note()
            self._judge(file, self._bad() - before, decoder.joined - joined)
        if not any(file.unwrapper is None or file.unwrapper.records for file in files):
            self.problems += [
                ReplayProblem(file=file.path, problem="is empty", use=None) for file in files if file.is_empty
            ]

    def _read_plain(self, file: _ReplayFile) -> Iterator[list[Connect]]:
        """A log as auditd writes it: from the file into the decoder's own buffer."""
        decoder = self._decoder
        while True:
            room = decoder.room()
            try:
                count = file.reader.readinto(room)
            except DAMAGED as error:
                raise unreadable_error(file.path, error) from error
            if not count:
                break
            yield decoder.commit(count)
            self._note()
        if is_cut(decoder.unfinished):
            self.cut.append(file.path)
        yield decoder.feed(b"\n")  # a file may end without one; an empty line is nothing

    def _read_wrapped(self, file: _ReplayFile, unwrapper: Unwrapper) -> Iterator[list[Connect]]:
        """Any other form."""
        while True:
            try:
                data = file.reader.read(_CHUNK_BYTES)
            except DAMAGED as error:
                raise unreadable_error(file.path, error) from error
            if not data:
                break
            yield self._decoder.feed(unwrapper.feed(data))
            self._note()
        yield self._decoder.feed(unwrapper.finish())
        self._unwrapped_garbled += unwrapper.garbled

    def _bad(self) -> Counter[str]:
        """Records on the ports asked for that came to nothing, and should not have."""
        counters = self._decoder.counters
        return Counter(
            {
                "garbled": counters.garbled + self._decoder.overlong + self._unwrapped_garbled,
                "without their other half": counters.unpaired,
                "forged or doubled": counters.forged + counters.doubled,
            }
        )

    def _judge(self, file: _ReplayFile, bad: Counter[str], joined: int) -> None:
        """Name what was not read of a file."""
        unwrapper = file.unwrapper
        kinds = set(unwrapper.unreadable) if unwrapper else {MIXED} if self._survey.is_mixed else set()
        if joined:
            kinds.discard(JOURNAL_TEXT)  # the kernel's own lines are in the journal too
        if kinds:
            for kind in sorted(kinds):
                problem, use = UNREADABLE_FORMS[kind]
                self.problems.append(ReplayProblem(file=file.path, problem=problem, use=use))
        elif unwrapper is not None and not unwrapper.records:
            if not file.is_empty:
                self.problems.append(ReplayProblem(file=file.path, problem=NO_RECORD, use=USE_RAW))
        elif self._survey.lacks_addresses:
            self.problems.append(ReplayProblem(file=file.path, problem=NO_ADDRESS, use=USE_RAW))
        elif bad and not joined:
            told = ", ".join(f"{count:,} {what}" for what, count in bad.items() if count)
            problem = f"holds SMTP connects, but none that could be read ({told})"
            self.problems.append(ReplayProblem(file=file.path, problem=problem, use=USE_RAW))

    def _note(self) -> None:
        counters = self._decoder.counters
        self.stats.garbled = counters.garbled + self._decoder.overlong + self._unwrapped_garbled
        self.stats.lost = counters.unpaired
        self.stats.notes = {
            "forged": counters.forged,
            "doubled": counters.doubled,
            "repeats": counters.repeats,
            "probes": counters.probes,
            "duplicates": counters.duplicates,
            "others": counters.others,
        }
