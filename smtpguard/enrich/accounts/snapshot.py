"""The host's account files read together: passwd, group, subuid, login.defs, and what tells mail servers' users.

/etc/passwd is read as the file it is: getpwent(3) would ask every directory server for everybody. A change shows by a
file's inode, size and times.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path

from smtpguard.enrich.accounts.files import (
    DEFAULT_UID_MIN,
    Groups,
    Passwd,
    parse_group,
    parse_passwd,
    parse_subuid,
    parse_uid_min,
)
from smtpguard.enrich.accounts.mail_servers import find_mta_uids, list_sources
from smtpguard.enrich.accounts.service_users import find_service_uids, list_service_files
from smtpguard.errors import ConfigError
from smtpguard.policy.standing import HostFacts
from smtpguard.policy.subuids import RangeMap, resolve_ranges
from smtpguard.safe_files import read_trusted

MAX_FILE_BYTES = 64 << 20
"""Longest account file read: 250,000 accounts are 20 MB."""
_FILES = ("etc/passwd", "etc/group", "etc/subuid", "etc/login.defs")
_IDENTITY = frozenset({"etc/passwd", "etc/group"})
Signature = tuple[int, ...] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What the files said.

    Attributes:
        signatures: What each file looked like just before it was read; None if it was not there.
        passwd, groups, ranges, facts: Their content.
        problems: What of them was left out and why, for people.
    """

    signatures: dict[str, Signature] = field(default_factory=dict)
    passwd: Passwd = field(default_factory=Passwd)
    groups: Groups = field(default_factory=Groups)
    ranges: RangeMap = field(default_factory=RangeMap)
    facts: HostFacts = field(default_factory=HostFacts)
    problems: tuple[str, ...] = ()


def is_changed(snapshot: Snapshot) -> bool:
    """Whether any of its files is another now; some 20 calls of stat(2).

    Args:
        snapshot: As it was read.
    """
    return any(_read_signature(path) != signature for path, signature in snapshot.signatures.items())


def read_snapshot(root: Path, before: Snapshot, *, uid_min: int | None = None) -> Snapshot:
    """Read all files.

    Args:
        root: Where the host's file system is.
        before: The last one; its accounts are kept while /etc/passwd is half written.
        uid_min: First uid of people, in place of login.defs'.
    """
    problems: list[str] = []
    sources = [*(root / name for name in _FILES), *list_sources(root), *list_service_files(root)]
    signatures = {str(path): _read_signature(str(path)) for path in sources}
    passwd = parse_passwd(_read(root, "etc/passwd", problems))
    if 0 not in passwd.names and before.passwd.names:
        # Somebody writes it in place, and we came in between. No name would mean nobody is exempt.
        problems.append("/etc/passwd has no root: the accounts known before are kept")
        signatures[str(root / "etc/passwd")] = None
        passwd = before.passwd
    groups = parse_group(_read(root, "etc/group", problems))
    if uid_min is None:
        uid_min = parse_uid_min(_read(root, "etc/login.defs", problems))
    claims = parse_subuid(_read(root, "etc/subuid", problems), passwd.uids)
    ranges, oddities = resolve_ranges(claims, sorted(passwd.names), uid_min)
    problems += oddities
    if passwd.dropped or groups.dropped:
        problems.append(f"{passwd.dropped} accounts and {groups.dropped} groups are too many and not known")
    mta_uids = find_mta_uids(root, passwd.uids.get, problems)
    service_uids = find_service_uids(root, passwd.uids.get, problems)
    return Snapshot(
        signatures=signatures,
        passwd=passwd,
        groups=groups,
        ranges=ranges,
        facts=HostFacts(uid_min=uid_min, mta_uids=mta_uids, service_uids=service_uids),
        problems=tuple(problems),
    )


def _read(root: Path, name: str, problems: list[str]) -> bytes:
    """A file; empty where it is missing or can't be trusted, which is told.

    passwd and group are taken as they are: who can write them is root already, and without them nobody is exempt.
    """
    try:
        return read_trusted(os.path.realpath(root / name), max_bytes=MAX_FILE_BYTES)
    except FileNotFoundError:
        if name == "etc/login.defs":
            problems.append(f"there is no /{name}: UID_MIN is taken to be {DEFAULT_UID_MIN}")
    except ConfigError as error:
        if name not in _IDENTITY:
            problems.append(f"{error}; nothing of it was used")
            return b""
        problems.append(f"{error}; used all the same, as the system does")
        try:
            with (root / name).open("rb") as file:
                return file.read(MAX_FILE_BYTES)
        except OSError as failure:
            problems.append(f"/{name}: can't be read: {failure.strerror}")
    return b""


def _read_signature(path: str) -> Signature:
    """What changes when a file does: replaced, written, or its owner or mode set."""
    try:
        status = os.stat(path)  # noqa: PTH116 - some 20 paths every few seconds: no Path for each
    except OSError:
        return None
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
