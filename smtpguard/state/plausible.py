"""Whether a row of the state file can be true: it comes from a disk, and perhaps from an older, worse version. Pure.

A row that can't be is left out and counted, never put in force (THREATS 28): a limit of -5 in an allowance once ended
every guard at that user's next connection. Times are wall time in nanoseconds.
"""

from collections.abc import Iterable
from typing import Any, Protocol, TypeVar

from smtpguard.state.incident_row import IncidentRow
from smtpguard.state.rows import AllowanceRow, BlockRow, EscalationRow, SwitchRow, WindowRow

MAX_UID = 0xFFFF_FFFE
MAX_TIME_NS = (1 << 63) - 1
MAX_LEVEL = 1_000_000
MAX_RANGES = 4096
_MAX_COUNT = 1 << 48

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class ParseRow(Protocol[T_co]):
    """Makes something of a row."""

    def __call__(self, row: tuple[Any, ...], /) -> T_co:
        """What the row says; raises on what nothing can be made of."""
        ...


def keep_plausible(rows: Iterable[tuple[Any, ...]], parse: ParseRow[T]) -> tuple[tuple[T, ...], int]:
    """Rows as types, and how many were left out.

    Args:
        rows: As the file has them; each column may be anything.
        parse: Makes one of them; raises on what it can't be made of.
    """
    kept: list[T] = []
    dropped = 0
    for row in rows:
        try:
            made = parse(row)
            fine = is_plausible(made)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
            fine = False
        if fine:
            kept.append(made)
        else:
            dropped += 1
    return tuple(kept), dropped


def is_plausible(row: object) -> bool:
    """Whether all figures of a row are within their range."""
    match row:
        case BlockRow():
            return (
                _is_uid(row.uid, low=1)
                and _is_span(row.since_ns, row.until_ns)
                and row.kind in ("block", "throttle")
                and row.mode in ("enforce", "dry-run")
                and _is_in(row.level, 0, MAX_LEVEL)
                and (row.ports is None or (row.ports != () and all(_is_in(port, 1, 65_535) for port in row.ports)))
                and len(row.ranges) <= MAX_RANGES
                and all(_is_uid(first, low=1) and _is_in(count, 1, MAX_UID - first + 1) for first, count in row.ranges)
            )
        case AllowanceRow():
            limited = _is_in(row.max_count, 1, _MAX_COUNT) and _is_in(row.window_ns, 1, MAX_TIME_NS)
            free = row.max_count is None and row.window_ns is None
            return _is_uid(row.uid) and _is_span(row.since_ns, row.until_ns) and (limited or free)
        case SwitchRow():
            # The end is stored anew when the clock is set, the beginning is not: the end may come first.
            times = (row.since_ns, row.since_ns if row.until_ns is None else row.until_ns)
            return isinstance(row.name, str) and all(_is_in(time_ns, 0, MAX_TIME_NS) for time_ns in times)
        case EscalationRow():
            return _is_uid(row.uid) and _is_in(row.level, 0, MAX_LEVEL) and _is_in(row.last_ns, 0, MAX_TIME_NS)
        case WindowRow():
            return _is_uid(row.uid) and isinstance(row.data, bytes) and _is_in(row.offset_ns, -MAX_TIME_NS, MAX_TIME_NS)
        case IncidentRow():
            figures = (row.verdicts, row.connects, row.refused, row.peak_per_minute, row.destinations)
            return (
                _is_uid(row.uid)
                and _is_span(row.first_ns, row.last_ns)
                and all(_is_in(figure, 0, _MAX_COUNT) for figure in figures)
                and all(isinstance(rule, str) for rule in row.rules)
            )
        case _:
            return True


def _is_in(value: object, low: int, high: int) -> bool:
    return isinstance(value, int) and low <= value <= high


def _is_uid(value: object, *, low: int = 0) -> bool:
    return _is_in(value, low, MAX_UID)


def _is_span(since_ns: object, until_ns: object) -> bool:
    return _is_in(since_ns, 0, MAX_TIME_NS) and isinstance(since_ns, int) and _is_in(until_ns, since_ns, MAX_TIME_NS)
