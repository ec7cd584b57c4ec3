"""The screen as a program of Textual's: gives keys, clicks and time to the model, and shows the lines of its pages."""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any

from textual import events
from textual.app import App, ComposeResult
from textual.containers import Container

from smtpguard.errors import GuardError
from smtpguard.hooks import ClockNs
from smtpguard.tui import page
from smtpguard.tui.desk import Desk
from smtpguard.tui.facts import Facts
from smtpguard.tui.feed import Feed
from smtpguard.tui.keyboard import Keyboard, Wish
from smtpguard.tui.pane import Pane
from smtpguard.tui.screen_model import ScreenModel

TURN_S = 0.2
"""How often what came is shown."""
SLICE = 250
"""Attempts that are counted at once, 1 to 4 ms: a key that is pressed meanwhile waits for no more of them."""
POLL_TURNS = 10
"""How many of these lie between two questions to the guard."""
MAX_ASKED = 200


class WatchApp(App[None]):
    """The screen.

    Args:
        feed: Gives attempts.
        desk: Answers for the guard.
        model: What is shown.
        clock: Wall time.
        is_timed: Whether turns come by themselves; tests make them.
    """

    ENABLE_COMMAND_PALETTE = False
    ALLOW_SELECT = False
    CSS = """
    Screen { layers: base over; overflow: hidden; }
    #top { height: 2; }
    #body { height: 1fr; layout: vertical; }
    #list { height: 1fr; width: 1fr; }
    #card { display: none; }
    #info { display: none; height: 6; }
    #bottom { height: 1; }
    #over { layer: over; display: none; border: solid; }
    """

    def __init__(self, feed: Feed, desk: Desk, model: ScreenModel, clock: ClockNs, *, is_timed: bool = True) -> None:
        super().__init__(ansi_color=True)
        self.theme = "ansi-dark"
        self._feed = feed
        self._desk = desk
        self._model = model
        self._keyboard = Keyboard(model)
        self._clock = clock
        self._is_timed = is_timed
        self._turns = 0
        self._is_polling = False
        self._is_taking = False
        self._drawn_version = -1

    def compose(self) -> ComposeResult:
        """The panes."""
        yield Pane("top")
        with Container(id="body"):
            yield Pane("list")
            yield Pane("card")
        yield Pane("info")
        yield Pane("bottom")
        yield Pane("over")

    def on_mount(self) -> None:
        """Begin."""
        self.turn()
        if self._is_timed:
            self.set_interval(TURN_S, self.turn)

    def turn(self) -> None:
        """Take what came, and show it; where it is too much for one turn, what there is of it already."""
        if self._is_taking:
            self.draw()
        else:
            self._take()
        if self._turns % POLL_TURNS == 0:
            self.poll()
            self._renew_card()
        self._turns += 1

    def _take(self) -> None:
        came = self._feed.drain(SLICE)
        self._model.take(came.sightings, came.left_out, self._clock())
        self._model.connect(came.link, came.why)
        self._is_taking = len(came.sightings) == SLICE
        if self._is_taking:
            self.call_later(self._take_more)
        elif self._model.collector.contents.version != self._drawn_version:
            self.draw()

    async def _take_more(self) -> None:
        await asyncio.sleep(0)  # Textual does not let go of the loop while messages wait, and keys come by the loop
        self._take()

    def on_resize(self) -> None:
        """Another size."""
        self.call_after_refresh(self.draw)

    def on_key(self, event: events.Key) -> None:
        """A key."""
        event.stop()
        event.prevent_default()
        if event.key == "ctrl+c":
            self.exit()
            return
        self._carry_out(self._keyboard.press(event.key, event.character if event.is_printable else None))
        self.draw()

    def on_paste(self, event: events.Paste) -> None:
        """Text from a clipboard is looked for, and never taken for keys."""
        event.stop()
        if self._model.is_typing:
            for character in event.text[:60]:
                self._keyboard.press("", character)
            self.draw()

    def on_click(self, event: events.Click) -> None:
        """A row is gone to, and a second click opens its card; heads sort; tabs are views."""
        model = self._model
        if model.shows_help or model.question is not None:
            model.shows_help = False
        elif event.widget is not None and event.widget.id == "list":
            self._click_list(event.x, event.y)
        elif event.widget is not None and event.widget.id == "top" and event.y == 1:
            number = page.find_tab(model, event.x, self.size.width)
            if number is not None:
                model.show_view(number)
        self.draw()

    def _click_list(self, x: int, y: int) -> None:
        model = self._model
        if y:
            if model.select(y - 1):
                self._carry_out(self._keyboard.open_card())
            return
        columns = model.tab.view.columns(rdns=model.shows_rdns)
        for place in page.list_placed(model, self.query_one("#list").size.width):
            if place.at <= x < place.at + place.width:
                model.sort_by(columns[place.index].title)

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        """The wheel."""
        event.stop()
        self._model.scroll(3)
        self.draw()

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        """The wheel."""
        event.stop()
        self._model.scroll(-3)
        self.draw()

    def _carry_out(self, wish: Wish | None) -> None:
        if wish is None:
            return
        if wish.what == "quit":
            self.exit()
        else:
            self.run_worker(partial(self._ask, wish), thread=True, exit_on_error=False)

    def _ask(self, wish: Wish) -> None:
        """In a thread: ask the guard, and come back with the answer."""
        try:
            if wish.what == "why":
                why = self._desk.why(wish.uid)
                self.call_from_thread(self._show_card, wish, why)
                return
            if wish.what != "quit":
                text = self._desk.carry_out(wish.what, wish.uid, wish.for_s)
                self.call_from_thread(self._say, text)
                self.call_from_thread(self.poll)
        except GuardError as error:
            if not wish.is_repeated:
                self.call_from_thread(self._say, f"{wish.user}: {error}")

    def _renew_card(self) -> None:
        """What the card says goes on changing; not while all stands still."""
        user = self._model.card_of
        if user is not None and self._model.card is not None and not self._model.is_paused:
            self._carry_out(Wish(what="why", user=user[0], uid=user[1], is_repeated=True))

    def _show_card(self, wish: Wish, why: dict[str, Any]) -> None:
        if self._model.card_of == (wish.user, wish.uid) and not (wish.is_repeated and self._model.is_paused):
            self._model.card = why
        self.draw()

    def _say(self, text: str) -> None:
        self._model.message = text
        self.draw()

    def poll(self) -> None:
        """Ask the guard how things stand; one question at a time."""
        if not self._is_polling:
            self._is_polling = True
            uids = self._model.visible_uids(MAX_ASKED)
            self.run_worker(partial(self._poll, uids), thread=True, exit_on_error=False)

    def _poll(self, uids: Sequence[int]) -> None:
        try:
            facts = self._desk.poll(uids)
        except GuardError:
            facts = Facts()
        self.call_from_thread(self._learn, facts)

    def _learn(self, facts: Facts) -> None:
        self._is_polling = False
        self._model.learn(facts)
        self.draw()

    def draw(self) -> None:
        """Show the model as it is now."""
        width, height = self.size
        if width < 20 or height < 8:
            return
        model, now_ns = self._model, self._clock()
        self._drawn_version = model.collector.contents.version
        is_wide = width >= page.WIDE
        bottom = page.render_bottom(model, width)
        room = height - 2 - len(bottom) - (page.INFO_HEIGHT if model.shows_info else 0)
        card_width = min(80, width // 2) if is_wide else width
        card_height = room if is_wide else max(2, min(room - 6, 18))
        has_card = model.card_of is not None
        list_width = width - card_width if has_card and is_wide else width
        list_height = max(2, room - card_height if has_card and not is_wide else room)
        model.height = max(1, list_height - 1)
        model.settle()
        self._pane("top").show(page.render_top(model, width, now_ns))
        cursor = model.tab.cursor
        selected = cursor.index - cursor.top + 1 if model.rows else None
        self._pane("list").show(page.render_list(model, list_width, list_height), selected)
        self._lay_out(has_card=has_card, is_wide=is_wide, card_width=card_width, card_height=card_height)
        if has_card:
            self._pane("card").show(page.render_why(model, card_width, card_height))
        if model.shows_info:
            self._pane("info").show(page.render_info(model, width))
        self._pane("bottom").styles.height = len(bottom)
        self._pane("bottom").show(bottom)
        self._draw_over(width, height, now_ns)

    def _lay_out(self, *, has_card: bool, is_wide: bool, card_width: int, card_height: int) -> None:
        """Beside the list, or below it."""
        card, body, info = self._pane("card"), self.query_one("#body"), self._pane("info")
        card.display, info.display = has_card, self._model.shows_info
        body.styles.layout = "horizontal" if is_wide else "vertical"
        card.styles.width = card_width
        card.styles.height = card_height

    def _draw_over(self, width: int, height: int, now_ns: int) -> None:
        over, model = self._pane("over"), self._model
        over.display = model.shows_help or model.question is not None
        if not over.display:
            return
        room = min(76, width - 4)
        lines = page.render_help(room) if model.shows_help else page.render_question(model, room, now_ns)
        over.styles.width, over.styles.height = room + 2, min(len(lines) + 2, height)
        over.styles.offset = ((width - room - 2) // 2, max(0, (height - len(lines) - 2) // 2))
        over.show(lines)

    def _pane(self, name: str) -> Pane:
        return self.query_one(f"#{name}", Pane)
