"""Lists as CSV: one line a row, printable, and no cell begins a formula in whatever program it is opened."""

import re
from collections.abc import Iterable, Mapping, Sequence

_BEGINS = re.compile(r"(^|[;|,])( *)(?=[=+\-@])")
"""Where a formula could begin: a program that takes another sign than the comma for the separator splits there, too."""
MAX_CELL = 4096


def escape_cell(value: object) -> str:
    """A cell of CSV: one line, printable, and no formula wherever it is opened."""
    from smtpguard.text import render_words

    if value is None:
        return ""
    if isinstance(value, list):
        value = " ".join(map(str, value))
    if isinstance(value, int | float):
        return str(value)
    text = render_words(str(value), max_bytes=MAX_CELL)
    text = f"'{text}" if text[:1] == " " else text
    return _BEGINS.sub(r"\1\2'", text)


def render_csv(columns: Sequence[str], items: Iterable[Mapping[str, object]], *, head: bool) -> str:
    """Rows as CSV.

    Args:
        columns: Their fields, in order.
        items: The rows; a field that one has not is empty.
        head: Whether the names of the columns come first.
    """
    import csv
    import io

    out = io.StringIO()
    writer = csv.writer(out)
    if head:
        writer.writerow(columns)
    writer.writerows([escape_cell(item.get(column)) for column in columns] for item in items)
    return out.getvalue()
