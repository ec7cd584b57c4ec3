"""What the guard makes of notifications about its table: a heal, a look, a wish to unblock; never a guess."""

from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from smtpguard.actions.base import Reach
from smtpguard.daemon.enforce.table_watch import TableWatch
from smtpguard.decode.netlink.nft_notify import NftEvent
from smtpguard.errors import EnforceError
from smtpguard.model import NS

if TYPE_CHECKING:
    from smtpguard.actions.nft.enforcer import NftEnforcer
    from smtpguard.daemon.enforce.enforcement import Enforcement
    from smtpguard.kernel.nft.notifications import NftNotifications


class Watch:
    """The notification socket."""

    def __init__(self) -> None:
        self.events: list[NftEvent] = []
        self.is_open = False
        self.broken = False

    def open(self) -> None:
        self.is_open = True

    def close(self) -> None:
        self.is_open = False

    def fileno(self) -> int:
        return 7 if self.is_open else -1

    def read(self) -> list[NftEvent]:
        if self.broken:
            raise EnforceError("no answer")
        events, self.events = self.events, []
        return events


class World:
    """A table, and what is asked of enforcement."""

    def __init__(self) -> None:
        self.now = 1000 * NS
        self.watch = Watch()
        self.state = "whole"
        self.refusing = True
        self.asked: list[object] = []
        self.activation = SimpleNamespace(trouble=None)
        self.healing = TableWatch(
            cast("NftNotifications", self.watch),
            nft=cast("NftEnforcer", self),
            enforcement=cast("Enforcement", self),
            freed=self.freed,
            now=lambda: self.now,
        )
        self.healing.open()

    def tell(self, *events: NftEvent) -> list[object]:
        """What is asked for at once."""
        self.watch.events = list(events)
        self.asked.clear()
        self.healing.on_ready(7)
        return list(self.asked)

    def check(self) -> str:
        return self.state

    def is_refusing(self) -> bool:
        return self.refusing

    def is_in_place(self) -> bool:
        return True

    def refresh(self, reason: str) -> bool:
        self.asked.append(reason)
        self.state = "whole"
        return True

    def compare(self, reason: str, who: str = "") -> None:
        self.asked.append((reason, who))

    def remove_foreign(self, who: str) -> None:
        self.asked.append(("remove", who))

    def freed(self, ranges: tuple[tuple[int, int], ...], reach: Reach, who: str) -> None:
        self.asked.append((ranges, reach, who))


@pytest.fixture
def world() -> World:
    return World()


def test_lost_notifications_are_a_look_and_no_guess(world: World) -> None:
    assert world.tell(NftEvent(kind="unknown")) == [("changed", "")], "the table is whole: who is in its sets?"
    assert world.healing.heals == 0
    world.state = "changed"
    assert world.tell(NftEvent(kind="unknown")) == ["lost"]
    assert world.healing.heals == 1


@pytest.mark.parametrize(
    ("kind", "word"), [("lost", "deleted"), ("damaged", "changed"), ("altered", "changed"), ("unknown", "changed")]
)
def test_it_says_what_was_done_and_by_whom(
    world: World, caplog: pytest.LogCaptureFixture, kind: str, word: str
) -> None:
    world.state = "changed"
    event = NftEvent(kind=kind, pid=77, comm=b"n\nft")  # type: ignore[arg-type]
    assert world.tell(event) == ["lost"]
    assert f"The nft table was {word} by n\\x0aft (pid 77). It is back" in caplog.text


@pytest.mark.parametrize(
    ("name", "reach"),
    [("blocked", Reach("block")), ("throttled", Reach("throttle")), ("blocked_25", Reach("block", 25))],
)
def test_an_element_deleted_by_hand_is_the_wish_to_unblock(world: World, name: str, reach: Reach) -> None:
    event = NftEvent(kind="deleted", set=name, ranges=((61_001, 61_001),), comm=b"nft", pid=5)
    assert world.tell(event) == [(((61_001, 61_001),), reach, "nft (pid 5)")]


def test_what_a_loaded_ruleset_puts_in_or_leaves_out_is_nobodys_wish(world: World) -> None:
    whole = NftEvent(kind="lost"), NftEvent(kind="deleted", set="blocked", ranges=((1, 1),))
    assert world.tell(*whole) == ["lost"], "what goes with the table is put back"
    assert world.tell(NftEvent(kind="changed", set="blocked", loaded=True)) == []
    assert world.tell(NftEvent(kind="changed", set="blocked", comm=b"nft")) == [("changed", "nft")]


def test_while_nothing_is_refused_a_table_of_our_name_goes(world: World) -> None:
    world.refusing = False
    world.state = "changed"
    assert world.tell(NftEvent(kind="altered", comm=b"nft")) == [("remove", "nft")]


def test_what_nobody_told_of_is_found_within_ten_seconds(world: World) -> None:
    world.state = "changed"
    world.healing.on_time(world.now)
    assert world.asked == []
    world.now = world.healing.next_deadline()
    assert world.now <= 1010 * NS
    world.healing.on_time(world.now)
    assert world.asked == ["lost"]


def test_a_socket_that_failed_is_told_and_opened_again(world: World) -> None:
    world.watch.broken = True
    assert world.tell() == []
    assert world.healing.trouble == "no answer"
    assert world.healing.filenos() == ()
    world.watch.broken = False
    world.now = world.healing.next_deadline()
    world.healing.on_time(world.now)
    assert world.healing.trouble is None
    assert world.healing.filenos() == (7,)
