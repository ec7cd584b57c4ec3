"""Windows as plain data and back, so that a restart loses no more counting than since the last export.

A subject's windows are cut into parts, each with a name and bytes of its own: attempts in segments of 512, so that an
export of a busy user is some kilobytes however long its windows are. Whoever stores them needs to know no more than to
keep the latest bytes of each (subject, part), and to forget a part whose bytes are None. Event times are written as
they are: the storer keeps the offset to wall time beside them and gives the difference back.
"""

import json
import struct
import sys
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Protocol

from smtpguard.model import Subject
from smtpguard.policy.byte_windows import ByteWindows
from smtpguard.policy.compiled_rules import TableKey
from smtpguard.policy.rule_windows import RuleWindows
from smtpguard.policy.subject_state import SubjectState
from smtpguard.policy.windows import NEVER, Lane

SEGMENT = 512
"""Attempts in a part: 4 kB."""
HEAD = struct.Struct("<q")
KEY = struct.Struct("<qB")
STATE = "s"
MAX_NAMES = 256
"""Names of parts that are remembered, of each kind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowPart:
    """A piece of a subject's windows.

    Attributes:
        subject: Whose.
        part: Which piece; opaque, printable ASCII without blanks.
        data: Its bytes; None if there is no such piece any more.
    """

    subject: Subject
    part: str
    data: bytes | None


def export_parts(watched: SubjectState) -> list[WindowPart]:
    """The parts that changed since the last call, and those that are gone."""
    parts: list[WindowPart] = []
    current: set[str] = set()
    for name, mark, data in _current(watched):
        current.add(name)
        if watched.saved.get(name) != mark:
            watched.saved[name] = mark
            parts.append(WindowPart(subject=watched.subject, part=name, data=data()))
    for name in watched.saved.keys() - current:
        del watched.saved[name]
        parts.append(WindowPart(subject=watched.subject, part=name, data=None))
    return parts


class _RenderPart(Protocol):
    def __call__(self) -> bytes: ...


def _current(watched: SubjectState) -> Iterator[tuple[str, int, _RenderPart]]:
    """Each part as it is now: name, a mark that changes with it, and what makes its bytes."""
    for stream, book in streams_of(watched):
        if isinstance(book, ByteWindows):
            for volume in book.counters:
                if volume.times:
                    data = HEAD.pack(len(volume.times)) + _to_bytes(volume.times) + _to_bytes(volume.totals)
                    yield (
                        _volume_part(stream, volume.rule.window_ns, volume.rule.name),
                        hash(data),
                        partial(bytes, data),
                    )
            continue
        for lane in book.lanes:
            if lane.disturbed:
                lane.disturbed = False
                for name in [name for name in watched.saved if name.startswith(f"{stream}/t/{lane.port}/")]:
                    watched.saved[name] = None
            total = lane.base + len(lane.times)
            for number in range(lane.base // SEGMENT, -(-total // SEGMENT)):
                first, last = max(number * SEGMENT, lane.base), min((number + 1) * SEGMENT, total)
                yield _lane_part(stream, lane.port, number), last, partial(_segment, lane, first, last)
        for table in book.tables:
            if table.keys:
                data = b"".join(KEY.pack(last, len(key)) + key for key, last in table.keys.items())
                yield _table_part(stream, table.place), hash(data), partial(bytes, data)
    if watched.windows() or watched.records or watched.seen:
        changes = watched.changes + sum(book.changes for book in (*watched.books, *watched.failures))
        yield STATE, changes, partial(_dump_state, watched)


# A thousand users have parts of the same few names, and each keeps those of theirs: one object for all of them.


@lru_cache(maxsize=MAX_NAMES)
def _lane_part(stream: str, port: int, number: int) -> str:
    return f"{stream}/t/{port}/{number}"


@lru_cache(maxsize=MAX_NAMES)
def _table_part(stream: str, place: TableKey) -> str:
    return f"{stream}/k/{int(place[0])}/{ports_name(place[1])}"


@lru_cache(maxsize=MAX_NAMES)
def _volume_part(stream: str, window_ns: int, rule: str) -> str:
    return f"{stream}/{window_ns}/{rule}"


def _segment(lane: Lane, first: int, last: int) -> bytes:
    return HEAD.pack(first) + _to_bytes(lane.times[first - lane.base : last - lane.base])


def streams_of(watched: SubjectState) -> Iterator[tuple[str, RuleWindows | ByteWindows]]:
    """All windows with the prefix of their parts."""
    for kind, books in (("a", watched.books), ("f", watched.failures), ("v", watched.volumes)):
        for book in books:
            yield f"{kind}/{book.mode}", book


def _dump_state(watched: SubjectState) -> bytes:
    counters = [
        [
            stream,
            *counter.identity(),
            [_known(counter.floor_ns), _known(counter.told_ns), _known(getattr(counter, "fresh_ns", NEVER))],
        ]
        for stream, book in streams_of(watched)
        for counter in book.counters
    ]
    state = {
        "name": watched.account.name,
        "seen": {str(port): last_ns for port, last_ns in watched.seen.items()},
        "records": {mode: list(record) for mode, record in watched.records.items()},
        "floors": {
            stream: _known(book.floor_ns) for stream, book in streams_of(watched) if isinstance(book, RuleWindows)
        },
        "counters": counters,
    }
    return json.dumps(state, separators=(",", ":")).encode()


def _to_bytes(numbers: "array[int]") -> bytes:
    if sys.byteorder == "big":
        numbers = array("q", numbers)
        numbers.byteswap()
    return numbers.tobytes()


def ports_name(ports: Iterable[int]) -> str:
    """How some ports are called in what is stored."""
    """How some ports are called in what is stored."""
    return "+".join(str(port) for port in sorted(ports))


def _known(time_ns: int) -> int | None:
    return None if time_ns == NEVER else time_ns
