"""What commands say on stderr: on a terminal no wider than it. Elsewhere (a file, a pipe) each line is what it was.

Lines are broken between sentences, then between the parts of one, then between words; never within a path, nor within
a command that somebody is to copy. Either is longer than a line sooner than that: then the terminal goes on below.
"""

import re
import sys
from collections.abc import Iterator, Sequence

import click

from smtpguard.cli.tables import INDENT, count_cells, find_width
from smtpguard.errors import GuardError

_BETWEEN = tuple(map(re.compile, (r"(?<=\.) (?! )", r"(?<=;) (?! )|(?<! ) (?=\()", r"(?<=,) (?! )", r"(?<=:) (?! )")))
"""Sentences, their parts, what is told one after the other, and what stands before a colon."""
_WORDS = re.compile(r"(?<! ) (?! )")
_QUOTED = re.compile(r"`[^`]*`|\"[^\"]*\"|(?<!\w)'[^']*'(?!\w)")
_COMMAND = re.compile(
    r"\(?(?:or )?(?:smtpguard|systemctl|journalctl|fail2ban-client|modprobe|mount|chown|chmod|install|apt|apt-get|dnf"
    r"|auditctl|openssl|zstd|logrotate|/\S+/s?bin/\S+) \S"
)
"""How a part begins that is to be typed."""
_FIXED = "\0"
"""A blank at which no line ends."""


def print_message(text: str, *whole: str) -> None:
    """Print lines on stderr; on a terminal those that are wider than it as several.

    Args:
        text: They.
        whole: What of them is not to be broken whatever it holds: paths that somebody else has named.
    """
    _print(text, whole)


def print_error(error: GuardError, *, begin: str = "smtpguard: ", end: str = "") -> None:
    """The same for an error; what it calls its place stays whole.

    Args:
        error: It.
        begin: What stands before it.
        end: What stands behind it.
    """
    _print(f"{begin}{error}{end}", () if error.where is None else (error.where,))


def wrap_message(line: str, width: int, whole: Sequence[str] = ()) -> list[str]:
    """A line as several that are not wider, but where a path or a command is.

    Args:
        line: It.
        width: Cells of the terminal.
        whole: What is not to be broken beside what is quoted, such as a path with blanks.
    """
    if count_cells(line) <= width:
        return [line]
    for text in whole:
        line = line.replace(text, text.replace(" ", _FIXED))
    line = _QUOTED.sub(lambda found: found[0].replace(" ", _FIXED), line)
    indent = INDENT[: width // 5]
    lines: list[str] = []
    current = ""
    for piece in _split(line, width - len(indent), (*_BETWEEN, _WORDS)):
        if current.strip() and count_cells(current) + 1 + count_cells(piece) > width:
            lines.append(current)
            current = indent + piece
        else:
            current += f" {piece}" if current.strip() else piece
    return [found.replace(_FIXED, " ") for found in (*lines, current)]


def wrap_usage(error: click.UsageError) -> click.UsageError:
    """A usage error that shows itself so; one that shows a help text stays as it is."""
    return _Wrapped(error) if type(error).show is click.UsageError.show else error


class _Wrapped(click.UsageError):
    """Shows what another one says, behind click's `Error: `."""

    _BEGIN = "Error: "

    def __init__(self, error: click.UsageError) -> None:
        super().__init__(error.message, error.ctx)
        self._text = error.format_message()

    def format_message(self) -> str:
        """As click asks for it."""
        width = find_width(sys.stderr)
        if width is None:
            return self._text
        return _join(f"{self._BEGIN}{self._text}", width, ()).removeprefix(self._BEGIN)


def _print(text: str, whole: Sequence[str]) -> None:
    width = find_width(sys.stderr)
    click.echo(text if width is None else _join(text, width, whole), err=True)


def _join(text: str, width: int, whole: Sequence[str]) -> str:
    return "\n".join(piece for line in text.split("\n") for piece in wrap_message(line, width, whole))


def _split(text: str, room: int, between: Sequence[re.Pattern[str]]) -> Iterator[str]:
    """Pieces that fit into a line, parts of those that don't; what is to be typed stays one."""
    is_whole = count_cells(text) <= room or not between or (len(between) == 1 and _COMMAND.match(text))
    if is_whole:
        yield text
        return
    for piece in between[0].split(text):
        yield from _split(piece, room, between[1:])
