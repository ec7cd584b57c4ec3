"""Which files belong to an installation, and where the system looks for them.

systemd.unit(5): /etc/systemd/system; jail.conf(5): filter.d, action.d and jail.d below /etc/fail2ban; logrotate(8):
/etc/logrotate.d. The event log is made, empty, because a fail2ban jail wants its file to be there when it starts.
"""

import os
import re

from smtpguard.errors import ConfigError
from smtpguard.resources import Kind, shipped
from smtpguard.setup.plan import Wanted

MANIFEST = "/var/lib/smtpguard/setup.json"
EVENT_LOG = "/var/log/smtpguard/events.log"
_SHIPPED_PROGRAM = "/usr/bin/smtpguard"
_DEFAULT_PATH = frozenset({"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"})
_PLAIN_PATH = re.compile(r"/[A-Za-z0-9_./+-]+")
_FAIL2BAN: tuple[tuple[Kind, str, str], ...] = (
    ("filters", "smtpguard.conf", "filter.d"),
    ("filters", "smtpguard-connect.conf", "filter.d"),
    ("jails", "action.d/smtpguard.conf", "action.d"),
    ("jails", "smtpguard.conf", "jail.d"),
)
"""Kind, name and folder; the jail comes last, so that it never stands without what it needs."""


def list_wanted(program: str, *, fail2ban: bool = True) -> list[Wanted]:
    """The files of an installation.

    Args:
        program: Absolute path of the `smtpguard` that the unit and fail2ban shall run.
        fail2ban: Whether fail2ban's files are among them.

    Raises:
        ConfigError: The program's path can't be written into a unit, or a shipped file is missing.
    """
    if not _PLAIN_PATH.fullmatch(program):
        raise ConfigError(
            "has characters that systemd or fail2ban would take for something else",
            where=ascii(program),
            fix="install smtpguard into a folder with a plain name",
        )
    unit = _read("config", "smtpguard.service").replace(_SHIPPED_PROGRAM.encode(), program.encode())
    wanted = [
        Wanted(path="/etc/smtpguard/smtpguard.yaml", content=_read("config", "smtpguard.yaml"), mode=0o640, seed=True),
        Wanted(path="/etc/systemd/system/smtpguard.service", content=unit),
        Wanted(path="/etc/logrotate.d/smtpguard", content=_read("config", "smtpguard.logrotate")),
    ]
    if fail2ban:
        wanted.append(Wanted(path=EVENT_LOG, content=b"", mode=0o640, seed=True))
        for kind, name, folder in _FAIL2BAN:
            content = _read(kind, name)
            if folder == "jail.d" and os.path.dirname(program) not in _DEFAULT_PATH:  # noqa: PTH120 - a string will do
                content = _set_command(content, program)
            wanted.append(Wanted(path=f"/etc/fail2ban/{folder}/{os.path.basename(name)}", content=content))  # noqa: PTH119
    return wanted


def _read(kind: Kind, name: str) -> bytes:
    path = shipped(kind) / name
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"can't be read: {error.strerror}", where=str(path), fix="install smtpguard again") from error


def _set_command(jail: bytes, program: str) -> bytes:
    """The jail file for a program that is not on fail2ban's PATH."""
    return re.sub(rb"(?m)^(command\s*=\s*)smtpguard$", lambda line: line[1] + program.encode(), jail)
