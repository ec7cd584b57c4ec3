"""What each key does, in either case, on the screen as Textual's pilot drives it."""

import asyncio
from dataclasses import replace

import pytest

from smtpguard.tui.contents import MAX_KEPT
from tests.tui.support import CARD, FACTS, HELD, NOW, Stage, play, sighting


def test_views_pause_clear_and_quit() -> None:
    stage = Stage()

    async def scene(stage: Stage) -> None:
        assert (await stage.press("2"))[2].startswith("USER")
        assert (await stage.press("1"))[2].lstrip().startswith("TIMESTAMP")
        for letter in ("p", "P"):
            first = await stage.press(letter)
            assert " PAUSED +0 " in first[0]
            later = await stage.turn(*(sighting(n, user="new") for n in range(3)), seconds=2)
            assert " PAUSED +3 " in later[0]
            assert later[2:] == first[2:], "nothing moves"
            assert first[0].split()[-1] != later[0].split()[-1], "but the clock"
            assert not any("new" in line for line in later)
            users = await stage.press("2")
            assert not any("new" in line for line in users), "in every pane"
            await stage.press("1", letter)
            assert " LIVE " in stage.lines()[0]
            assert sum(" new " in line for line in stage.lines()) == 3, "it was kept"
            cleared = await stage.press("c" if letter == "p" else "C")
            assert cleared[1].endswith("0 seen")
            assert cleared[3] == "No connection yet."
        await stage.press("p")
        await stage.turn(sighting(1))
        assert (await stage.press("c"))[3] == "No connection yet.", "what waits in a pause goes, too"
        assert stage.app.is_running
        await stage.press("Q")
        assert not stage.app._running or stage.app._exit

    play(stage, (80, 24), scene)


def test_moving_about() -> None:
    stage = Stage()

    def pid(stage: Stage) -> int:
        return int(stage.model.selected()[1].pid)  # type: ignore[index]

    async def scene(stage: Stage) -> None:
        assert pid(stage) == 4001, "the latest"
        await stage.press("up", "up")
        assert pid(stage) == 4003
        await stage.turn(sighting(500))
        assert pid(stage) == 4003, "one stays where one is while more comes"
        await stage.press("pageup")
        assert pid(stage) == 4003 + stage.model.height
        await stage.press("pagedown", "pagedown")
        assert pid(stage) == 4500
        await stage.turn(sighting(501))
        assert pid(stage) == 4501, "at the end one follows again"
        lines = await stage.press("home")
        assert pid(stage) == 4040
        assert "PAUSED" in lines[0]
        lines = await stage.press("end")
        assert "LIVE" in lines[0]
        assert pid(stage) == 4501
        wide = stage.lines()[2]
        lines = await stage.press("right", "right", "right", "right", "right", "right")
        assert "SCRIPT" in lines[2]
        assert "USER" in lines[2], "the first ones stay"
        assert (await stage.press(*["left"] * 9))[2] == wide
        assert "RDNS" in (await stage.press("r", *["right"] * 5))[2]
        assert "RDNS" not in (await stage.press("R"))[2]
        assert "-- info" in "".join(await stage.press("I"))
        assert "-- info" not in "".join(await stage.press("i"))

    play(stage, (80, 24), scene)


def test_filter_as_one_types() -> None:
    stage = Stage()

    async def scene(stage: Stage) -> None:
        await stage.press("slash")
        lines = await stage.type("WEB3")
        assert all("web3" in line for line in lines[3:-1] if line)
        lines = await stage.type(" 587")
        assert all("SUBMISSION" in line for line in lines[3:-1] if line)
        assert any("SUBMISSION" in line for line in lines)
        lines = await stage.type("q")
        assert "Nothing has" in lines[3], "letters are letters here"
        await stage.press("backspace", "enter")
        lines = await stage.press("2")
        assert "filter 'WEB3 587'" in lines[-1]
        assert stage.model.needle == "WEB3 587", "it holds for every view"
        assert (await stage.press("escape"))[3].startswith("web")
        await stage.learn(
            replace(FACTS, held=(*FACTS.held, replace(HELD, user="web9", uid=1009, domain="old.example")))
        )
        await stage.press("slash")
        for words, user in (("site2.ex", "web2"), ("old.example", "web9")):
            lines = await stage.type(words)
            assert [line.split()[0] for line in lines[3:-1] if line] == [user], "whose domain it is"
            await stage.press(*["backspace"] * len(words))
        await stage.press("escape", "1", "slash")
        lines = await stage.type("site2.example")
        assert {line.lstrip("x ").split()[1] for line in lines[3:-1] if line} == {"web2"}

    play(stage, (80, 24), scene)


def test_sort_by_key_and_click() -> None:
    stage = Stage()

    async def scene(stage: Stage) -> None:
        assert stage.pilot is not None
        first = [line.split()[0] for line in (await stage.press("2"))[3:8]]
        await stage.press("S")
        assert stage.model.tab.sort == "SEEN"
        await stage.press("down")
        chosen = stage.model.selected().user  # type: ignore[union-attr]
        assert await stage.pilot.click("#list", offset=(2, 0))
        lines = await stage.press()
        names = [line.split()[0] for line in lines[3:8]]
        assert names == sorted(names)
        assert set(names) == set(first)
        assert stage.model.selected().user == chosen, "the row that one was on"  # type: ignore[union-attr]

    play(stage, (80, 24), scene)


def test_mouse() -> None:
    stage = Stage(card=CARD)

    async def scene(stage: Stage) -> None:
        assert stage.pilot is not None
        await stage.pilot.click("#top", offset=(12, 1))
        await stage.settle()
        assert stage.model.number == 1
        await stage.pilot.click("#list", offset=(2, 3))
        await stage.settle()
        assert stage.model.tab.cursor.index == 2
        assert stage.model.card_of is None
        await stage.pilot.click("#list", offset=(2, 3))
        await stage.settle()
        assert stage.model.card_of is not None, "a second click opens the card"

    play(stage, (80, 24), scene)


@pytest.mark.parametrize("key", ["b", "B", "u", "U", "a", "A"])
def test_nothing_is_done_without_a_yes(key: str) -> None:
    stage = Stage()
    deed = {"b": "block", "u": "unblock", "a": "allow"}[key.lower()]

    async def scene(stage: Stage) -> None:
        text = " ".join(await stage.press(key))
        assert f"{deed.upper()} web1 (uid 1001)" in text, "who"
        if deed == "unblock":
            assert "BLOCKED until 14:33 by guard" in text, "what ends"
        else:
            assert ("1 h, until 15:13" if deed == "block" else "24 h, until 09-22 14:13") in text, "until when"
        for other in ("n", "escape", "N", "q"):
            await stage.press(other)
            assert stage.model.question is None
            assert stage.app.is_running
            await stage.press(key, "x", "enter", "space", "b")
            assert stage.model.question is not None, "nothing else is a yes"
        assert stage.desk.done == []
        await stage.press("plus", "plus", "minus")
        lines = await stage.press("y")
        assert "done" in lines[-1]
        for_s = {"block": 4 * 3600, "unblock": 0, "allow": 7 * 86_400}[deed]
        assert stage.desk.done == [(deed, 1001, for_s)]

    play(stage, (80, 24), scene)


def test_card_beside_the_list_or_below_it() -> None:
    for size, beside in (((80, 24), False), ((200, 60), True)):
        stage = Stage(card=CARD)

        async def scene(stage: Stage, beside: bool = beside) -> None:
            lines = await stage.press("enter")
            (row,) = [number for number, line in enumerate(lines) if "-- why web1" in line]
            assert (row == 2) == beside
            assert any("US: port 25 refused since" in line for line in lines)
            assert stage.desk.done == [("why", 1001)]
            await stage.press("up")
            await stage.press("b")
            assert "BLOCK web1 (uid 1001)" in " ".join(stage.lines()), "the one whose card it is"
            await stage.press("n", "escape")
            assert "-- why" not in " ".join(stage.lines())

        play(stage, size, scene)


def test_the_card_goes_on_changing_but_for_a_pause() -> None:
    stage = Stage(card=CARD)

    async def scene(stage: Stage) -> None:
        await stage.press("enter")
        stage.desk.card = CARD | {"lines": ["NOT US: now"]}
        for _ in range(11):
            lines = await stage.turn()
        assert any("NOT US: now" in line for line in lines)
        await stage.press("p")
        stage.desk.card = CARD
        for _ in range(11):
            lines = await stage.turn()
        assert any("NOT US: now" in line for line in lines)

    play(stage, (80, 24), scene)


def test_errors_are_told_below() -> None:
    stage = Stage(error="no daemon answers")

    async def scene(stage: Stage) -> None:
        assert (await stage.press("b", "y"))[-1] == "web1: no daemon answers"
        assert (await stage.press("enter"))[-1] == "web1: no daemon answers"

    play(stage, (80, 24), scene)


def test_of_many_or_of_strangers_nobody_is_chosen() -> None:
    stage = Stage()

    async def scene(stage: Stage) -> None:
        lines = await stage.press("4", "b")
        assert lines[-1].startswith("4 users: choose one")
        await stage.press("1")
        lines = await stage.turn(sighting(1, user="uid:1001@container", is_contained=True))
        lines = await stage.press("b")
        assert lines[-1] == "uid:1001@container is nobody's account on this host"
        assert stage.model.question is None

    play(stage, (80, 24), scene)


def test_the_guard_is_asked_of_who_is_in_sight() -> None:
    stage = Stage()

    async def scene(stage: Stage) -> None:
        await stage.press("2")
        stage.app.poll()
        await stage.settle()
        assert set(stage.desk.asked[-1]) == {1000, 1001, 1002, 1003, 1004}
        lines = await stage.press()
        assert any(line.startswith("web0") and "270/300 hourly" in line for line in lines)
        assert any(line.startswith("web1") and "BLOCKED 14:33" in line for line in lines)
        assert any(line.startswith("web2") and "(throttled) 14:33" in line for line in lines)
        await stage.learn(replace(FACTS, held=(replace(HELD, user="gone", uid=7777),)))
        assert any(line.startswith("gone") and "BLOCKED" in line for line in stage.lines()), "seen or not"

    play(stage, (80, 24), scene)


def test_ten_thousand_are_kept_and_all_are_counted() -> None:
    stage = Stage()

    async def scene(stage: Stage) -> None:
        lines = await stage.turn(*(sighting(number) for number in range(12_000)))
        assert "12000 seen" in lines[1]
        assert len(stage.model.rows) == MAX_KEPT == 10_000
        await stage.press("home")
        assert stage.model.selected()[1].pid == 4000 + 2000  # type: ignore[index]
        assert stage.model.collector.contents.users.get("web0").seen == 2400  # type: ignore[union-attr]

    play(stage, (80, 24), scene, count=0)


def test_small_terminals_and_resizes() -> None:
    stage = Stage(card=CARD)

    async def scene(stage: Stage) -> None:
        assert stage.pilot is not None
        await stage.press("enter", "i", "question_mark")
        for size in ((20, 8), (40, 10), (10, 3), (1, 1), (300, 100), (80, 24)):
            await stage.pilot.resize_terminal(*size)
            await asyncio.sleep(0)
            await stage.turn(sighting(9))
        assert " LIVE " in stage.lines()[0]

    play(stage, (80, 24), scene)


def test_no_key_is_taken_from_a_paste() -> None:
    from textual import events

    stage = Stage()

    async def scene(stage: Stage) -> None:
        stage.app.post_message(events.Paste("by\nq"))
        await stage.settle()
        assert stage.model.question is None
        assert stage.desk.done == []
        await stage.press("slash")
        stage.app.post_message(events.Paste("web1\x1b[2J\u202e"))
        await stage.settle()
        assert stage.model.needle == "web1[2J"

    play(stage, (80, 24), scene)


def test_times_are_the_hosts() -> None:
    stage = Stage()

    async def scene(stage: Stage) -> None:
        lines = await stage.turn(sighting(1))
        assert lines[0].endswith("14:13:20")
        assert NOW == 1_790_000_000_000_000_000
        await stage.turn(seconds=61)
        assert stage.lines()[0].endswith("14:14:21")

    play(stage, (80, 24), scene)


@pytest.mark.parametrize("is_wanted", [True, False])
def test_colours_are_the_terminals_own_or_none(monkeypatch: pytest.MonkeyPatch, *, is_wanted: bool) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    if not is_wanted:
        monkeypatch.setenv("NO_COLOR", "1")
    stage = Stage()

    async def scene(stage: Stage) -> None:
        strips = stage.app.screen._compositor.render_strips(stage.app.size)
        shown = [segment.style for strip in strips for segment in strip if segment.style is not None]
        colours = {colour.name for style in shown for colour in (style.color, style.bgcolor) if colour is not None}
        own = {"red", "green", "blue", "magenta", "cyan", "default"}
        assert colours <= (own if is_wanted else {"default"})
        assert ("red" in colours) == is_wanted
        assert any(style.reverse for style in shown), "the row that one is on, and the bars"

    play(stage, (80, 24), scene)
