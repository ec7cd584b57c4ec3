"""Each view and pane at 80x24 and 200x60: golden files of the characters, and nothing is wider than the terminal."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.tui.support import CARD, FACTS, SIZES, Stage, play, sighting

Golden = Callable[[str, str], None]


@pytest.mark.parametrize("size", SIZES, ids=["80x24", "200x60"])
def test_every_view_and_pane(size: tuple[int, int], check_golden: Golden) -> None:
    stage = Stage(card=CARD)
    shown: dict[str, list[str]] = {}

    async def scene(stage: Stage) -> None:
        shown["connections"] = await stage.turn()
        for key, name in (("2", "users"), ("3", "scripts"), ("4", "destinations"), ("5", "blocks")):
            shown[name] = await stage.press(key)
        await stage.press("1", "r")
        shown["names"] = await stage.press("right", "right")
        shown["info"] = await stage.press("r", "left", "left", "i")
        shown["why"] = await stage.press("i", "enter")
        shown["why-info"] = await stage.press("i")
        shown["block"] = await stage.press("i", "escape", "b")
        shown["unblock"] = await stage.press("n", "2", "u")
        shown["allow"] = await stage.press("n", "a", "+")
        shown["help"] = await stage.press("n", "question_mark")
        shown["filter"] = await stage.press("x", "1", "slash", *"web1 587")
        await stage.press("escape", "p")
        shown["paused"] = await stage.turn(*(sighting(n) for n in range(100, 130)), seconds=2)
        await stage.press("p")
        shown["dry"] = await stage.learn(replace(FACTS, mode="dry-run"))
        shown["off"] = await stage.learn(replace(FACTS, mode="off"))
        blind = ("BLIND: no source works. Nothing is seen, nobody is stopped. See: smtpguard doctor",)
        shown["blind"] = await stage.learn(replace(FACTS, is_blind=True, troubles=blind))
        stage.feed.left_out = 12_345
        shown["left-out"] = await stage.turn()
        stage.feed.link, stage.feed.why = "none", "no daemon answers"
        shown["no-daemon"] = await stage.turn()
        stage.feed.link = "own"
        shown["own-source"] = await stage.turn()

    play(stage, size, scene)
    width, height = size
    for name, lines in shown.items():
        assert len(lines) == height
        assert max(map(len, lines)) <= width
        check_golden(f"tui/{name}.{width}x{height}", "\n".join(lines) + "\n")
