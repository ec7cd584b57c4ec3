"""What each key does. Pure: keys are given to it, and what the screen can't do itself it gives back."""

from dataclasses import dataclass
from typing import Literal

from smtpguard.tui.confirmation import Confirmation, Deed
from smtpguard.tui.screen_model import ScreenModel

MAX_NEEDLE = 60
_DEEDS: dict[str, Deed] = {"b": "block", "u": "unblock", "a": "allow"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What the model can't do itself.

    Attributes:
        what: Ask why, do a deed, or end.
        user, uid: About whom.
        for_s: For how long; 0 where it is not said.
        is_repeated: Whether nobody asked for it just now.
    """

    what: Literal["why", "quit"] | Deed
    user: str = ""
    uid: int = -1
    for_s: int = 0
    is_repeated: bool = False


class Keyboard:
    """Keys for a screen.

    Args:
        model: What they change.
    """

    def __init__(self, model: ScreenModel) -> None:
        self._model = model

    def press(self, key: str, character: str | None) -> Wish | None:
        """What a key does; letters do the same in either case.

        Args:
            key: Its name.
            character: What it types; None if nothing.
        """
        model = self._model
        if model.shows_help:
            model.shows_help = False
            return None
        if model.question is not None:
            return self._answer(model.question, key, character)
        if model.is_typing:
            self._type(key, character)
            return None
        model.message = ""
        letter = (character or "").lower()
        if letter == "q":
            return Wish(what="quit")
        if letter in _DEEDS:
            self._ask(_DEEDS[letter])
        elif key == "enter":
            return self.open_card()
        elif key == "escape":
            self._step_back()
        elif letter:
            self._toggle(letter)
        else:
            self._move(key)
        return None

    def open_card(self) -> Wish | None:
        """The card of whose row it is."""
        model = self._model
        found = model.find_whom()
        if found is None:
            return None
        model.card_of, model.card = found, None
        return Wish(what="why", user=found[0], uid=found[1])

    def _toggle(self, letter: str) -> None:
        model = self._model
        match letter:
            case "p" | " ":
                model.toggle_pause()
            case "c":
                model.clear()
            case "r":
                model.shows_rdns = not model.shows_rdns
            case "i":
                model.shows_info = not model.shows_info
            case "s":
                model.sort_next()
            case "/":
                model.is_typing = True
            case "?":
                model.shows_help = True
            case "1" | "2" | "3" | "4" | "5":
                model.show_view(int(letter) - 1)

    def _move(self, key: str) -> None:
        model = self._model
        match key:
            case "up":
                model.scroll(-1)
            case "down":
                model.scroll(1)
            case "pageup":
                model.scroll(-model.height)
            case "pagedown":
                model.scroll(model.height)
            case "home" | "end":
                model.jump(to_end=key == "end")
            case "left":
                model.shift(-1)
            case "right":
                model.shift(1)

    def _step_back(self) -> None:
        """Escape: one thing after the other goes."""
        model = self._model
        if model.card_of is not None:
            model.card_of = model.card = None
        elif model.needle:
            model.needle = ""
        else:
            model.shows_info = False

    def _type(self, key: str, character: str | None) -> None:
        model = self._model
        if key == "escape":
            model.needle, model.is_typing = "", False
        elif key == "enter":
            model.is_typing = False
        elif key == "backspace":
            model.needle = model.needle[:-1]
        elif character is not None and character.isascii() and character.isprintable():
            model.needle = (model.needle + character)[:MAX_NEEDLE]
        else:
            self._move(key)

    def _ask(self, deed: Deed) -> None:
        model = self._model
        found = model.find_whom() if model.card_of is None else model.card_of
        if found is not None:
            user, uid = found
            model.question = Confirmation.begin(deed, user, uid, model.collector.contents.facts.held_for(uid))

    def _answer(self, question: Confirmation, key: str, character: str | None) -> Wish | None:
        model = self._model
        if character in ("+", "=", "-") and question.deed != "unblock":
            model.question = question.lengthen(-1 if character == "-" else 1)
        elif character in ("y", "Y"):
            model.question = None
            model.message = f"{question.deed} {question.user} ..."
            for_s = 0 if question.deed == "unblock" else question.for_s
            return Wish(what=question.deed, user=question.user, uid=question.uid, for_s=for_s)
        elif character in ("n", "N", "q", "Q") or key == "escape":
            model.question = None
            model.message = f"{question.user}: nothing was done"
        return None
