"""Text for places that read signs of their own: headers, and chats that know mentions, Markdown or HTML. Pure."""

import re

_STRANGE = re.compile(r"[^ -~]")
_SIGNS = re.compile(r"[^A-Za-z0-9 .,:;()/_+=%'-]")


def to_plain(text: str) -> str:
    """Printable ASCII in one line; what is not becomes a question mark."""
    return _STRANGE.sub("?", text)


def to_harmless(text: str) -> str:
    """Without signs that a chat might take for its own: brackets, backticks, mentions, emphasis by stars."""
    return _SIGNS.sub("?", text)
