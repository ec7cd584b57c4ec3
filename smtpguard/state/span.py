"""Which part of the history is asked for, and what comes back of it."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from smtpguard.model import NS
from smtpguard.state.columns import to_name

MAX_ROWS = 10_000
"""No answer has more rows, whatever is asked for."""
BLIND_NS = 15 * NS
"""A pause in watching that is worth a word: a span is written every ten seconds."""
_FOREVER_NS = 2**63 - 1

By = Literal["address", "port", "script"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Which part of the history: `since_ns <= time < until_ns`, wall time; of one account or of all.

    Attributes:
        since_ns: Begin.
        until_ns: End.
        uid: Whose; None for everybody's.
        name: With `uid`: only what happened while the uid had this name, as numbers are used again. Alone: whoever was
            called so, in tables that have names.
        limit: At most so many rows, the newest or largest ones.
    """

    since_ns: int = 0
    until_ns: int = _FOREVER_NS
    uid: int | None = None
    name: str | None = None
    limit: int = 1000

    def where(self, column: str, *, has_name: bool = True, unit_ns: int = 1) -> tuple[str, list[int | bytes]]:
        """The condition and its parameters.

        Args:
            column: The column that holds the time; a constant.
            has_name: Whether the table has names.
            unit_ns: The column's unit in nanoseconds.
        """
        sql = f"{column} >= ? AND {column} < ?"
        parameters: list[int | bytes] = [self.since_ns // unit_ns, -(-self.until_ns // unit_ns)]
        if self.uid is not None:
            sql += " AND uid = ?"
            parameters.append(self.uid)
        if has_name and self.name is not None:
            sql += " AND name = ?"
            parameters.append(to_name(self.name))
        return sql, parameters

    @property
    def rows(self) -> int:
        """The limit, within bounds."""
        return max(0, min(self.limit, MAX_ROWS))


@dataclass(frozen=True, slots=True, kw_only=True)
class Total:
    """Figures summed up.

    Attributes:
        key: What they are for: a uid, an address, a port, a script, or a minute since the epoch.
        connects, refused: Attempts, and how many of them were refused.
        messages, recipients: Mail handed to the local server; 0 where it is not kept.
        users: How many accounts they come from; 0 where it was not asked.
    """

    key: int | bytes
    connects: int
    refused: int
    messages: int = 0
    recipients: int = 0
    users: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnTotal:
    """What a user connected from one of the host's own addresses, in whole hours.

    Attributes:
        uid: Whose.
        address: As the socket had it, 4 or 16 bytes: before any NAT, in a container the container's.
        connected, failed: What became of the connections.
        first_ns, last_ns: When that was known for the first and the last one.
    """

    uid: int
    address: bytes
    connected: int
    failed: int
    first_ns: int
    last_ns: int


def find_gaps(spans: Iterable[tuple[int, int]], since_ns: int, until_ns: int) -> Iterator[tuple[int, int]]:
    """From when to when nothing was watched.

    Args:
        spans: From when to when it was, in order.
        since_ns: Wall time from which gaps are looked for.
        until_ns: Until when.
    """
    edge_ns = since_ns
    for begin_ns, end_ns in [*spans, (until_ns, until_ns)]:
        if begin_ns - edge_ns > BLIND_NS:
            yield edge_ns, begin_ns
        edge_ns = max(edge_ns, end_ns)
