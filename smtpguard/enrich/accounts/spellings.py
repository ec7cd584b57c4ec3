r"""Names as the configuration and people write them: in other words than the system's, escaped, or as digits. Pure.

A directory knows a user under several spellings (`CORP\joe`, `joe@corp.example`, `Joe`) and calls the account by one
of them. Where a name is meant, digits are a name: a login may be `61002`. Where a person types digits, a uid is meant.
"""

from smtpguard.enrich.accounts.files import MAX_UID
from smtpguard.settings import Settings

GLOB = frozenset("*?[")


def is_plain(pattern: str) -> bool:
    """Whether a configured name is one name, and no glob."""
    return GLOB.isdisjoint(pattern)


def list_spellings(settings: Settings) -> frozenset[str]:
    """Every single name by which the configuration means a user.

    Args:
        settings: The whole configuration.
    """
    names = {*settings.exempt.users, *settings.shared_users, *settings.shared_block}
    for override in settings.overrides:
        names.update(override.match.users)
    return frozenset(filter(is_plain, names))


def may_be_name(text: str) -> bool:
    """Whether to bother the C library with it: what it hands on to directory servers is a tenant's text at times."""
    return 0 < len(text) <= 255 and text.isprintable() and not any(c in text for c in ":/,")


def parse_uid(text: str) -> int | None:
    """The uid that digits mean, however many zeros lead; None for anything else, -1 included."""
    if not (text.isascii() and text.isdigit()):
        return None
    significant = text.lstrip("0") or "0"
    uid = int(significant) if len(significant) <= 10 else MAX_UID + 1
    return uid if uid <= MAX_UID else None


def unescape_name(text: str) -> str:
    """A name as smtpguard.text.render_user wrote it, back to what it was."""
    from urllib.parse import unquote_to_bytes  # 5 ms; hardly ever needed

    return unquote_to_bytes(text).decode("utf-8", "surrogateescape")
