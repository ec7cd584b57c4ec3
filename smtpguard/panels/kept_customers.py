"""Whose accounts are, as it was known the last time: a file beside the state, for the next start and other commands.

While a panel can't be asked, its last answer holds: no customer's larger limit lapses because a database is down.
"""

import os
from pathlib import Path

from smtpguard.panels.customer_table import MAX_BYTES, CustomerTable
from smtpguard.safe_files import read_trusted
from smtpguard.settings import Settings

FILE_NAME = "accounts.cache"


def read_kept(settings: Settings) -> CustomerTable:
    """What was known; an empty table if nothing was.

    Args:
        settings: Where the state is.

    Raises:
        ConfigError, DecodeError: It can't be used.
    """
    try:
        return CustomerTable(read_trusted(_path(settings), max_bytes=MAX_BYTES))
    except FileNotFoundError:
        return CustomerTable()


def write_kept(settings: Settings, text: bytes) -> None:
    """Keep it, readable for root alone: it has addresses of customers.

    Args:
        settings: Where the state is.
        text: A table.

    Raises:
        OSError: It can't be written; what was kept before is there still.
    """
    path = _path(settings)
    fresh = f"{path}.new"
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, 0o600)  # one that is left from before, too
        file.write(text)
    Path(fresh).replace(path)


def _path(settings: Settings) -> Path:
    return Path(settings.state_path).parent / FILE_NAME
