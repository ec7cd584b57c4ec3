"""What the views of the screen have in common. Pure."""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from datetime import UTC, datetime, tzinfo
from typing import ClassVar, Generic, TypeVar

from smtpguard.model import NS
from smtpguard.tui.columns import Column
from smtpguard.tui.contents import Contents
from smtpguard.tui.pieces import Piece

T = TypeVar("T")

STYLES = {25: "smtp", 465: "smtps", 587: "submission", 2525: "smtp-alt"}
"""Colours of the ports."""


class View(ABC, Generic[T]):
    """A list of one kind.

    Args:
        zone: In which times are shown; None for the local one.

    Attributes:
        name: Of its tab.
        short: The same where there is little room.
        sorts: Titles of the columns by which it can be sorted, the usual one first.
        pinned: Columns that are shown however far the list is moved to the side.
        zone: As given.
        is_log: Whether what is new comes at the end, and the end is where one wants to be.
    """

    name: ClassVar[str]
    short: ClassVar[str]
    sorts: ClassVar[tuple[str, ...]]
    pinned: ClassVar[int] = 1
    is_log: ClassVar[bool] = False

    def __init__(self, zone: tzinfo | None = None) -> None:
        self.zone = zone

    @abstractmethod
    def columns(self, *, rdns: bool) -> Sequence[Column]:
        """What it shows of each.

        Args:
            rdns: Whether names of destinations are wanted.
        """

    @abstractmethod
    def list(self, contents: Contents, words: Sequence[str], sort: str) -> Sequence[T]:
        """What is shown.

        Args:
            contents: Of which.
            words: All of them are in each, in lower case.
            sort: Title of a column.
        """

    @abstractmethod
    def key(self, item: T) -> Hashable:
        """What stays the same of it when it is listed again."""

    @abstractmethod
    def cell(self, item: T, column: Column, width: int, contents: Contents) -> Piece:
        """What stands in a column; what is too long is cut by who asks."""

    @abstractmethod
    def users(self, item: T) -> dict[str, int | None]:
        """Whose it is, and their uids; None for a uid that is nobody's on this host."""

    def clock(self, wall_ns: int, width: int = 8) -> str:
        """A time, as much of it as there is room for."""
        moment = datetime.fromtimestamp(wall_ns // NS, UTC).astimezone(self.zone)
        if width >= 23:
            return f"{moment:%Y-%m-%d %H:%M:%S}.{wall_ns // 1_000_000 % 1000:03d}"
        return f"{moment:%Y-%m-%d %H:%M:%S}" if width >= 19 else f"{moment:%H:%M:%S}"

    def until(self, seconds: float, contents: Contents) -> str:
        """When something ends."""
        return show_until(seconds, contents.now_ns / NS, self.zone)


def show_until(seconds: float, now_s: float, zone: tzinfo | None) -> str:
    """When something ends, in wall time: the day is named where it is another one.

    Args:
        seconds: When.
        now_s: Now.
        zone: Where; None for the local zone.
    """
    moment = datetime.fromtimestamp(seconds, UTC).astimezone(zone)
    today = datetime.fromtimestamp(now_s, UTC).astimezone(zone)
    return f"{moment:%H:%M}" if moment.date() == today.date() else f"{moment:%m-%d %H:%M}"


def is_wanted(text: str, words: Sequence[str]) -> bool:
    """Whether all words are in a text."""
    return all(map(text.lower().__contains__, words))


def pick_style(ports: Sequence[int]) -> str:
    """The colour of what used these ports: of several there is none."""
    return STYLES.get(ports[0], "plain") if len(ports) == 1 else "plain"
