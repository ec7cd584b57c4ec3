"""Tables and lines, and how they fit a terminal. Elsewhere (a file, a pipe) nothing is wrapped, moved or shortened.

Where a table is too wide, moments lose what follows the minute, and columns move into a line of their own below the
row, as does the last column of a row that has no room for it. Only in a table a word that is longer than a whole line,
such as a path, is shortened, in its middle: its end says most. In other lines it may be what somebody is to type.
"""

import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TextIO

import click

GAP = "  "
INDENT = "    "
LEAST_WIDTH = 20
"""Of what calls itself narrower nobody reads anything."""
_LEAST_CELL = 8
_MINUTE = len("2026-02-18 13:39")
_ELLIPSIS = "..."
_SENTENCES, _PARTS = re.compile(r"(?<=\.) (?! )"), re.compile(r"(?<=;) (?! )")
_WORDS = re.compile(r"(?<! ) (?! )")
"""Several blanks in a row stay with their word: a path may have them."""
_NOTHING = frozenset({"", "-"})


def find_width(stream: TextIO | None = None) -> int | None:
    """Columns of the terminal that a stream is, stdout if not given; None where it is none, or does not know."""
    import os

    stream = sys.stdout if stream is None else stream
    if stream is None or not stream.isatty():  # none: closed before the start, as by `>&-`
        return None
    try:
        width = int(os.environ.get("COLUMNS", ""))
    except ValueError:
        width = 0
    if width <= 0:
        try:
            width = os.get_terminal_size(stream.fileno()).columns
        except (OSError, ValueError):
            return None
    return max(LEAST_WIDTH, width) if width > 0 else None  # a serial line says 0


def print_table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    moments: Sequence[str] = (),
    fold: Sequence[str] | None = None,
) -> None:
    """Print left-aligned columns, as `render_table` lays them out, no wider than the terminal."""
    for line in render_table(head, rows, moments=moments, fold=fold, width=find_width()):
        click.echo(line)


def print_lines(lines: Iterable[str]) -> None:
    """Print lines, those that are wider than the terminal as several."""
    width = find_width()
    for line in "\n".join(lines).split("\n"):
        click.echo(line if width is None else "\n".join(wrap_line(line, width, keeps_all=True)))


def render_table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    moments: Sequence[str] = (),
    fold: Sequence[str] | None = None,
    width: int | None = None,
) -> list[str]:
    """Left-aligned columns as lines; whatever a cell holds drives no terminal and leaves no line.

    Args:
        head: Names of the columns.
        rows: Their cells.
        moments: Columns of local times, which may end with the minute.
        fold: Columns that may move below the row, in this order; all but the first, from the right, if not given.
        width: Cells of the terminal; None for as wide as it is.
    """
    from smtpguard.text import render_visible

    rows = [[render_visible(cell) for cell in row] for row in rows]
    lines = _align([head, *rows])
    if width is None or all(count_cells(line) <= width for line in lines):
        return lines
    short = {at for at, name in enumerate(head) if name in moments}
    rows = [[cell[:_MINUTE] if at in short else cell for at, cell in enumerate(row)] for row in rows]
    order = head[-2:0:-1] if fold is None else fold
    below: list[int] = []
    for moved in ([], *([head.index(name)] for name in order if name in head)):
        below += moved
        kept = [at for at in range(len(head) - 1) if at not in below]
        frame = [[row[at] for at in kept] for row in (head, *rows)]
        if _measure(frame) + len(GAP) + count_cells(head[-1]) <= width:
            break
    below.sort()
    if _measure(frame) > width:
        frame = _squeeze(frame, width)
    lines = []
    for line, row in zip(_align(frame, is_padded=True), [head, *rows], strict=True):
        whole = f"{line}{GAP}{row[-1]}".rstrip()
        is_whole = count_cells(whole) <= width
        lines.append(whole if is_whole else line.rstrip())
        if row is not head:
            lines += _render_below(head, row, below if is_whole else [*below, len(head) - 1], width)
    return lines


def wrap_line(
    line: str, width: int, *, indent: str | None = None, keeps_all: bool = False, between: re.Pattern[str] = _SENTENCES
) -> list[str]:
    """A line as several that are not wider; a sentence that fits into one is not broken, as it may hold a command.

    Args:
        line: It.
        width: Cells of the terminal.
        indent: Of all lines but the first; four more than the line has if not given.
        keeps_all: Whether a word that is longer than a line goes on in the next one, and is not shortened: somebody may
            have to type it.
        between: What is between the pieces that stay whole.
    """
    if count_cells(line) <= width:
        return [line]
    own = line[: len(line) - len(line.lstrip(" "))]
    indent = (own + INDENT if indent is None else indent)[: width // 2]
    lines: list[str] = []
    current, is_empty = own[: width // 2], True
    for piece in _split(line.strip(" "), width - len(indent), between):
        room = width - count_cells(current) - (not is_empty)
        if count_cells(piece) > room and not is_empty:
            lines.append(current)
            current, is_empty, room = indent, True, width - len(indent)
        rest = piece if keeps_all else shorten(piece, room)
        cells = count_cells(rest)
        while cells > room:
            part = _take(rest, room)
            lines.append(current + part)
            cells -= count_cells(part)
            current, rest, room = indent, rest[len(part) :], width - len(indent)
        current += ("" if is_empty else " ") + rest
        is_empty = False
    return [*lines, current]


def shorten(text: str, room: int) -> str:
    """A text that is too long, without its middle: a third of what is left is its beginning.

    Args:
        text: It.
        room: Cells that there are.
    """
    if count_cells(text) <= room:
        return text
    rest = max(0, room - len(_ELLIPSIS))
    begin = _take(text, rest // 3)
    end = _take(text[::-1], rest - count_cells(begin))[::-1]
    return f"{begin}{_ELLIPSIS}{end}"


def count_cells(text: str) -> int:
    """How many cells of a terminal a text takes: East Asian letters two, marks that stand upon another one none."""
    if text.isascii():
        return len(text)
    import unicodedata

    wide = sum(unicodedata.east_asian_width(letter) in "WF" for letter in text)
    return len(text) + wide - sum(unicodedata.category(letter) in ("Mn", "Me", "Cf") for letter in text)


def _split(text: str, room: int, between: re.Pattern[str]) -> Iterator[str]:
    """Pieces that fit into a line, words of those that don't."""
    for piece in between.split(text):
        if count_cells(piece) <= room:
            yield piece
        else:
            yield from _WORDS.split(piece)


def _render_below(head: Sequence[str], row: Sequence[str], below: Sequence[int], width: int) -> list[str]:
    """What stands below a row: all in one line where it fits, else what may be long for itself."""
    told = [at for at in below if row[at] not in _NOTHING]
    if told == [len(head) - 1]:  # its name stands above it
        return wrap_line(INDENT + row[-1], width, indent=INDENT)
    texts = [f"{head[at].lower()}: {row[at]}" for at in told]
    whole = INDENT + "; ".join(texts)
    if not texts or count_cells(whole) <= width:
        return [whole] if texts else []
    return [
        *wrap_line(INDENT + "; ".join(texts[:-1]), width, indent=INDENT, between=_PARTS),
        *wrap_line(INDENT + texts[-1], width, indent=INDENT),
    ]


def _align(rows: Sequence[Sequence[str]], *, is_padded: bool = False) -> list[str]:
    widths = _list_widths(rows)
    padded = ([_pad(cell, width) for cell, width in zip(row, widths, strict=True)] for row in rows)
    lines = [GAP.join(cells) for cells in padded]
    return lines if is_padded else [line.rstrip() for line in lines]


def _pad(cell: str, width: int) -> str:
    return cell + " " * (width - count_cells(cell))


def _squeeze(rows: list[list[str]], width: int) -> list[list[str]]:
    """The widest columns narrower, until all fit; cells that don't lose their middle."""
    widths = _list_widths(rows)
    gaps = len(GAP) * (len(widths) - 1)
    while sum(widths) + gaps > width and max(widths) > _LEAST_CELL:
        widths[widths.index(max(widths))] -= 1
    return [[shorten(cell, room) for cell, room in zip(row, widths, strict=True)] for row in rows]


def _measure(rows: Sequence[Sequence[str]]) -> int:
    widths = _list_widths(rows)
    return sum(widths) + len(GAP) * (len(widths) - 1)


def _list_widths(rows: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(count_cells, column)) for column in zip(*rows, strict=True)]


def _take(text: str, room: int) -> str:
    """As many letters as fit."""
    taken = 0
    for at, letter in enumerate(text):
        taken += count_cells(letter)
        if taken > room:
            return text[:at]
    return text
