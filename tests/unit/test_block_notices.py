"""Beginnings and ends of blocks in the service's log: each once, throttles as one, and never ten thousand at once."""

import logging
from dataclasses import replace
from typing import Any
from unittest.mock import Mock

import pytest

from smtpguard.daemon.record.block_notices import CALM_NS, MAX_HELD, MAX_LINES, PER_NS, BlockNotices
from smtpguard.daemon.record.notices import render_owner, render_throttled_again
from smtpguard.model import NS, Account, Block, Customer, Subject

SHOP = Account(
    uid=1001, name="shop17", standing="tenant", customer=Customer(domain="shop.example", domains=("shop.example",))
)
BLOCK = Block(
    subject=Subject(1001), name="shop17", source="guard", kind="block", since_ns=100 * NS, until_ns=1900 * NS,
    mode="enforce", rule="mx-fanout", ports=(25,),
)  # fmt: skip
THROTTLE = replace(BLOCK, kind="throttle", rule="mx-burst", until_ns=102 * NS)


class Scene:
    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)
        self._caplog = caplog
        self.now_ns = 100 * NS
        wall: Any = Mock(offset_ns=0)
        self.notices = BlockNotices(wall, lambda: self.now_ns)

    def said(self) -> list[str]:
        messages = self._caplog.messages
        self._caplog.clear()
        return messages

    def look(self, at_s: float) -> list[str]:
        self.now_ns = int(at_s * NS)
        self.notices.on_time(self.now_ns)
        return self.said()


@pytest.fixture
def scene(caplog: pytest.LogCaptureFixture) -> Scene:
    return Scene(caplog)


def test_an_end_names_who_what_how_long_why_and_how_many(scene: Scene) -> None:
    scene.notices.refused[BLOCK.subject] = 5
    scene.notices.hold(BLOCK, SHOP)
    assert scene.notices.next_deadline() is None
    scene.notices.refused[BLOCK.subject] = 12
    scene.now_ns = 1900 * NS
    scene.notices.end(BLOCK, SHOP, by="time", reason="")
    assert scene.said() == [
        (
            "shop17 (shop.example) no longer BLOCKED on port 25: over after 30 min (rule mx-fanout). "
            "7 attempts refused. See: smtpguard why shop17"
        )
    ]
    by_hand = replace(BLOCK, source="admin", rule=None, ports=None)
    scene.notices.end(by_hand, SHOP, by="admin", reason="a\nmistake")  # of before this run: refused is not known
    assert scene.said() == [
        (
            "shop17 (shop.example) no longer BLOCKED: ended by admin after 30 min: a\\x0amistake (by admin). "
            "See: smtpguard why shop17"
        )
    ]


def test_a_throttle_is_one_until_it_has_held_back_nobody_for_a_minute(scene: Scene) -> None:
    scene.notices.hold(THROTTLE, SHOP)
    for second in range(102, 400, 2):  # it lets go, and takes hold again
        scene.notices.end(THROTTLE, SHOP, by="time", reason="")
        scene.notices.hold(replace(THROTTLE, until_ns=second * NS, renewed=True), SHOP)
        assert scene.look(second) == []
        assert scene.notices.next_deadline() is not None
    assert scene.look(398 + CALM_NS / NS) == [
        (
            "shop17 (shop.example) no longer THROTTLED on port 25: over after 4 min 58 s (rule mx-burst). "
            "0 attempts refused. See: smtpguard why shop17"
        )
    ]
    assert scene.notices.next_deadline() is None
    scene.notices.hold(replace(THROTTLE, renewed=True), SHOP)  # no verdict speaks of it
    assert scene.said() == [
        "shop17 (shop.example) THROTTLED again on port 25 (rule mx-burst). See: smtpguard why shop17"
    ]


def test_what_only_would_be_refused_has_no_line(scene: Scene) -> None:
    scene.notices.hold(replace(THROTTLE, mode="dry-run", renewed=True), SHOP)
    assert scene.notices.next_deadline() is None
    assert scene.said() == []


def test_ten_thousand_ends_at_once_are_a_hundred_lines_and_a_figure(scene: Scene) -> None:
    for uid in range(10_000):
        block = replace(BLOCK, subject=Subject(uid))
        scene.notices.hold(block, SHOP)
        scene.notices.end(block, SHOP, by="admin", reason="")
    assert len(scene.said()) == MAX_LINES
    assert scene.notices.next_deadline() is not None
    assert scene.look(100 + PER_NS / NS) == [f"{10_000 - MAX_LINES} more blocks began or ended: see the event log"]
    assert scene.notices.next_deadline() is None
    scene.notices.end(BLOCK, SHOP, by="admin", reason="")
    assert len(scene.said()) == 1


def test_who_is_in_a_container_is_not_taken_for_the_customer_of_that_number() -> None:
    contained = Account(uid=1001, name=None, standing="container")
    assert render_owner(contained) == "uid:1001@container"
    assert render_throttled_again(THROTTLE, contained).endswith("See: smtpguard blocks")


def test_more_blocks_than_are_remembered_are_told_at_their_end_alone(scene: Scene) -> None:
    for uid in range(MAX_HELD + 1):
        scene.notices.hold(replace(BLOCK, subject=Subject(10_000 + uid)), SHOP)
    assert len(scene.notices._held) == MAX_HELD
