"""Windows as plain data and back, so that a restart loses no more counting than since the last export.

A subject's windows are cut into parts, each with a name and bytes of its own: attempts in segments of 512, so that an
export of a busy user is some kilobytes however long his windows are. Whoever stores them needs to know no more than to
keep the latest bytes of each (subject, part), and to forget a part whose bytes are None. Event times are written as
they are: the storer keeps the offset to wall time beside them and gives the difference back.
"""

import json
import struct
import sys
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, Protocol

from smtpguard.model import Subject
from smtpguard.policy.byte_windows import ByteWindows
from smtpguard.policy.counters import Counter
from smtpguard.policy.escalation import Record
from smtpguard.policy.rule_windows import RuleWindows
from smtpguard.policy.subject_state import MODES, SubjectState
from smtpguard.policy.windows import NEVER, KeyTable, Lane

SEGMENT = 512
"""Attempts in a part: 4 kB."""
_HEAD = struct.Struct("<q")
_KEY = struct.Struct("<qB")
_STATE = "s"


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


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPart:
    """A part that comes back.

    Attributes:
        part: As it was exported.
        shift_ns: What has to be added to its event times (a reboot, a clock that was set).
    """

    part: WindowPart
    shift_ns: int = 0


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
    for stream, book in _streams(watched):
        if isinstance(book, ByteWindows):
            for volume in book.counters:
                if volume.times:
                    data = _HEAD.pack(len(volume.times)) + _to_bytes(volume.times) + _to_bytes(volume.totals)
                    yield f"{stream}/{volume.rule.window_ns}/{volume.rule.name}", hash(data), partial(bytes, data)
            continue
        for port, lane in book.lanes.items():
            if lane.disturbed:
                lane.disturbed = False
                for name in [name for name in watched.saved if name.startswith(f"{stream}/t/{port}/")]:
                    watched.saved[name] = None
            total = lane.base + len(lane.times)
            for number in range(lane.base // SEGMENT, -(-total // SEGMENT)):
                first, last = max(number * SEGMENT, lane.base), min((number + 1) * SEGMENT, total)
                yield f"{stream}/t/{port}/{number}", last, partial(_segment, lane, first, last)
        for (whole, ports), table in book.tables.items():
            if table.keys:
                data = b"".join(_KEY.pack(last, len(key)) + key for key, last in table.keys.items())
                yield f"{stream}/k/{int(whole)}/{_ports_name(ports)}", hash(data), partial(bytes, data)
    if watched.windows() or watched.records or watched.seen:
        changes = watched.changes + sum(book.changes for book in (*watched.books, *watched.failures))
        yield _STATE, changes, partial(_dump_state, watched)


def _segment(lane: Lane, first: int, last: int) -> bytes:
    return _HEAD.pack(first) + _to_bytes(lane.times[first - lane.base : last - lane.base])


def _streams(watched: SubjectState) -> Iterator[tuple[str, RuleWindows | ByteWindows]]:
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
        for stream, book in _streams(watched)
        for counter in book.counters
    ]
    state = {
        "name": watched.account.name,
        "seen": {str(port): last_ns for port, last_ns in watched.seen.items()},
        "records": {mode: list(record) for mode, record in watched.records.items()},
        "floors": {
            stream: _known(book.floor_ns) for stream, book in _streams(watched) if isinstance(book, RuleWindows)
        },
        "counters": counters,
    }
    return json.dumps(state, separators=(",", ":")).encode()


def restore_parts(watched: SubjectState, stored: Iterable[StoredPart], now_ns: int) -> tuple[int, list[str]]:
    """Put the parts of one subject back. Windows of a mode that was not stored take those of the other.

    Args:
        watched: The subject, with rules and without windows.
        stored: Its parts.
        now_ns: Event time. What would lie in the future is left out.

    Returns:
        How many parts were no good, and the names of those that belong to nothing any more.
    """
    items = {item.part.part: item for item in stored}
    modes = {tuple(name.split("/", 2)[:2]) for name in items}
    try:
        state = json.loads(items[_STATE].part.data or b"") if _STATE in items else {"name": None}
        owner = state["name"]
    except (ValueError, TypeError, KeyError):
        return 1, list(items)  # without it nobody knows what was emptied
    if not watched.account.may_be(owner):
        return 0, list(items)  # the number was given to somebody else
    bad = 0
    useless: list[str] = []
    for name in sorted(items, key=lambda name: (name == _STATE, _order(name))):
        data, shift_ns = items[name].part.data or b"", items[name].shift_ns
        used = False
        try:
            if name == _STATE:
                _restore_state(watched, state, shift_ns, now_ns)
                used = True
            else:
                kind, mode, rest = name.split("/", 2)
                for stream, book in _streams(watched):
                    if stream[0] == kind and (book.mode == mode or (kind, book.mode) not in modes):
                        used |= _restore_window(book, rest, data, shift_ns, now_ns)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, struct.error):
            bad += 1
        if used:
            watched.saved[name] = None
        else:
            useless.append(name)
    for _, book in _streams(watched):
        if isinstance(book, RuleWindows):
            book.distrust()
    return bad, useless


def _restore_state(watched: SubjectState, state: dict[str, Any], shift_ns: int, now_ns: int) -> None:
    for port, last_ns in state["seen"].items():
        watched.seen[int(port)] = max(min(int(last_ns) + shift_ns, now_ns), watched.seen.get(int(port), NEVER))
    for mode in MODES:
        if mode in state["records"]:
            blocks, until_ns = state["records"][mode]
            watched.records[mode] = Record(int(blocks), int(until_ns) + shift_ns)

    def time_of(mark: int | None) -> int:
        return NEVER if mark is None else min(int(mark) + shift_ns, now_ns)

    floors, rows = state["floors"], state["counters"]
    for stream, book in _streams(watched):
        other = f"{stream[0]}/{'dry-run' if book.mode == 'enforce' else 'enforce'}"
        if isinstance(book, RuleWindows):
            book.floor_ns = max(book.floor_ns, time_of(floors.get(stream, floors.get(other))))
        marks_of = {tuple(key): marks for mode in (other, stream) for at, *key, marks in rows if at == mode}
        for counter in book.counters:
            marks = marks_of.get(counter.identity())
            if marks is None:
                counter.empty(now_ns)  # the rule is new
                continue
            floor_ns, told_ns, fresh_ns = map(time_of, marks)
            if floor_ns != NEVER:
                counter.empty(floor_ns)
            counter.told_ns = told_ns
            if isinstance(counter, Counter):
                counter.fresh_ns = fresh_ns


def _restore_window(book: RuleWindows | ByteWindows, name: str, data: bytes, shift_ns: int, now_ns: int) -> bool:
    """Put one part back; False if it belongs to nothing."""
    what, rest = name.split("/", 1)
    if isinstance(book, ByteWindows):
        return _restore_volume(book, int(what), rest, data, shift_ns, now_ns)
    place, tail = rest.split("/")
    if what == "t":
        port = int(place)
        if not book.plan.of_port.get(port):
            return False
        first = _HEAD.unpack_from(data)[0]
        if first // SEGMENT != int(tail):
            raise ValueError(f"segment {tail} begins at {first}")
        _append(book, book.open_lane(port), first, _from_bytes(data[_HEAD.size :]), shift_ns, now_ns)
        return True
    for key in book.plan.tables:
        if (str(int(key[0])), _ports_name(key[1])) == (place, tail):
            _fill(book, book.open_table(key), data, shift_ns, now_ns)
            return True
    return False


def _append(book: RuleWindows, lane: Lane, first: int, times: "array[int]", shift_ns: int, now_ns: int) -> None:
    if not lane.times:
        lane.base = first
    newest_ns = lane.times[-1] if lane.times else NEVER
    for time_ns in times:
        if newest_ns <= time_ns + shift_ns <= now_ns:
            newest_ns = time_ns + shift_ns
            book.put_back(lane, newest_ns)


def _fill(book: RuleWindows, table: KeyTable, data: bytes, shift_ns: int, now_ns: int) -> None:
    offset = 0
    while offset < len(data):
        last_ns, size = _KEY.unpack_from(data, offset)
        offset += _KEY.size
        key = data[offset : offset + size]
        offset += size
        if size not in {3, 4, 6, 16} or len(key) != size:
            raise ValueError(f"key of {len(key)} bytes")
        if last_ns + shift_ns <= now_ns:
            book.put_back_key(table, key, last_ns + shift_ns)


def _restore_volume(book: ByteWindows, window_ns: int, rule: str, data: bytes, shift_ns: int, now_ns: int) -> bool:
    volume = next((v for v in book.counters if (v.rule.name, v.rule.window_ns) == (rule, window_ns)), None)
    if volume is None:
        return False
    many = _HEAD.unpack_from(data)[0]
    numbers = _from_bytes(data[_HEAD.size :])
    if len(numbers) != 2 * many or not _rises(numbers[:many]) or not _rises(numbers[many:]):
        raise ValueError("steps without order")
    volume.times = array("q", [min(time_ns + shift_ns, now_ns) for time_ns in numbers[:many]])
    volume.totals = numbers[many:]
    return True


def _rises(numbers: "array[int]") -> bool:
    return all(a <= b for a, b in pairwise(numbers))


def _to_bytes(numbers: "array[int]") -> bytes:
    if sys.byteorder == "big":
        numbers = array("q", numbers)
        numbers.byteswap()
    return numbers.tobytes()


def _from_bytes(data: bytes) -> "array[int]":
    numbers = array("q")
    numbers.frombytes(data)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers


def _known(time_ns: int) -> int | None:
    return None if time_ns == NEVER else time_ns


def _ports_name(ports: Iterable[int]) -> str:
    return "+".join(str(port) for port in sorted(ports))


def _order(name: str) -> tuple[int, str]:
    """Segments of a lane in their order."""
    tail = name.rpartition("/")[2]
    return (int(tail) if tail.isdigit() else 0, name)
