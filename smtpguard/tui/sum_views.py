"""Views 3 and 4: scripts and destinations, with what they come to. Pure."""

from collections.abc import Sequence
from functools import partial
from operator import attrgetter
from typing import ClassVar

from smtpguard.tui.columns import Column
from smtpguard.tui.contents import Contents
from smtpguard.tui.pieces import Piece
from smtpguard.tui.tally import Sum, Sums
from smtpguard.tui.view import View, is_wanted, pick_style

_FIGURES = (
    Column(title="SEEN", least=6, most=8, is_right=True),
    Column(title="/MIN", least=5, is_right=True),
    Column(title="REFUSED", least=7, most=8, is_right=True),
    Column(title="LAST", least=8),
    Column(title="USERS", least=12, most=20),
)


class SumView(View[Sum]):
    """Sums of one kind."""

    sorts: ClassVar[tuple[str, ...]] = ("SEEN", "/MIN", "REFUSED", "LAST", "USERS")
    pinned: ClassVar[int] = 1

    def list(self, contents: Contents, words: Sequence[str], sort: str) -> Sequence[Sum]:
        """All of them, those first of which there is most."""
        found = list(self._sums(contents))
        if words:
            found = [one for one in found if is_wanted(f"{one.key} {' '.join(one.users)} {_name(one)}", words)]

        found.sort(key=attrgetter("key"))  # thrice by one thing takes half as long as once by three: 3 ms for 10,000
        found.sort(key=attrgetter("seen"), reverse=True)
        if sort != "SEEN":
            found.sort(key=partial(_rank, sort, contents.now_ns), reverse=True)
        return found

    def _sums(self, contents: Contents) -> Sums:
        raise NotImplementedError

    def key(self, item: Sum) -> str:
        """What it is the sum of."""
        return item.key

    def users(self, item: Sum) -> dict[str, int | None]:
        """Whoever ran it, or connected there."""
        return item.users

    def cell(self, item: Sum, column: Column, width: int, contents: Contents) -> Piece:
        """One of the figures."""
        del width
        match column.title:
            case "SEEN":
                return Piece(str(item.seen))
            case "/MIN":
                return Piece(str(item.per_minute(contents.now_ns)))
            case "REFUSED":
                return Piece(str(item.refused), "refused" if item.refused else "plain")
            case "LAST":
                return Piece("-" if item.last is None else self.clock(item.last.wall_ns))
            case "USERS":
                return Piece(next(iter(item.users)) if len(item.users) == 1 else f"{len(item.users)} users")
            case "PORTS":
                return Piece(",".join(map(str, sorted(item.ports))), pick_style(item.ports))
            case "RDNS":
                return Piece(_name(item))
        return Piece(item.key, pick_style(item.ports))


class ScriptSums(SumView):
    """ScriptSums; where none is known, programs."""

    name: ClassVar[str] = "Scripts"
    short: ClassVar[str] = "Scripts"

    def columns(self, *, rdns: bool) -> Sequence[Column]:
        """Always the same."""
        del rdns
        return (*_FIGURES, Column(title="SCRIPT OR PROGRAM", least=30, most=200, keeps_end=True))

    def _sums(self, contents: Contents) -> Sums:
        return contents.scripts


class DestinationSums(SumView):
    """Where to."""

    name: ClassVar[str] = "Destinations"
    short: ClassVar[str] = "Dests"

    def columns(self, *, rdns: bool) -> Sequence[Column]:
        """With their names, where they are wanted."""
        ports = Column(title="PORTS", least=8, most=16)
        address = Column(title="DESTINATION", least=24, most=39)
        name = (Column(title="RDNS", least=20, most=200),) if rdns else ()
        return (*_FIGURES, ports, address, *name)

    def _sums(self, contents: Contents) -> Sums:
        return contents.places


def _rank(sort: str, now_ns: int, one: Sum) -> int:
    """By what they are sorted first; the greater is the higher."""
    match sort:
        case "/MIN":
            return one.per_minute(now_ns)
        case "REFUSED":
            return one.refused
        case "LAST":
            return one.last.wall_ns if one.last is not None else 0
    return len(one.users)


def _name(total: Sum) -> str:
    return "-" if total.last is None else total.last.rdns
