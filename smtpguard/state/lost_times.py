"""What was lost, and when the guard was switched off, read back: for `report` and `why`. Sums of whole minutes."""

from smtpguard.settings import MINUTE_NS
from smtpguard.state.columns import MARK, to_ns
from smtpguard.state.history import History
from smtpguard.state.span import MAX_ROWS, Span

SEEN_BY_NOBODY = ": events"
"""How a kind of loss ends of which nobody knows whose it was, nor whether it was refused."""


def sum_losses(history: History, span: Span) -> tuple[dict[str, int], int | None]:
    """How much of each kind was lost, and since when that is written down; None for never.

    Args:
        history: The file.
        span: When; minutes that it touches count whole.
    """
    where, parameters = span.where("minute", has_name=False, unit_ns=MINUTE_NS)
    sql = f"SELECT kind, sum(count) FROM losses WHERE {where} AND kind <> ? GROUP BY kind ORDER BY kind LIMIT ?"  # noqa: S608
    counts: dict[str, int] = dict(history.select(sql, *parameters, MARK, span.rows))
    (begin,) = next(iter(history.select("SELECT min(minute) FROM losses")))
    return counts, to_ns(begin, MINUTE_NS)


def find_off(history: History, since_ns: int, until_ns: int) -> list[tuple[int, int]]:
    """From when to when the guard was switched off, in order, within a span of time.

    Args:
        history: The file.
        since_ns: Its begin, wall time.
        until_ns: Its end.
    """
    switch = "SELECT event, time_ns, until_ns FROM changes WHERE event IN ('off', 'on') AND"
    before = list(history.select(f"{switch} time_ns < ? ORDER BY time_ns DESC, id DESC LIMIT 1", since_ns))
    during = history.select(
        f"{switch} time_ns >= ? AND time_ns < ? ORDER BY time_ns, id LIMIT ?", since_ns, until_ns, MAX_ROWS
    )
    spans: list[tuple[int, int]] = []
    begun: tuple[int, int] | None = None
    for event, time_ns, end_ns in [*before, *during, ("on", until_ns, None)]:
        if begun is not None:
            spans.append((max(begun[0], since_ns), min(begun[1], time_ns, until_ns)))
        begun = (time_ns, until_ns if end_ns is None else end_ns) if event == "off" else None
    return [(first_ns, last_ns) for first_ns, last_ns in spans if first_ns < last_ns]
