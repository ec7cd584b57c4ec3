"""Text for places that read signs of their own. Pure."""

import re

_STRANGE = re.compile(r"[^ -~]")


def to_plain(text: str) -> str:
    """Printable ASCII in one line; what is not becomes a question mark."""
    return _STRANGE.sub("?", text)
