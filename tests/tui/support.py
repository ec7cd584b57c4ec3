"""A screen with a fake feed, a fake guard and a clock of its own; what it shows as plain text."""

import asyncio
from collections import deque
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC
from typing import TYPE_CHECKING, Any, Protocol
from unittest.mock import patch

import textual._wait

from smtpguard.errors import GuardError
from smtpguard.model import NS
from smtpguard.tui.app import WatchApp
from smtpguard.tui.confirmation import Deed
from smtpguard.tui.facts import Episode, Facts, Held, Link, UserState
from smtpguard.tui.feed import Drained
from smtpguard.tui.screen_model import ScreenModel
from smtpguard.tui.sightings import Sighting

if TYPE_CHECKING:
    from textual.pilot import Pilot

textual._wait.SLEEP_GRANULARITY, textual._wait.SLEEP_IDLE = 0.002, 0.001
# A pilot waits for a fiftieth of a second after each key, to see whether all is done: a tenth of that shows it as well.

NOW = 1_790_000_000 * NS
"""2026-09-21 14:13:20 UTC."""
SIZES = ((80, 24), (200, 60))
PORTS = (25, 465, 587, 2525)


def sighting(number: int, ago_s: float = 0, **changes: Any) -> Sighting:  # noqa: ANN401 - any field
    """One of a made-up host's."""
    user = number % 5
    home = f"/home/web{user}/htdocs"
    made = Sighting(
        wall_ns=NOW - round(ago_s * NS),
        user=f"web{user}",
        uid=1000 + user,
        is_contained=False,
        pid=4000 + number,
        port=PORTS[number % 4],
        address=f"192.0.2.{number % 12}",
        result="refused" if number % 7 == 0 else "allowed",
        sensor="bpf",
        attr="live",
        proc="php-fpm",
        exe="/usr/sbin/php-fpm8.2",
        cwd=home,
        script=f"{home}/wp-content/plugins/x/send.php:41",
        rdns=f"mx{number % 12}.example.org",
        domain="-" if user == 3 else f"site{user}.example",
    )
    return replace(made, **changes)


HELD = Held(
    user="web1",
    uid=1001,
    domain="shop.example",
    is_local=True,
    kind="block",
    ports=(25,),
    since=NOW / NS - 600,
    until=NOW / NS + 1200,
    by="guard",
    why="mx-fanout",
    mode="enforce",
    refused=17,
    is_suspended=False,
)
EPISODE = Episode(
    id="k3f9",
    user="web1",
    uid=1001,
    first="2026-09-21T14:03:20+00:00",
    last="2026-09-21T14:13:00+00:00",
    mode="enforce",
    rules="mx-fanout",
    verdicts=2,
    refused=17,
    state="goes on",
)
FACTS = Facts(
    mode="enforce",
    sensors="bpf",
    held=(HELD, replace(HELD, user="web2", uid=1002, kind="throttle", mode="dry-run", why="hourly", refused=0)),
    users={
        1000: UserState(standing="tenant", rule="hourly", now=270, limit=300),
        1001: UserState(standing="tenant", rule="mx-fanout", now=11, limit=10),
    },
    episodes=(EPISODE,),
    ports=PORTS,
)


CARD: dict[str, Any] = {
    "user": "web1",
    "lines": [
        "US: port 25 refused since 14:03, until 14:33, rule mx-fanout",
        "user         web1, uid 1001: tenant; enforcing",
        "sent         120 attempts in 1 h, 4000 in 24 h; refused 17 and 17",
        "blocks       block port 25 until 2026-09-21 14:33 by guard; refused 17",
        "do           smtpguard unblock web1",
    ],
}
"""A card of which this screen knows only that it is lines; what stands in it is the matter of `why`'s own tests."""


def show_card(card: dict[str, Any], *, width: int, height: int) -> list[str]:
    """As render_card does it."""
    return [line[:width] for line in card["lines"][:height]]


@dataclass
class FakeFeed:
    """Gives what a test puts in."""

    link: Link = "daemon"
    why: str = ""
    left_out: int = 0
    waiting: deque[Sighting] = field(default_factory=deque)

    def put(self, *sightings: Sighting) -> None:
        self.waiting.extend(sightings)

    def drain(self, most: int) -> Drained:
        taken = [self.waiting.popleft() for _ in range(min(most, len(self.waiting)))]
        left_out, self.left_out = self.left_out, 0
        return Drained(sightings=taken, left_out=left_out, link=self.link, why=self.why)

    def close(self) -> None:
        pass


@dataclass
class FakeDesk:
    """A guard that does as it is told, and remembers what."""

    facts: Facts = FACTS
    card: dict[str, Any] = field(default_factory=dict)
    done: list[tuple[Any, ...]] = field(default_factory=list)
    asked: list[Sequence[int]] = field(default_factory=list)
    error: str = ""

    def poll(self, uids: Sequence[int]) -> Facts:
        self.asked.append(uids)
        return self.facts

    def why(self, uid: int) -> dict[str, Any]:
        self.done.append(("why", uid))
        if self.error:
            raise GuardError(self.error)
        return self.card

    def carry_out(self, deed: Deed, uid: int, for_s: int) -> str:
        self.done.append((deed, uid, for_s))
        if self.error:
            raise GuardError(self.error)
        return f"uid:{uid}: {deed} done"


class Clock:
    """Goes when it is told to."""

    def __init__(self) -> None:
        self.now_ns = NOW

    def __call__(self) -> int:
        return self.now_ns


class Stage:
    """The screen on a terminal of some size."""

    def __init__(self, **desk: Any) -> None:  # noqa: ANN401 - fields of FakeDesk
        self.feed = FakeFeed()
        self.desk = FakeDesk(**desk)
        self.clock = Clock()
        self.model = ScreenModel(NOW, zone=UTC)
        self.app = WatchApp(self.feed, self.desk, self.model, self.clock, is_timed=False)
        self.pilot: Pilot[None] | None = None

    async def press(self, *keys: str) -> list[str]:
        """Press keys, wait until the screen is still, and read it."""
        assert self.pilot is not None
        if keys:
            await self.pilot.press(*keys)
        await self.settle()
        return self.lines()

    async def type(self, text: str) -> list[str]:
        return await self.press(*text)

    async def turn(self, *sightings: Sighting, seconds: float = 0) -> list[str]:
        """Have something come, time go on, and the screen take it."""
        self.feed.put(*sightings)
        self.clock.now_ns += round(seconds * NS)
        self.app.turn()
        self.app.draw()
        await self.settle()
        return self.lines()

    async def learn(self, facts: Facts) -> list[str]:
        """Have the guard say something else."""
        self.desk.facts = facts
        self.app.poll()
        await self.settle()
        return self.lines()

    async def settle(self) -> None:
        """Until all is done that was begun. The pilot goes by the processor's time, and a standstill takes none."""
        assert self.pilot is not None
        await self._pass_on()
        while self.app.workers:
            await self.app.workers.wait_for_complete()
            await self._pass_on()
        await self.pilot.pause()
        await self._pass_on()
        self.app.screen._on_timer_update()

    async def _pass_on(self) -> None:
        """Until messages are dealt with, and those that come of them: of a key there are some five, in turn."""
        assert self.pilot is not None
        quiet = 0
        while quiet < 2 and await self.pilot._wait_for_screen():
            pumps = [self.app, *self.app.screen.walk_children(with_self=True)]
            quiet = quiet + 1 if not any(pump.message_queue_size for pump in pumps) else 0

    def lines(self) -> list[str]:
        """What can be read on it, spaces at the ends left out."""
        strips = self.app.screen._compositor.render_strips(self.app.size)
        return ["".join(segment.text for segment in strip).rstrip() for strip in strips]

    def raw(self) -> list[str]:
        strips = self.app.screen._compositor.render_strips(self.app.size)
        return ["".join(segment.text for segment in strip) for strip in strips]


class Scene(Protocol):
    """What happens on a stage."""

    def __call__(self, stage: Stage, /) -> Coroutine[Any, Any, None]: ...


def play(stage: Stage, size: tuple[int, int], scene: Scene, count: int = 40) -> None:
    """Run a scene on a screen that has seen some connections."""

    async def run() -> None:
        stage.feed.put(*(sighting(number, ago_s=number) for number in range(count, 0, -1)))
        async with stage.app.run_test(size=size) as pilot:
            stage.pilot = pilot
            await stage.settle()
            await scene(stage)

    with patch("smtpguard.tui.page.render_card", show_card):
        asyncio.run(run())
