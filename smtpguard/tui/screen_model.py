"""The screen without a terminal: what is looked at, and what can be done with it. Pure: time is given to it."""

from collections.abc import Hashable, Sequence
from datetime import tzinfo
from typing import TYPE_CHECKING, Any

from smtpguard.model import NS
from smtpguard.tui.connections import Connections
from smtpguard.tui.contents import Collector, Contents
from smtpguard.tui.cursor import Cursor
from smtpguard.tui.facts import Facts, Link
from smtpguard.tui.measures import Measures
from smtpguard.tui.sightings import Sighting
from smtpguard.tui.sum_views import DestinationSums, ScriptSums
from smtpguard.tui.users import Users
from smtpguard.tui.view import View

if TYPE_CHECKING:
    from smtpguard.tui.confirmation import Confirmation


class Tab:
    """A view, and where one is in it.

    Args:
        view: Which.

    Attributes:
        view: As above.
        cursor: The place.
        sort: Title of the column by which it is sorted.
        shift: Columns moved out of sight.
    """

    def __init__(self, view: View[Any]) -> None:
        self.view = view
        self.cursor = Cursor(follows=view.is_log)
        self.sort = view.sorts[0]
        self.shift = 0


class ScreenModel:
    """What is shown, and what is asked.

    Args:
        now_ns: Wall time.
        zone: In which times are shown; None for the local one.
        ports: Which are guarded, as long as no guard says so.

    Attributes:
        zone, ports: As above.
        collector: Takes what comes, paused or not.
        tabs: The five views.
        number: Which of them is shown.
        needle: What is looked for.
        is_typing: Whether keys are letters of it.
        shows_rdns, shows_info, shows_help: What is shown beside the list.
        card_of: Whose card is shown; None for none.
        card: That card's object, as `why --json` has it; None until it is there.
        question: What is to be confirmed.
        message: What to say below.
        height: Rows of the list.
    """

    def __init__(self, now_ns: int, zone: tzinfo | None = None, ports: Sequence[int] = ()) -> None:
        self.collector = Collector(now_ns)
        views: tuple[View[Any], ...] = (
            Connections(zone),
            Users(zone),
            ScriptSums(zone),
            DestinationSums(zone),
            Measures(zone),
        )
        self.zone = zone
        self.ports = tuple(ports)
        self.tabs = [Tab(view) for view in views]
        self.number = 0
        self.needle = ""
        self.is_typing = self.shows_rdns = self.shows_info = self.shows_help = False
        self.card_of: tuple[str, int] | None = None
        self.card: dict[str, Any] | None = None
        self.question: Confirmation | None = None
        self.message = ""
        self.height = 1
        self.rows: Sequence[Any] = ()
        self._keys: Sequence[Hashable] = ()
        self._listed: tuple[Contents, int, int, str, str] | None = None
        self._frozen: Contents | None = None
        self._frozen_at = 0

    @property
    def tab(self) -> Tab:
        """What is looked at."""
        return self.tabs[self.number]

    @property
    def contents(self) -> Contents:
        """What is shown: while paused, what there was when that began."""
        return self.collector.contents if self._frozen is None else self._frozen

    @property
    def is_paused(self) -> bool:
        """Whether nothing moves."""
        return self._frozen is not None

    @property
    def came_meanwhile(self) -> int:
        """Attempts since the pause began."""
        return self.collector.contents.seen - self._frozen_at if self.is_paused else 0

    def take(self, sightings: Sequence[Sighting], left_out: int, now_ns: int) -> None:
        """Take what came.

        Args:
            sightings: Attempts.
            left_out: How many were too fast.
            now_ns: Wall time.
        """
        self.collector.add(sightings)
        contents = self.collector.contents
        if sightings or left_out or now_ns // NS != contents.now_ns // NS:
            contents.version += 1
        contents.left_out += left_out
        contents.now_ns = now_ns

    def learn(self, facts: Facts) -> None:
        """Take what the guard says."""
        self.collector.contents.facts = facts
        self.collector.contents.version += 1

    def connect(self, link: Link, why: str) -> None:
        """Take where attempts come from, and why not from the daemon."""
        contents = self.collector.contents
        contents.link, contents.why = link, why

    def settle(self) -> None:
        """List again what is shown, as it is now; a list of 10,000 that has not changed stands (it takes 20 ms)."""
        tab, contents = self.tab, self.contents
        listed = (contents, contents.version, self.number, self.needle, tab.sort)
        if self._listed is None or self._listed[0] is not contents or self._listed[1:] != listed[1:]:
            self.rows = tab.view.list(contents, self.needle.lower().split(), tab.sort)
            self._keys = list(map(tab.view.key, self.rows))
            self._listed = listed
        tab.cursor.settle(self._keys, self.height)

    def selected(self) -> Any | None:  # noqa: ANN401 - a row of the view
        """The row that one is on."""
        return self.rows[self.tab.cursor.index] if self.rows else None

    def show_view(self, number: int) -> None:
        """Look at another view."""
        self.number = number
        self.settle()

    def select(self, row: int) -> bool:
        """Go to a row in sight; says whether one was there already."""
        cursor = self.tab.cursor
        index = cursor.top + row
        if not 0 <= index < len(self.rows):
            return False
        was_there = index == cursor.index
        cursor.move(index - cursor.index, self._keys, self.height)
        return was_there

    def scroll(self, rows: int) -> None:
        """Go down by rows, or up."""
        self.tab.cursor.move(rows, self._keys, self.height)
        self._follow_again(rows)

    def sort_by(self, title: str) -> None:
        """Sort by a column, if one can."""
        if title in self.tab.view.sorts:
            self.tab.sort = title
            self.tab.cursor.follows = self.is_log_in_order()
            self.settle()
            self.message = f"sorted by {title}"

    def visible_uids(self, most: int) -> list[int]:
        """Users in sight, of whom the guard is asked."""
        top = self.tab.cursor.top
        found: dict[int, None] = {}
        for row in self.rows[top : top + self.height]:
            found |= dict.fromkeys(uid for uid in self.tab.view.users(row).values() if uid is not None)
        return list(found)[:most]

    def is_log_in_order(self) -> bool:
        """Whether its end is the newest."""
        return self.tab.view.is_log and self.tab.sort == self.tab.view.sorts[0]

    def jump(self, *, to_end: bool) -> None:
        """Go to the oldest row, which pauses, or to the latest, which is live again."""
        cursor, count = self.tab.cursor, len(self.rows)
        if not to_end:
            if not self.is_paused:
                self.pause()
            cursor.move(-count, self._keys, self.height)
            return
        self.resume()
        cursor.move(count, self._keys, self.height)
        cursor.follows = self.is_log_in_order()

    def shift(self, columns: int) -> None:
        """Move columns out of sight, or back."""
        view = self.tab.view
        most = len(view.columns(rdns=self.shows_rdns)) - view.pinned - 1
        self.tab.shift = max(0, min(self.tab.shift + columns, most))

    def sort_next(self) -> None:
        """Sort by the next column by which one can."""
        sorts = self.tab.view.sorts
        self.sort_by(sorts[(sorts.index(self.tab.sort) + 1) % len(sorts)])

    def clear(self) -> None:
        """Forget all attempts, those that are frozen too."""
        self.collector.clear(self.collector.contents.now_ns)
        if self.is_paused:
            self.pause()

    def _follow_again(self, rows: int) -> None:
        at_end = self.tab.cursor.index >= len(self.rows) - 1
        if rows > 0 and at_end and not self.is_paused:
            self.tab.cursor.follows = self.is_log_in_order()

    def toggle_pause(self) -> None:
        """Freeze, or go on."""
        if self.is_paused:
            self.resume()
        else:
            self.pause()

    def pause(self) -> None:
        """Freeze all that is shown; what comes is kept."""
        self._frozen = self.collector.contents.copy()
        self._frozen_at = self._frozen.seen

    def resume(self) -> None:
        """Show what has come meanwhile."""
        self._frozen = None

    def find_whom(self) -> tuple[str, int] | None:
        """Whose the row is; says so where it can't be said."""
        row = self.selected()
        users = self.tab.view.users(row) if row is not None else {}
        if len(users) > 1:
            self.message = f"{len(users)} users: choose one of them in view 1 or 2"
            return None
        for user, uid in users.items():
            if uid is None:
                self.message = f"{user} is nobody's account on this host"
                return None
            return user, uid
        self.message = "there is nobody in this list"
        return None
