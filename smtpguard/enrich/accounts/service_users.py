"""Under which accounts web and mail daemons serve many customers, from their own configuration (THREATS 23).

A name such as vmail or nginx gives nobody standing: a tenant may have chosen it. Files that root alone can write do:
Dovecot's mail_uid, Apache's User, nginx's user. Looks at files only, bounded, and follows no include.
"""

import os
import re
from pathlib import Path

from smtpguard.enrich.accounts.mail_servers import UidOf
from smtpguard.errors import ConfigError
from smtpguard.safe_files import read_trusted

MAX_FILE_BYTES = 1 << 20
MAX_FILES = 64
"""Files of one configuration directory that are looked at."""
_VALUE = r"""["']?([^\s"';#$%]+)(?=[\s"';#]|\Z)"""
"""A plain word; one that goes on with a variable says nothing here."""
_MAIL_UID = re.compile(r"^\s*mail_uid\s*=\s*" + _VALUE, re.MULTILINE)
_PATTERNS: dict[str, re.Pattern[str]] = {
    # ${APACHE_RUN_USER} is set in envvars; a User of a virtual host (mpm-itk) is that customer's own.
    "etc/apache2/envvars": re.compile(r"^\s*(?:export\s+)?APACHE_RUN_USER=" + _VALUE, re.MULTILINE),
    "etc/apache2/apache2.conf": re.compile(r"^User[ \t]+" + _VALUE, re.MULTILINE),
    "etc/httpd/conf/httpd.conf": re.compile(r"^User[ \t]+" + _VALUE, re.MULTILINE),
    "etc/nginx/nginx.conf": re.compile(r"^\s*user\s+" + _VALUE, re.MULTILINE),
    "etc/dovecot/dovecot.conf": _MAIL_UID,
}
_DROP_INS = "etc/dovecot/conf.d"


def list_service_files(root: Path) -> list[Path]:
    """The files and directories whose change can change the answer.

    Args:
        root: Where the host's file system is; "/" but in tests.
    """
    return [*(root / name for name in _PATTERNS), root / _DROP_INS, *_list_drop_ins(root)]


def find_service_uids(root: Path, uid_of: UidOf, problems: list[str]) -> dict[int, str]:
    """Uids under which daemons serve many customers, and what says so; never root's.

    Args:
        root: Where the host's file system is; "/" but in tests.
        uid_of: Login name to uid.
        problems: Gets a sentence for each file that is there and can't be trusted.
    """
    patterns = {root / name: pattern for name, pattern in _PATTERNS.items()}
    patterns |= dict.fromkeys(_list_drop_ins(root), _MAIL_UID)
    found: dict[int, str] = {}
    for path, pattern in patterns.items():
        for match in pattern.finditer(_read(path, problems)):
            # Dovecot takes a number as well; the others may too.
            uid = int(match[1]) if match[1].isascii() and match[1].isdigit() else uid_of(match[1])
            if uid:
                found.setdefault(uid, f"a service's user in /{path.relative_to(root)}")
    return found


def _list_drop_ins(root: Path) -> list[Path]:
    try:
        found = sorted(path for path in (root / _DROP_INS).iterdir() if path.suffix in {".conf", ".ext"})
    except OSError:
        return []
    return found[:MAX_FILES]


def _read(path: Path, problems: list[str]) -> str:
    try:
        content = read_trusted(os.path.realpath(path), max_bytes=MAX_FILE_BYTES)
    except FileNotFoundError:
        return ""
    except ConfigError as error:
        problems.append(f"{error}; it was not asked for services' accounts")
        return ""
    return content.decode("utf-8", "surrogateescape")
