"""From when to when a uid was one account's, as far as events tell: numbers are given to others. Pure."""

from collections.abc import Collection, Iterable

from smtpguard.state.rows import ChangeRow, VerdictRow


def find_tenure(
    events: Iterable[VerdictRow | ChangeRow], names: Collection[str], *, is_living: bool
) -> tuple[int, int | None]:
    """Between which moments what a uid did was this account's; None where it is so still.

    Args:
        events: Of the uid, whatever it was called then.
        names: What the account is called. Empty: not known, so that all is taken for its own.
        is_living: Whether the uid is this account's now.
    """
    rows = [(row.time_ns, row.name in names) for row in events if row.name]
    if not names or not rows:
        return 0, None
    others = [time_ns for time_ns, is_own in rows if not is_own]
    if is_living:
        return max(others, default=0), None
    last_ns = max((time_ns for time_ns, is_own in rows if is_own), default=0)
    return (
        max((time_ns for time_ns in others if time_ns <= last_ns), default=0),
        min((time_ns for time_ns in others if time_ns > last_ns), default=None),
    )
