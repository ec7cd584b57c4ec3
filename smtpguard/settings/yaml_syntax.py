"""What a YAML parser has against a file, in words for people: where the mistake begins, and what it may be. Pure."""

import yaml

_TAB = "a tab? Indent with blanks"
_LIKELY = (
    ("flow", "a bracket is not closed?"),
    ("quoted", "a quote is not closed?"),
    ("tab character", _TAB),
    ("mapping values are not allowed", "wrong indentation, or text with a colon that needs quotes?"),
    ("did not find expected", "wrong indentation?"),
    ("could not find expected ':'", "a colon is missing, or wrong indentation?"),
    ("cannot start any token", "text that needs quotes?"),
)
"""What libyaml and PyYAML say, and what is mostly behind it."""


def explain_syntax(error: yaml.MarkedYAMLError, line: int, text: str) -> tuple[int, str]:
    """Where a mistake begins, and what is mostly behind it.

    Args:
        error: As the parser tells it.
        line: Where it gave up.
        text: The file.

    Returns:
        The line in which the mistake begins, and what to say of it.
    """
    said = " ".join(filter(None, [error.context, error.problem])) or "unreadable"
    likely = next((hint for words, hint in _LIKELY if words in said), show_message(said))
    if error.context_mark is not None and any(word in said for word in ("flow", "quoted")):
        line = min(error.context_mark.line, text.count("\n")) + 1  # where the bracket or the quote was opened
    lines = text.splitlines()
    if "flow" in said:
        opened = (at for at in range(min(line, len(lines)), 0, -1) if _is_open(lines[at - 1]))
        line = next(opened, line)
    written = lines[line - 1] if line <= len(lines) else ""
    near = written.strip()
    if "\t" in written[: len(written) - len(written.lstrip())]:
        likely = _TAB
    place = f' near "{show_message(near[:40])}"' if near else ""
    return line, f"not valid YAML{place}; {likely}"


def _is_open(line: str) -> bool:
    """Whether a line opens more brackets than it closes."""
    return line.count("[") + line.count("{") > line.count("]") + line.count("}")


def show_message(text: str) -> str:
    """Text of a library's error in one printable line."""
    return ascii(" ".join(text.split()))[1:-1][:200]
