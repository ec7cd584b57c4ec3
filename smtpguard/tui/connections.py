"""View 1: connections as they come, with the columns of the known monitor. Pure."""

from collections.abc import Sequence
from typing import ClassVar

from smtpguard.tui.columns import Column
from smtpguard.tui.contents import Contents
from smtpguard.tui.pieces import Piece
from smtpguard.tui.sightings import Sighting
from smtpguard.tui.view import STYLES, View, is_wanted

Numbered = tuple[int, Sighting]

_COLUMNS = (
    Column(title="", least=1),
    Column(title="TIMESTAMP", least=9, steps=(19, 23)),
    Column(title="USER", least=10, most=20),
    Column(title="PID", least=7, most=8, is_right=True),
    Column(title="PROCESS", least=10, most=15),
    Column(title="PORT", least=4, most=5, is_right=True),
    Column(title="PROTO", least=10),
    Column(title="DESTINATION", least=15, most=24),
)
_RDNS = Column(title="RDNS", least=16, most=34)
_PATHS = (
    Column(title="CWD", least=16, most=36, keeps_end=True),
    Column(title="SCRIPT", least=20, most=60, keeps_end=True),
)


class Connections(View[Numbered]):
    """Every attempt."""

    name: ClassVar[str] = "Connections"
    short: ClassVar[str] = "Conns"
    sorts: ClassVar[tuple[str, ...]] = ("TIMESTAMP", "USER", "PORT", "DESTINATION", "SCRIPT")
    pinned: ClassVar[int] = 3
    is_log: ClassVar[bool] = True

    def columns(self, *, rdns: bool) -> Sequence[Column]:
        """Those of the known monitor, and a mark for what was refused."""
        return (*_COLUMNS, _RDNS, *_PATHS) if rdns else (*_COLUMNS, *_PATHS)

    def list(self, contents: Contents, words: Sequence[str], sort: str) -> Sequence[Numbered]:
        """Those that are kept, the oldest first."""
        found: Sequence[Numbered] = tuple(contents.kept)
        if words:
            found = [one for one in found if is_wanted(_join(one[1]), words)]
        if sort == "USER":
            return sorted(found, key=lambda one: one[1].user)
        if sort == "PORT":
            return sorted(found, key=lambda one: one[1].port)
        if sort == "DESTINATION":
            return sorted(found, key=lambda one: one[1].address)
        if sort == "SCRIPT":
            return sorted(found, key=lambda one: one[1].script)
        return found

    def key(self, item: Numbered) -> int:
        """Its serial number."""
        return item[0]

    def cell(self, item: Numbered, column: Column, width: int, contents: Contents) -> Piece:
        """One of its fields."""
        del contents
        seen = item[1]
        style = STYLES.get(seen.port, "plain")
        match column.title:
            case "":
                return Piece("x" if seen.is_refused else " ", "refused")
            case "TIMESTAMP":
                return Piece(self.clock(seen.wall_ns, width))
            case "USER":
                return Piece(seen.user, "refused" if seen.is_refused else "plain")
            case "PID":
                return Piece("-" if seen.pid is None else str(seen.pid))
            case "PROCESS":
                return Piece(seen.proc)
            case "PORT":
                return Piece(str(seen.port), style)
            case "PROTO":
                return Piece(seen.protocol, style)
            case "DESTINATION":
                return Piece(seen.address, style)
            case "RDNS":
                return Piece(seen.rdns)
            case "CWD":
                return Piece(seen.cwd)
        return Piece(seen.script)

    def users(self, item: Numbered) -> dict[str, int | None]:
        """One."""
        return {item[1].user: item[1].account_uid}


def _join(seen: Sighting) -> str:
    parts = (seen.user, seen.domain, seen.proc, seen.address, seen.rdns, seen.cwd, seen.script, seen.exe, seen.protocol)
    return f"{' '.join(parts)} {seen.port} {seen.pid} {seen.result}"
