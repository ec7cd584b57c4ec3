"""Lines of spans as a widget of Textual's: no markup is ever read, so that what tenants write stays text."""

from collections.abc import Sequence

from rich.segment import Segment
from rich.style import Style
from textual.geometry import Region
from textual.strip import Strip
from textual.widget import Widget

from smtpguard.tui.palette import SELECTED, STYLES
from smtpguard.tui.pieces import Line


class Pane(Widget, can_focus=False):
    """Shows lines; those that change are drawn anew, and no others."""

    ALLOW_SELECT = False

    def __init__(self, name: str) -> None:
        super().__init__(id=name)
        self._shown: list[tuple[Line, bool]] = []

    def show(self, lines: Sequence[Line], selected: int | None = None) -> None:
        """Take what there is to be shown.

        Args:
            lines: Of the pane's width.
            selected: Which of them one is on.
        """
        new = [(line, number == selected) for number, line in enumerate(lines)]
        old, self._shown = self._shown, new
        if len(old) != len(new):
            self.refresh()
            return
        changed = [number for number, line in enumerate(new) if line != old[number]]
        if changed:
            width = self.size.width
            self.refresh(*(Region(0, number, width, 1) for number in changed))

    def render_line(self, y: int) -> Strip:
        """One of them."""
        if not 0 <= y < len(self._shown):
            return Strip.blank(self.size.width, Style())
        line, is_selected = self._shown[y]
        over = SELECTED if is_selected else Style()
        return Strip([Segment(span.text, STYLES[span.style] + over) for span in line]).adjust_cell_length(
            self.size.width
        )
