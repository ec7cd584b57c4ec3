"""The figures of the state for `status`."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class StateStats:
    """The state as `status` shows it.

    Attributes:
        path: The file in use; None while there is none.
        size_bytes: What it holds.
        waiting: Rows on their way to it.
        commits, failures: Since the start.
        dropped: Rows given up, by class.
        error: The failure that lasts; None when all is well.
        notes: Files set aside, begun anew and so on, newest last.
        fresh: How often a file was begun in place of a lost one; when it rises, windows want to be put in full.
    """

    path: str | None
    size_bytes: int
    waiting: int
    commits: int
    failures: int
    dropped: dict[str, int]
    error: str | None
    notes: tuple[str, ...]
    fresh: int
