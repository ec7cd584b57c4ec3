"""Named styles: the terminal's own sixteen colours on its own background, so that light ones read well too.

What a colour says is said by a word or a mark as well: with NO_COLOR nothing is lost.
"""

from rich.style import Style

STYLES = {
    "plain": Style(),
    "dim": Style(dim=True),
    "bold": Style(bold=True),
    "bar": Style(reverse=True),
    "tab": Style(reverse=True, bold=True),
    "head": Style(bold=True, underline=True),
    "sorted": Style(bold=True, underline=True, reverse=True),
    "rate": Style(color="cyan"),
    "smtp": Style(color="red"),
    "smtps": Style(color="green"),
    "submission": Style(color="blue"),
    "smtp-alt": Style(color="magenta"),
    "refused": Style(color="red", bold=True),
    "dry": Style(color="magenta", bold=True),
    "allowed": Style(color="green", bold=True),
    "live": Style(color="green", bold=True, reverse=True),
    "alarm": Style(color="red", bold=True, reverse=True),
}
SELECTED = Style(reverse=True)
