"""View 5: what is in force, and incidents. Pure."""

from collections.abc import Sequence
from typing import ClassVar

from smtpguard.model import NS
from smtpguard.tui.columns import Column
from smtpguard.tui.contents import Contents
from smtpguard.tui.facts import Episode, Held
from smtpguard.tui.pieces import Piece
from smtpguard.tui.users import name_state, rank_held, style_state
from smtpguard.tui.view import View, is_wanted

_COLUMNS = (
    Column(title="WHAT", least=13, most=16),
    Column(title="USER", least=12, most=20),
    Column(title="UNTIL", least=11),
    Column(title="REFUSED", least=7, most=8, is_right=True),
    Column(title="WHY", least=30, most=80),
    Column(title="SINCE", least=11),
    Column(title="BY", least=8, most=16),
    Column(title="PORTS", least=8, most=16),
)
_SINCE = _COLUMNS[5]
Measure = Held | Episode


class Measures(View[Measure]):
    """Blocks, throttles and allowances, then incidents."""

    name: ClassVar[str] = "Blocks"
    short: ClassVar[str] = "Blocks"
    sorts: ClassVar[tuple[str, ...]] = ("WHAT", "USER", "REFUSED", "SINCE")

    def columns(self, *, rdns: bool) -> Sequence[Column]:
        """Always the same."""
        del rdns
        return _COLUMNS

    def list(self, contents: Contents, words: Sequence[str], sort: str) -> Sequence[Measure]:
        """All that is known."""
        found: list[Measure] = [*contents.facts.held, *contents.facts.episodes]
        if words:
            texts = [(one, " ".join(self.cell(one, column, 80, contents).text for column in _COLUMNS)) for one in found]
            found = [one for one, text in texts if is_wanted(text, words)]
        if sort == "USER":
            return sorted(found, key=lambda one: one.user)
        if sort == "REFUSED":
            return sorted(found, key=lambda one: -one.refused)
        if sort == "SINCE":
            return sorted(found, key=lambda one: self.cell(one, _SINCE, 11, contents).text, reverse=True)
        return sorted(found, key=lambda one: -rank_held([one]) if isinstance(one, Held) else 1)

    def key(self, item: Measure) -> tuple[object, ...]:
        """The incident's name; of a block whose, by whom and of what kind."""
        if isinstance(item, Episode):
            return ("incident", item.id)
        return (item.kind, item.user, item.is_local, item.by, item.since, item.ports)

    def users(self, item: Measure) -> dict[str, int | None]:
        """The one."""
        if isinstance(item, Held) and not item.is_local:
            return {item.user: None}
        return {item.user: item.uid}

    def cell(self, item: Measure, column: Column, width: int, contents: Contents) -> Piece:
        """One of its fields."""
        del width, contents
        if isinstance(item, Episode):
            return _show_episode(item, column)
        match column.title:
            case "WHAT":
                return Piece(name_state(item), style_state(item))
            case "USER":
                return Piece(item.user)
            case "SINCE":
                return Piece(self._moment(item.since))
            case "UNTIL":
                return Piece(self._moment(item.until))
            case "REFUSED":
                return Piece(str(item.refused))
            case "WHY":
                return Piece(item.why)
            case "BY":
                return Piece(item.by)
        return Piece("all" if item.ports is None else ",".join(map(str, item.ports)))

    def _moment(self, seconds: float) -> str:
        return self.clock(int(seconds) * NS, 19)[5:16]


def _show_episode(item: Episode, column: Column) -> Piece:
    is_open = item.state == "goes on"
    match column.title:
        case "WHAT":
            return Piece("incident" if item.mode == "enforce" else "incident, dry", "dry" if is_open else "plain")
        case "USER":
            return Piece(item.user)
        case "SINCE":
            return Piece(item.first[5:16].replace("T", " "))
        case "UNTIL":
            return Piece("goes on" if is_open else item.last[5:16].replace("T", " "))
        case "REFUSED":
            return Piece(str(item.refused))
        case "WHY":
            verdicts = f"{item.verdicts} verdict{'' if item.verdicts == 1 else 's'}"
            return Piece(f"{item.id} {item.state}: {verdicts} {item.rules}")
    return Piece("-")
