"""Which files belong to an installation, and where the system looks for them.

systemd.unit(5): /etc/systemd/system; jail.conf(5): filter.d, action.d and jail.d below /etc/fail2ban; logrotate(8):
/etc/logrotate.d. The event log is made, empty, because a fail2ban jail wants its file to be there when it starts.
"""

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from smtpguard.errors import ConfigError
from smtpguard.resources import Kind, shipped
from smtpguard.settings import Settings
from smtpguard.setup.plan import WantedFile

MANIFEST = "/var/lib/smtpguard/setup.json"
CONFIG = "/etc/smtpguard/smtpguard.yaml"
PACKAGED_UNITS = ("/usr/lib/systemd/system/smtpguard.service", "/lib/systemd/system/smtpguard.service")
"""Where a distribution's package has the unit; one below /etc would hide it, and its updates."""
_SHIPPED_PROGRAM = "/usr/bin/smtpguard"
_SHIPPED_LOGS = "/var/log/smtpguard/*.log"
_DEFAULT_PATH = frozenset({"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"})
_PLAIN_PATH = re.compile(r"/[A-Za-z0-9_./+-]+")
_FAIL2BAN: tuple[tuple[Kind, str, str], ...] = (
    ("filters", "smtpguard.conf", "filter.d"),
    ("filters", "smtpguard-connect.conf", "filter.d"),
    ("jails", "action.d/smtpguard.conf", "action.d"),
    ("jails", "smtpguard.conf", "jail.d"),
)
"""Kind, name and folder; the jail comes last, so that it never stands without what it needs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What an installation has of its own.

    Attributes:
        program: Absolute path of the `smtpguard` that the unit and fail2ban shall run.
        config: Configuration file that both shall use.
        log: The event log.
        table: The nftables table.
    """

    program: str = _SHIPPED_PROGRAM
    config: str = CONFIG
    log: str = Settings().log_path
    table: str = Settings().nft_table


def list_wanted(site: Site, *, unit: bool = True, fail2ban: bool = True) -> list[WantedFile]:
    """The files of an installation.

    Args:
        site: What it has of its own.
        unit: Whether the systemd unit is among them.
        fail2ban: Whether fail2ban's files are among them.

    Raises:
        ConfigError: A path can't be written into a unit or jail, or a shipped file is missing.
    """
    for path in (site.program, site.config, site.log):
        if not _PLAIN_PATH.fullmatch(path):
            raise ConfigError(
                "has characters that systemd or fail2ban would take for something else",
                where=ascii(path),
                fix="use a plain path",
            )
    wanted = [] if site.config != CONFIG else [_config()]
    if unit:
        wanted.append(WantedFile(path="/etc/systemd/system/smtpguard.service", content=_unit(site)))
    wanted.append(WantedFile(path="/etc/logrotate.d/smtpguard", content=_logrotate(site)))
    if fail2ban:
        wanted.append(WantedFile(path=site.log, content=b"", mode=0o640, seed=True))
        for kind, name, folder in _FAIL2BAN:
            target = PurePosixPath("/etc/fail2ban", folder, PurePosixPath(name).name)
            wanted.append(WantedFile(path=str(target), content=_fit(_read(kind, name), site)))
    return wanted


def _config() -> WantedFile:
    # It may come to hold the addresses and tokens of those to be notified.
    return WantedFile(path=CONFIG, content=_read("config", "smtpguard.yaml").encode(), mode=0o640, seed=True)


def _unit(site: Site) -> bytes:
    words = f"{site.program} run --service" + ("" if site.config == CONFIG else f" --config {site.config}")
    return _read("config", "smtpguard.service").replace(f"{_SHIPPED_PROGRAM} run --service", words).encode()


def _logrotate(site: Site) -> bytes:
    text = _read("config", "smtpguard.logrotate")
    return (text if site.log == Site().log else text.replace(_SHIPPED_LOGS, site.log)).encode()


def _fit(text: str, site: Site) -> bytes:
    """A file for fail2ban: the program where its PATH does not lead to it, the configuration, the log, the table."""
    program = "smtpguard" if str(PurePosixPath(site.program).parent) in _DEFAULT_PATH else site.program
    command = program if site.config == CONFIG else f"env SMTPGUARD_CONFIG={site.config} {program}"
    text = re.sub(r"(?m)^(command\s*=\s*)smtpguard$", rf"\g<1>{command}", text)
    text = re.sub(r"(?m)^(table\s*=\s*)smtpguard$", rf"\g<1>{site.table}", text)
    return text.replace(Site().log, site.log).encode()


def _read(kind: Kind, name: str) -> str:
    path = shipped(kind) / name
    try:
        return path.read_text("utf-8")
    except OSError as error:
        raise ConfigError(f"can't be read: {error.strerror}", where=str(path), fix="install smtpguard again") from error
