"""Users whom a person keeps an eye on: what is kept of them, and what is made of it when it can't be read."""

import json
from typing import Any
from unittest.mock import Mock

import pytest

from smtpguard.daemon.watches import FACT, Watches
from smtpguard.model import NS, Verdict
from tests.support.policy import BURST, T0, WEB, People, engine_of, feed, only


class Scene:
    def __init__(self) -> None:
        self.now_ns = T0
        self.kept: list[list[dict[str, Any]]] = []
        self.engine = engine_of(BURST)
        self.enforcement = Mock()
        keeper = Mock(put=lambda row: self.kept.append(json.loads(row.value)))
        self.wall: Any = Mock(offset_ns=5 * NS)
        self.watches = Watches(
            self.engine, self.enforcement, Mock(), keeper, directory=People(), wall=self.wall, now=lambda: self.now_ns
        )

    def begin(self) -> None:
        self.watches.begin(People().account(WEB), for_ns=3600 * NS, reason="again", incident=None)


def test_its_first_verdict_is_told_once_and_kept_with_what_was_told(caplog: pytest.LogCaptureFixture) -> None:
    scene = Scene()
    scene.begin()
    (verdict, *_) = only(Verdict, feed(scene.engine, [n / 10 for n in range(BURST.limit)]))
    assert verdict.limit == BURST.limit // 2
    scene.watches.hear(verdict)
    scene.watches.hear(verdict)
    assert [text for text in caplog.messages if "is WATCHED until" in text] == caplog.messages[-1:]
    assert [row["told"] for row in scene.kept[-1]] == [True]
    after = Scene()
    after.watches.restore({FACT: json.dumps(scene.kept[-1])})
    after.watches.hear(verdict)
    assert not after.kept, "told before"
    assert [row["uid"] for row in after.watches.collect()] == [WEB]


def test_a_clock_that_was_set_leaves_it_its_length() -> None:
    scene = Scene()
    scene.watches.clock_was_set()
    assert not scene.kept
    scene.begin()
    scene.wall.offset_ns += 100 * NS
    scene.watches.clock_was_set()
    (before,), (after,) = scene.kept
    assert after["until_ns"] - before["until_ns"] == 100 * NS


def test_what_can_not_be_read_is_told_and_the_others_are_taken(caplog: pytest.LogCaptureFixture) -> None:
    scene = Scene()
    scene.begin()
    (row,) = scene.kept[-1]
    after = Scene()
    over, nothing = row | {"uid": 7, "until_ns": T0}, {"uid": 8}
    after.watches.restore({FACT: json.dumps([nothing, over, row])})
    assert [watch["uid"] for watch in after.watches.collect()] == [WEB]
    assert caplog.messages == ["state: a watch that is kept there can't be read, and is left out"]
    caplog.clear()
    for text in ("{", "{}", "[1]"):
        after.watches.restore({FACT: text})
    assert caplog.messages == ["state: the watches that are kept there can't be read"] * 3
