"""Which accounts are mail servers', from what root alone can write (THREATS 1): main.cf, Exim's spool, systemd units.

Looks at files only. A mail server that is installed but not running counts; a tenant's program that looks like one
does not.
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from smtpguard.errors import ConfigError
from smtpguard.policy.standing import MTA_UNITS
from smtpguard.safe_files import find_distrust, read_trusted

MAX_FILE_BYTES = 1 << 20
MAX_INSTANCES = 16
"""Postfix instances (/etc/postfix-*) that are looked at."""
EXIM_SPOOLS = ("var/spool/exim4", "var/spool/exim")
UNIT_DIRECTORIES = (
    "etc/systemd/system",
    "run/systemd/system",
    "usr/local/lib/systemd/system",
    "usr/lib/systemd/system",
)
Problems = list[str]


def list_sources(root: Path) -> list[Path]:
    """The files and directories whose change can change the answer.

    Args:
        root: Where the host's file system is; "/" but in tests.
    """
    files = [*_list_main_cf(root), *_list_units(root)]
    directories = [root / name for name in ("etc", *EXIM_SPOOLS, *UNIT_DIRECTORIES)]
    return [*files, *directories, *{path.parent for path in files if path.parent.name.endswith(".d")}]


class UidOf(Protocol):
    """Knows logins."""

    def __call__(self, name: str, /) -> int | None:
        """The uid of a login name; None if there is none."""
        ...


def find_mta_uids(root: Path, uid_of: UidOf, problems: Problems) -> dict[int, str]:
    """Uids of installed mail servers, and what says so.

    Args:
        root: Where the host's file system is; "/" but in tests.
        uid_of: Login name to uid.
        problems: Gets a sentence for each file that is there and can't be trusted.
    """
    found: dict[int, str] = {}
    for path in _list_main_cf(root):
        owner = parse_mail_owner(_read(path, problems))
        uid = uid_of(owner) if owner else None
        if uid:
            found.setdefault(uid, f"mail_owner in {_host_name(path, root)}")
    for spool in EXIM_SPOOLS:
        uid = _find_directory_owner(root / spool, root)
        if uid:
            found.setdefault(uid, f"owner of /{spool}")
    for path in _list_units(root):
        user = parse_unit_user(_read(path, problems))
        uid = uid_of(user) if user else None
        if uid:
            found.setdefault(uid, f"User= in {_host_name(path, root)}")
    return found


def parse_mail_owner(content: bytes) -> str | None:
    """mail_owner of a main.cf, postconf(5); None if it says nothing, or needs another parameter to say it.

    Args:
        content: The whole file.
    """
    owner: str | None = None
    lines: list[str] = []
    for line in content.decode("utf-8", "surrogateescape").splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if line[0].isspace() and lines:
            lines[-1] += line
        else:
            lines.append(line)
    for line in lines:
        name, separator, value = line.partition("=")
        if separator and name.strip() == "mail_owner":
            owner = value.strip()
    return owner if owner and "$" not in owner else None


def parse_unit_user(content: bytes) -> str | None:
    """User= of a unit's [Service] section, systemd.exec(5); None if it names none, root, or needs a specifier.

    Args:
        content: The whole unit.
    """
    user: str | None = None
    section = ""
    for line in content.decode("utf-8", "surrogateescape").splitlines():
        text = line.strip()
        if text.startswith("["):
            section = text
        name, separator, value = text.partition("=")
        if separator and section == "[Service]" and name.strip() == "User":
            user = value.strip()
    return user if user and "%" not in user else None


def _list_main_cf(root: Path) -> Iterator[Path]:
    etc = root / "etc"
    yield etc / "postfix" / "main.cf"
    others = [entry for entry in _list_directory(etc) if entry.name.startswith("postfix-")]
    yield from (Path(entry.path, "main.cf") for entry in others[:MAX_INSTANCES])


def _list_units(root: Path) -> Iterator[Path]:
    """Units of mail servers and their drop-ins. A symbolic link (an alias, a mask) is no unit of its own."""
    for directory in UNIT_DIRECTORIES:
        for entry in _list_directory(root / directory):
            base = entry.name.removesuffix(".d").removesuffix(".service")
            if base not in MTA_UNITS:
                continue
            if entry.name.endswith(".service") and entry.is_file(follow_symlinks=False):
                yield Path(entry.path)
            elif entry.name.endswith(".service.d"):
                drop_ins = [Path(e.path) for e in _list_directory(Path(entry.path)) if e.name.endswith(".conf")]
                yield from drop_ins[:MAX_INSTANCES]


def _list_directory(path: Path) -> list[os.DirEntry[str]]:
    """Entries in the order of their names; none if it can't be read."""
    try:
        with os.scandir(path) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError:
        return []


def _read(path: Path, problems: Problems) -> bytes:
    try:
        return read_trusted(os.path.realpath(path), max_bytes=MAX_FILE_BYTES)
    except FileNotFoundError:
        return b""
    except ConfigError as error:
        problems.append(f"{error}; it was not asked for mail servers' accounts")
        return b""


def _find_directory_owner(path: Path, root: Path) -> int | None:
    """Whose a directory is, if only root could have made it; None else."""
    try:
        for parent in path.parents:
            if find_distrust(os.lstat(parent)) is not None:
                return None
            if parent == root:
                break
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_uid if stat.S_ISDIR(status.st_mode) else None


def _host_name(path: Path, root: Path) -> str:
    return f"/{path.relative_to(root)}"
