"""Lines of the screen as pieces of text in named styles: what a terminal shows of it is decided in palette.py. Pure."""

from collections.abc import Iterable
from typing import NamedTuple

TICKS = " ▁▂▃▄▅▆▇█"
"""Blocks of eighths, one column wide everywhere: U+2581 to U+2588."""
_FINE = frozenset(map(chr, range(0x20, 0x7F))) | frozenset(TICKS)


class Piece(NamedTuple):
    """Some text in one style.

    Attributes:
        text: One column a character.
        style: A name of palette.py.
    """

    text: str
    style: str = "plain"


Line = list[Piece]


def clean(text: str) -> str:
    """Text with nothing in it but what is one column wide and drives no terminal; all else becomes `?`."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(char if char in _FINE else "?" for char in text)


def cut(text: str, width: int, *, keeps_end: bool = False) -> str:
    """Text of at most that many columns; of paths the end says more.

    Args:
        text: Clean text.
        width: Columns.
        keeps_end: Whether to cut at its beginning.
    """
    if len(text) <= width:
        return text
    if width < 8:
        return text[-width:] if keeps_end and width else text[:width]
    return f"...{text[3 - width :]}" if keeps_end else f"{text[: width - 3]}..."


def fill(spans: Iterable[Piece], width: int, style: str = "plain") -> Line:
    """A line of exactly that many columns.

    Args:
        spans: Its beginning.
        width: Columns.
        style: Of the rest.
    """
    line: Line = []
    left = width
    for span in spans:
        if left <= 0:
            break
        text = clean(span.text)[:left]
        line.append(Piece(text, span.style))
        left -= len(text)
    if left > 0:
        line.append(Piece(" " * left, style))
    return line


def join_ends(left: Iterable[Piece], right: Iterable[Piece], width: int, style: str = "plain") -> Line:
    """A line with something at both of its ends; the right one is left out where there is no room."""
    first, last = list(left), list(right)
    room = width - sum(len(span.text) for span in (*first, *last))
    if room < 1:
        return fill(first, width, style)
    return fill([*first, Piece(" " * room, style), *last], width, style)


def draw_ticks(values: Iterable[int]) -> str:
    """Numbers as a row of blocks, the highest of them full; nothing at all is a space."""
    numbers = list(values)
    top = max(numbers, default=0)
    return "".join(TICKS[-(-number * 8 // top) if number else 0] for number in numbers)
