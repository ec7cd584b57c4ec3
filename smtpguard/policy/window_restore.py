"""Puts back into windows what an earlier run exported, as far as it is plausible and the rules are what they were."""

import json
import struct
import sys
from array import array
from collections.abc import Container, Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from smtpguard.policy.byte_windows import ByteWindows
from smtpguard.policy.counters import Counter
from smtpguard.policy.escalation import Record
from smtpguard.policy.rule_windows import RuleWindows
from smtpguard.policy.subject_state import MODES, SubjectState
from smtpguard.policy.window_export import HEAD, KEY, SEGMENT, STATE, WindowPart, ports_name, streams_of
from smtpguard.policy.windows import NEVER, KeyTable, Lane


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPart:
    """A part that comes back.

    Attributes:
        part: As it was exported.
        shift_ns: What has to be added to its event times (a reboot, a clock that was set).
    """

    part: WindowPart
    shift_ns: int = 0


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
    try:
        state = json.loads(items[STATE].part.data or b"") if STATE in items else {"name": None}
        owner = state["name"]
    except (ValueError, TypeError, KeyError):
        return 1, list(items)  # without it nobody knows what was emptied
    if not watched.account.may_be(owner):
        return 0, list(items)  # the number was given to somebody else
    floors = state.get("floors")
    # Windows that were there and empty stay so; those of a mode that was not have what the other one had.
    modes = {tuple(str(name).split("/", 2)[:2]) for name in (*items, *(floors if isinstance(floors, dict) else ()))}
    bad = 0
    useless: list[str] = []
    for name in sorted(items, key=lambda name: (name == STATE, _order(name))):
        data, shift_ns = items[name].part.data or b"", items[name].shift_ns
        used = False
        try:
            if name == STATE:
                _restore_state(watched, state, shift_ns, now_ns)
                used = True
            else:
                kind, mode, rest = name.split("/", 2)
                for stream, book in streams_of(watched):
                    if stream[0] == kind and (book.mode == mode or (kind, book.mode) not in modes):
                        used |= _restore_window(book, rest, data, shift_ns, now_ns)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, struct.error):
            bad += 1
        if used:
            watched.saved[name] = None
        else:
            useless.append(name)
    for _, book in streams_of(watched):
        if isinstance(book, RuleWindows):
            book.distrust()
    return bad, useless


def _restore_state(watched: SubjectState, state: dict[str, Any], shift_ns: int, now_ns: int) -> None:
    for port, last_ns in state["seen"].items():
        watched.seen[int(port)] = max(min(int(last_ns) + shift_ns, now_ns), watched.seen.get(int(port), NEVER))
    for mode in MODES:
        if mode in state["records"]:
            blocks, until_ns = state["records"][mode]
            watched.records = {**watched.records, mode: Record(int(blocks), int(until_ns) + shift_ns)}

    def time_of(mark: int | None) -> int:
        return NEVER if mark is None else min(int(mark) + shift_ns, now_ns)

    floors, rows = state["floors"], state["counters"]
    for stream, book in streams_of(watched):
        other = f"{stream[0]}/{'dry-run' if book.mode == 'enforce' else 'enforce'}"
        if isinstance(book, RuleWindows):
            book.floor_ns = max(book.floor_ns, time_of(floors.get(stream, floors.get(other))))
        marks_of = {tuple(key): marks for mode in (other, stream) for at, *key, marks in rows if at == mode}
        if isinstance(book, RuleWindows):
            _open_lanes(book, marks_of)
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


def _open_lanes(book: RuleWindows, known: Container[tuple[object, ...]]) -> None:
    """Open lanes that hold nothing, as each attempt there was refused, and of whose rules something is known."""
    for port, items in book.plan.of_port.items():
        if items and all((item.rule.name, item.rule.count, item.rule.window_ns) in known for item in items):
            book.open_lane(port)


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
        first = HEAD.unpack_from(data)[0]
        if first // SEGMENT != int(tail):
            raise ValueError(f"segment {tail} begins at {first}")
        _append(book, book.open_lane(port), first, _from_bytes(data[HEAD.size :]), shift_ns, now_ns)
        return True
    for key in book.plan.tables:
        if (str(int(key[0])), ports_name(key[1])) == (place, tail):
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
        last_ns, size = KEY.unpack_from(data, offset)
        offset += KEY.size
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
    many = HEAD.unpack_from(data)[0]
    numbers = _from_bytes(data[HEAD.size :])
    if len(numbers) != 2 * many or not _rises(numbers[:many]) or not _rises(numbers[many:]):
        raise ValueError("steps without order")
    volume.times = array("q", [min(time_ns + shift_ns, now_ns) for time_ns in numbers[:many]])
    volume.totals = numbers[many:]
    return True


def _rises(numbers: "array[int]") -> bool:
    return all(a <= b for a, b in pairwise(numbers))


def _from_bytes(data: bytes) -> "array[int]":
    numbers = array("q")
    numbers.frombytes(data)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers


def _order(name: str) -> tuple[int, str]:
    """Segments of a lane in their order."""
    tail = name.rpartition("/")[2]
    return (int(tail) if tail.isdigit() else 0, name)
