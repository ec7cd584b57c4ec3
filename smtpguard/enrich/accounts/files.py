"""The host's account files as data: passwd(5), group(5), subuid(5), login.defs(5). Parsing only; bounded; never raises.

Names are text as the file has them, bytes that are no UTF-8 as surrogate escapes, the way Python's pwd gives them.
A line that is not what the man page says is passed over, as the C library does; so are comments and NIS entries (+, -).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from smtpguard.policy.subuids import Claim

MAX_ACCOUNTS = 250_000
MAX_GROUPS = 250_000
MAX_CLAIMS = 20_000
MAX_ALIASES = 1000
"""Login names of one uid that are remembered: FTP accounts of one customer, say."""
MAX_UID = 0xFFFF_FFFE
DEFAULT_UID_MIN = 1000
_ANY = 9_999_999_999


@dataclass(slots=True, kw_only=True)
class Passwd:
    """Accounts.

    Attributes:
        names: Uid to its login names, the first line's first.
        uids: Login name to uid; the first line wins.
        gids: Uid to primary group.
        dropped: Accounts beyond the bound.
    """

    names: dict[int, tuple[str, ...]] = field(default_factory=dict)
    uids: dict[str, int] = field(default_factory=dict)
    gids: dict[int, int] = field(default_factory=dict)
    dropped: int = 0


@dataclass(slots=True, kw_only=True)
class Groups:
    """Groups.

    Attributes:
        names: Gid to name.
        of: Login name to the names of its supplementary groups.
        dropped: Groups beyond the bound.
    """

    names: dict[int, str] = field(default_factory=dict)
    of: dict[str, tuple[str, ...]] = field(default_factory=dict)
    dropped: int = 0


def parse_passwd(content: bytes) -> Passwd:
    """Accounts of a passwd file.

    Args:
        content: The whole file.
    """
    passwd = Passwd()
    names: dict[int, list[str]] = {}
    for fields in _split(content, 7):
        uid, gid = _number(fields[2]), _number(fields[3])
        name = fields[0]
        if uid is None or gid is None or not name or name[0] in "+-#" or name in passwd.uids:
            continue
        if len(passwd.uids) >= MAX_ACCOUNTS:
            passwd.dropped += 1
            continue
        passwd.uids[name] = uid
        passwd.gids.setdefault(uid, gid)
        known = names.setdefault(uid, [])
        if len(known) < MAX_ALIASES:
            known.append(name)
    passwd.names = {uid: tuple(known) for uid, known in names.items()}
    return passwd


def parse_group(content: bytes) -> Groups:
    """Groups of a group file.

    Args:
        content: The whole file.
    """
    groups = Groups()
    members: dict[str, list[str]] = {}
    for fields in _split(content, 4):
        gid, name = _number(fields[2]), fields[0]
        if gid is None or not name or name[0] in "+-#":
            continue
        if len(groups.names) >= MAX_GROUPS:
            groups.dropped += 1
            continue
        groups.names.setdefault(gid, name)
        for member in fields[3].split(","):
            if member:
                members.setdefault(member, []).append(name)
    groups.of = {member: tuple(names) for member, names in members.items()}
    return groups


def parse_subuid(content: bytes, uids: Mapping[str, int]) -> list[Claim]:
    """Claims of a subuid file; an owner that is no account has none.

    Args:
        content: The whole file.
        uids: Login name to uid.
    """
    claims: list[Claim] = []
    for index, line in enumerate(content.split(b"\n"), 1):
        fields = line.decode("utf-8", "surrogateescape").strip().split(":")
        if len(fields) != 3 or len(claims) >= MAX_CLAIMS:
            continue
        owner = uids.get(fields[0])
        if owner is None:
            owner = _number(fields[0])
        first, count = _number(fields[1], _ANY), _number(fields[2], _ANY)  # what is too large is told later
        if owner is not None and first is not None and count is not None:
            claims.append(Claim(owner=owner, first=first, count=count, line=index))
    return claims


def parse_uid_min(content: bytes) -> int:
    """UID_MIN of login.defs; 1000 where it says nothing, or nothing sensible.

    Args:
        content: The whole file.
    """
    uid_min = DEFAULT_UID_MIN
    for line in content.splitlines():
        words = line.split()
        if len(words) >= 2 and words[0] == b"UID_MIN":
            number = _number(words[1].decode("ascii", "replace"))
            if number is not None and 100 <= number <= 100_000:
                uid_min = number
    return uid_min


def _split(content: bytes, count: int) -> Iterator[list[str]]:
    for line in content.split(b"\n"):
        fields = line.decode("utf-8", "surrogateescape").split(":")
        if len(fields) == count:
            yield fields


def _number(text: str, maximum: int = MAX_UID) -> int | None:
    """A uid or gid; None for anything else, (uid_t) -1 included."""
    if not (text.isascii() and text.isdigit() and len(text) <= 10):
        return None
    number = int(text)
    return number if number <= maximum else None
