"""Files of a panel that root, or the panel's own system account, alone can have written. Bounded; never follows a link.

A tenant who could write one would give themselves another customer's limits, or another's name in a report. So each
directory and file is judged on its descriptor: owner, mode, kind, size. What is refused is named, and not used.
"""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from smtpguard.errors import ConfigError
from smtpguard.safe_files import find_distrust, open_trusted_directory

MAX_NAMES = 200_000
"""Entries of one directory that are looked at."""
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_MAX_TOLD = 20


@dataclass(slots=True, kw_only=True)
class PanelFiles:
    """Reads them.

    Attributes:
        root: Where the host's file system is; "/" but in tests.
        owners: Uids that may own them beside root.
        groups: Gids that may write them beside root's.
        problems: What was not used and why, for people; bounded.
        refused: How many files and directories were not used.
    """

    root: Path = Path("/")
    owners: frozenset[int] = frozenset()
    groups: frozenset[int] = frozenset()
    problems: list[str] = field(default_factory=list)
    refused: int = 0

    def read(self, path: str, max_bytes: int) -> str:
        """A file; "" where it is missing or can't be trusted."""
        parent, _, name = path.rpartition("/")
        with self.open(parent) as directory:
            return directory.read(name, max_bytes)

    def open(self, path: str) -> "PanelDirectory":
        """A directory, every step to it judged; one without entries where it is missing or can't be trusted."""
        where = os.path.realpath(self.root / path)
        try:
            return PanelDirectory(self, open_trusted_directory(where, uids=self.owners, gids=self.groups), where)
        except (FileNotFoundError, NotADirectoryError):
            return PanelDirectory(self, -1, where)
        except (ConfigError, OSError) as error:
            self.refuse(str(error))
            return PanelDirectory(self, -1, where)

    def refuse(self, why: str) -> None:
        """Note what is not used."""
        self.refused += 1
        if len(self.problems) < _MAX_TOLD:
            self.problems.append(why)

    def judge(self, status: os.stat_result, where: str, kind: int) -> bool:
        """Whether something may be used; what may not is noted."""
        if stat.S_IFMT(status.st_mode) != kind:
            why: str | None = "is a symbolic link" if stat.S_ISLNK(status.st_mode) else "is of another kind"
        else:
            why = find_distrust(status, uids=self.owners, gids=self.groups)
        if why is not None:
            self.refuse(f"{ascii(where)[1:-1]}: {why}")
        return why is None


class PanelDirectory:
    """A directory that is open, and was judged.

    Args:
        files: What it is of.
        descriptor: It; -1 for one that holds nothing.
        where: Its path, for people.
    """

    def __init__(self, files: PanelFiles, descriptor: int, where: str) -> None:
        self._files = files
        self._descriptor = descriptor
        self._where = where

    def __enter__(self) -> Self:
        """It."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        if self._descriptor >= 0:
            os.close(self._descriptor)

    def names(self) -> list[str]:
        """What is in it, sorted; at most MAX_NAMES."""
        if self._descriptor < 0:
            return []
        with os.scandir(self._descriptor) as entries:
            names = [entry.name for _, entry in zip(range(MAX_NAMES + 1), entries, strict=False)]
        if len(names) > MAX_NAMES:
            self._files.refuse(f"{self._where}: has more than {MAX_NAMES} entries")
        return sorted(names[:MAX_NAMES])

    def open(self, name: str) -> "PanelDirectory":
        """A directory in it."""
        descriptor = self._take(name, stat.S_IFDIR, os.O_DIRECTORY)
        return PanelDirectory(self._files, descriptor, f"{self._where}/{name}")

    def read(self, name: str, max_bytes: int) -> str:
        """A file in it; "" where it is missing, too long or can't be trusted. Bytes that are no UTF-8 are escaped."""
        descriptor = self._take(name, stat.S_IFREG)
        if descriptor < 0:
            return ""
        with os.fdopen(descriptor, "rb") as file:
            content = file.read(max_bytes + 1)
        if len(content) > max_bytes:
            self._files.refuse(f"{self._where}/{ascii(name)[1:-1]}: is longer than {max_bytes} bytes")
            return ""
        return content.decode("utf-8", "surrogateescape")

    def _take(self, name: str, kind: int, flags: int = 0) -> int:
        """A descriptor of an entry; -1 where there is none that can be used."""
        if self._descriptor < 0:
            return -1
        where = f"{self._where}/{name}"
        descriptor = -1
        try:
            # Looked at before it is opened, so that no device ever is; and once more after.
            if not self._files.judge(os.stat(name, dir_fd=self._descriptor, follow_symlinks=False), where, kind):
                return -1
            descriptor = os.open(name, _FLAGS | flags, dir_fd=self._descriptor)
            if self._files.judge(os.fstat(descriptor), where, kind):
                return descriptor
        except FileNotFoundError:
            return -1
        except OSError as error:
            self._files.refuse(f"{ascii(where)[1:-1]}: can't be read: {error.strerror}")
        if descriptor >= 0:
            os.close(descriptor)
        return -1


def read_pairs(text: str) -> dict[str, str]:
    """The values of `key=value` lines, the first of each key."""
    found: dict[str, str] = {}
    for key, value in iterate_pairs(text):
        found.setdefault(key, value)
    return found


def iterate_pairs(text: str) -> Iterator[tuple[str, str]]:
    """Key and value of each `key=value` line."""
    for line in text.split("\n"):
        key, equals, value = line.partition("=")
        if equals and not key.startswith("#"):
            yield key.strip(), value.strip()
