"""Where the shipped data files are: filters, jails, rulesets, configuration, templates. The only module that knows.

In an installed wheel they lie in `smtpguard/_data/KIND` (hatchling's force-include); in a checkout beside the package.
An administrator's file of the same name under /etc/smtpguard/KIND wins, where root owns it and nobody else may
write it. Plain paths and not importlib.resources: that import alone costs 5 ms, and a package of data that nft and
fail2ban read by name is never run from a zip file.
"""

from pathlib import Path
from typing import Literal

from smtpguard.errors import ConfigError
from smtpguard.safe_files import read_trusted

Kind = Literal["filters", "jails", "nft", "config", "templates"]
_PACKAGE = Path(__file__).parent
OWN_FILES = Path("/etc/smtpguard")
"""Where an administrator's own files are looked for."""
MAX_BYTES = 1 << 20
"""Longest file of an administrator that is read, in bytes."""


def shipped(kind: Kind, *, package: Path = _PACKAGE) -> Path:
    """The directory of the shipped files of one kind.

    Args:
        kind: Which files.
        package: Directory of the package; tests give another.

    Raises:
        ConfigError: Neither an installed wheel nor a checkout.
    """
    installed = package / "_data" / kind
    if installed.is_dir():
        return installed
    checkout = package.parent
    if (checkout / "pyproject.toml").is_file() and (checkout / kind).is_dir():
        return checkout / kind
    raise ConfigError(f"the shipped {kind} are missing", where=str(installed), fix="install smtpguard again")


def read_resource(kind: Kind, name: str, *, administrator: Path = OWN_FILES, package: Path = _PACKAGE) -> str:
    """The text of a data file: the administrator's /etc/smtpguard/KIND/NAME if there is one, else the shipped one.

    Args:
        kind: Which directory.
        name: File name in it.
        administrator: Where own files are looked for; tests give another.
        package: As in `shipped`.

    Raises:
        ConfigError: The administrator's file is not to be trusted or not UTF-8, or there is no such file at all.
    """
    own = administrator / kind / name
    try:
        return read_trusted(own, max_bytes=MAX_BYTES).decode("utf-8")
    except FileNotFoundError:
        pass
    except UnicodeDecodeError as error:
        raise ConfigError("is not UTF-8 text", where=str(own)) from error
    path = shipped(kind, package=package) / name
    try:
        return path.read_text("utf-8")
    except OSError as error:
        raise ConfigError(f"can't be read: {error.strerror}", where=str(path), fix="install smtpguard again") from error
