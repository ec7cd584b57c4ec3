"""What a check finds, and what it may look at."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from smtpguard.enrich.accounts.directory import AccountDirectory
from smtpguard.errors import ConfigError
from smtpguard.settings import Settings

Level = Literal["ok", "note", "unknown", "bad", "fatal"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of the report. Texts are printable ASCII but for what `show` escapes.

    Attributes:
        name: Of the check.
        level: "ok"; "note" (worth knowing); "unknown" (could not be looked at, which is never a zero); "bad" (some of
            the guarding is missing); "fatal" (there would be none).
        found: What is there or missing.
        means: What follows from it.
        fix: What to do.
    """

    name: str
    level: Level
    found: str
    means: str = ""
    fix: str = ""


class ExaminedHost:
    """The host under examination.

    Args:
        settings: The configuration, or the shipped defaults where it is bad.
        problem: Why it is bad.
        path: The file that was named for it; None for the usual order.
        root: Where the host's file system is; "/" but in tests.
    """

    def __init__(
        self, settings: Settings, *, problem: ConfigError | None = None, path: str | None = None, root: Path = Path("/")
    ) -> None:
        self.settings = settings
        self.problem = problem
        self.path = path
        self.root = root

    @cached_property
    def accounts(self) -> AccountDirectory:
        """Who is who."""
        return AccountDirectory(self.settings, root=self.root)

    def read(self, path: str, max_bytes: int = 1 << 20) -> str | None:
        """Text of a file that only root can have written, /proc and /sys included; None if there is none."""
        try:
            with (self.root / path).open("rb") as file:
                return file.read(max_bytes).decode("utf-8", "replace")
        except (FileNotFoundError, NotADirectoryError):
            return None
