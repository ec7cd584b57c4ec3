"""Columns of a list, and how they share the width there is. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

GAP = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column.

    Attributes:
        title: Its head.
        least: Columns of the terminal that it needs to say anything.
        most: What it can use; the rest is shared among the others.
        steps: Widths beyond `least` that say more; what lies between them does not.
        is_right: Whether it holds numbers.
        keeps_end: Whether the end of a long text says more than its beginning.
    """

    title: str
    least: int
    most: int = 0
    steps: tuple[int, ...] = ()
    is_right: bool = False
    keeps_end: bool = False


@dataclass(frozen=True, slots=True)
class Placed:
    """A column that is shown.

    Attributes:
        index: Which it is.
        at, width: Where.
    """

    index: int
    at: int
    width: int


def place_columns(columns: Sequence[Column], width: int, *, pinned: int, shift: int) -> list[Placed]:
    """Which columns are shown, and how wide.

    Args:
        columns: All of them.
        width: Of the list.
        pinned: How many of the first are shown always.
        shift: How many of the others were moved out of sight, on the left.
    """
    wanted = [*range(pinned), *range(min(pinned + shift, len(columns) - 1), len(columns))]
    shown: list[int] = []
    used = 0
    for index in wanted:
        need = columns[index].least + (GAP if shown else 0)
        if shown and used + need > width:
            break
        shown.append(index)
        used += need
    widths = {index: columns[index].least for index in shown}
    extra = max(0, width - used)
    for index in shown:
        column = columns[index]
        more = min(extra, max(0, column.most - column.least))
        more = max([more, *(step - column.least for step in column.steps if step - column.least <= extra)])
        widths[index] += more
        extra -= more
    widths[shown[-1]] += extra
    placed = []
    at = 0
    for index in shown:
        placed.append(Placed(index, at, min(widths[index], width - at)))
        at += widths[index] + GAP
    return placed
