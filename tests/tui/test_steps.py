"""What keys wait for: no step of the loop is long, however much is there and comes, and little is done twice."""

import asyncio
import gc
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from unittest.mock import patch

import pytest
from textual import events

from smtpguard.cli.watch_screen import show_screen
from smtpguard.model import NS
from smtpguard.tui.app import SLICE, WatchApp
from smtpguard.tui.garbage import rare_collections
from smtpguard.tui.keyboard import Keyboard, Wish
from smtpguard.tui.screen_model import ScreenModel
from smtpguard.tui.sightings import Sighting
from smtpguard.tui.tally import BEAT_NS, BEATS, MAX_PLACES, MAX_USERS, Sum, Sums
from smtpguard.tui.users import Users
from tests.support.fake_daemon import FakeDaemon
from tests.tui.support import NOW, Stage, play, sighting

if TYPE_CHECKING:
    from smtpguard.hooks import Task

STEP_S = 0.02
"""The longest step that there may be, by the processor's time."""
EACH_KEY = (
    *("1", "s", "home", "pageup", "end", "i", "slash", "w", "enter", "escape"),
    *("2", "s", "down", "slash", "w", "enter", "p", "down", "p", "escape"),
    *("3", "s", "4", "s", "s", "slash", "1", "enter", "p", "p", "escape", "c"),
)


def crowd(count: int) -> Iterator[Sighting]:
    """Of more users, scripts and destinations than are kept."""
    for number in range(count):
        user = number % (MAX_USERS + 7)
        yield sighting(
            number,
            ago_s=(count - number) / 5000,
            user=f"web{user}",
            uid=1000 + user,
            address=f"198.18.{number % (MAX_PLACES + 7) // 256}.{number % (MAX_PLACES + 7) % 256}",
            script=f"/home/web{user}/htdocs/wp-content/{number % 7}.php:{number % 20}",
        )


@contextmanager
def timed_steps() -> Iterator[list[float]]:
    """How many seconds each step of the loop took, by the processor's time of its thread."""
    took: list[float] = []
    run = asyncio.Handle._run

    def run_timed(handle: asyncio.Handle) -> None:
        begun = time.thread_time()
        run(handle)
        took.append(time.thread_time() - begun)

    with patch.object(asyncio.Handle, "_run", run_timed):
        yield took


def test_no_step_is_long() -> None:
    """The bar three times, for processors that are shared: to look through a list of 10,000 takes 15 ms of one."""
    longest: list[float] = []

    async def scene(stage: Stage) -> None:
        assert stage.pilot is not None
        with timed_steps() as steps, rare_collections():
            for key in EACH_KEY:
                stage.feed.put(*came[: 2 * SLICE])
                stage.app.turn()
                await stage.pilot.press(key)
        longest.append(max(steps))
        assert stage.model.collector.contents.seen <= 2 * SLICE, "the last of them forgets all"

    came = list(crowd(MAX_PLACES + 2000))
    for _ in range(3):  # a virtual processor's time goes on while the machine has taken it away
        stage = Stage()
        stage.model.take(came, 0, NOW)
        play(stage, (80, 24), scene)
        print(f"the longest step took {longest[-1] * 1000:.1f} ms")
        if longest[-1] < 3 * STEP_S:
            break
    assert min(longest) < 3 * STEP_S


def test_a_key_does_not_wait_for_all_that_came() -> None:
    stage = Stage()

    async def scene(stage: Stage) -> None:
        contents = stage.model.collector.contents
        stage.feed.put(*crowd(40 * SLICE))
        seen: list[int] = []
        press = Keyboard.press

        def look(keyboard: Keyboard, key: str, character: str | None) -> Wish | None:
            seen.append(contents.seen)
            return press(keyboard, key, character)

        with patch.object(Keyboard, "press", look):
            stage.app.turn()
            assert contents.seen == 40 + SLICE
            stage.app.post_message(events.Key("2", "2"))
            lines = await stage.press()
            while contents.seen < 40 + 40 * SLICE:
                await stage.press()
            lines = await stage.press()
        assert seen[0] <= 40 + 3 * SLICE
        assert lines[1].endswith(f"{40 + 40 * SLICE} seen"), "all of it was taken, and shown without another turn"

    play(stage, (80, 24), scene)


def test_a_pause_copies_nothing_that_does_not_change() -> None:
    model = ScreenModel(NOW)
    model.take(list(crowd(1000)), 0, NOW)
    with patch.object(Sum, "copy", autospec=True, side_effect=Sum.copy) as copy:
        model.pause()
        assert copy.call_count == 0
        model.take([sighting(1), sighting(1)], 0, NOW)
        assert copy.call_count <= 3, "the user, the script, the destination; once"


@pytest.mark.parametrize("seed", range(3))
def test_what_stands_still_stands_still(seed: int) -> None:
    """Whoever counts on, what others hold stays as it was."""

    def show(sums: Sums) -> list[tuple[object, ...]]:
        return [(one.key, one.seen, one.ports, dict(one.users), one.per_minute(NOW), one.last) for one in sums]

    choice = random.Random(seed)
    held: list[tuple[Sums, list[tuple[object, ...]]]] = [(Sums(8), [])]
    for number in range(300):
        index = choice.randrange(len(held))
        sums, _ = held[index]
        if choice.random() < 0.1:
            held.append((sums.copy(), show(sums)))
        else:
            key = f"k{choice.randrange(12)}"
            sums.add(key, sighting(number, ago_s=choice.random() * 90))
            held[index] = (sums, show(sums))
        assert all(show(one) == as_it_was for one, as_it_was in held)


@pytest.mark.parametrize("seed", range(3))
def test_the_last_minute_is_counted_on(seed: int) -> None:
    choice = random.Random(seed)
    total, beats, newest = Sum("x"), [], 0
    for number in range(500):
        now_ns = NOW + number * NS // 2
        when = sighting(number, ago_s=choice.choice((-number / 2, 5 - number / 2, 90 - number / 2)))
        total.add(when)
        beats.append(when.wall_ns // BEAT_NS)
        newest = max(newest, beats[-1])
        kept = [beat for beat in beats if newest - BEATS < beat]
        for later_ns in (newest * BEAT_NS, now_ns, now_ns + 20 * NS):
            wanted = sum(later_ns // BEAT_NS - BEATS < beat <= later_ns // BEAT_NS for beat in kept)
            assert total.per_minute(later_ns) == wanted == sum(total.list_beats(later_ns))


def test_a_list_that_has_not_changed_stands() -> None:
    model = ScreenModel(NOW)
    model.take([sighting(1), sighting(2)], 0, NOW)
    model.number = 1
    with patch.object(Users, "list", autospec=True, side_effect=Users.list) as listed:
        for _ in range(3):
            model.settle()
        assert listed.call_count == 1
        changes: tuple[Task, ...] = (
            lambda: model.take([sighting(3)], 0, NOW),
            lambda: model.take((), 0, NOW + NS),
            lambda: model.learn(model.contents.facts),
            lambda: model.sort_by("SEEN"),
            lambda: setattr(model, "needle", "web"),
            model.pause,
            model.resume,
            model.clear,
        )
        for change in changes:
            before = listed.call_count
            change()
            model.settle()
            model.settle()
            assert listed.call_count == before + 1
        assert not model.rows


def test_garbage_is_seldom_looked_for(tmp_path: Path) -> None:
    """Never through all that is kept, while the stream alone makes things new; and the command sees to it."""
    looked: list[int] = []
    kept: list[list[object]] = []
    thresholds: list[tuple[int, ...]] = []

    def look(phase: str, info: dict[str, int]) -> None:
        looked.append(info["generation"] if phase == "start" else 0)

    gc.enable()
    before = gc.get_threshold()
    model = ScreenModel(NOW)
    with rare_collections():
        gc.callbacks.append(look)
        try:
            for _ in range(3):
                for seen in crowd(MAX_PLACES):
                    model.take([seen], 0, NOW)
                    kept.append([seen])  # so that there is more to look through than the screen would keep
        finally:
            gc.callbacks.remove(look)
        thresholds.append(gc.get_threshold())
    assert 1 in looked
    assert 2 not in looked
    assert gc.get_threshold() == before
    assert gc.get_freeze_count() == 0
    with FakeDaemon(tmp_path) as daemon, patch.object(WatchApp, "run", lambda _: thresholds.append(gc.get_threshold())):
        show_screen(None, daemon.path, [])
    assert thresholds[0] == thresholds[1] != before
