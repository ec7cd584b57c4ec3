"""Users whom a person keeps an eye on: what is kept of them, and what is made of it when it can't be read."""

import json
import math
from typing import Any
from unittest.mock import Mock

import pytest

from smtpguard.cli.blocks import render_blocks
from smtpguard.cli.status import render_status
from smtpguard.daemon.watches import FACT, Watches
from smtpguard.logline import render_time
from smtpguard.model import NS, Allowance, Subject, Verdict
from smtpguard.report.templates import make_environment
from smtpguard.report.why import build_why
from smtpguard.report.why_card import render_card
from smtpguard.report.why_texts import build_ticket
from tests.support.policy import BURST, T0, WEB, People, engine_of, feed, only
from tests.unit.test_why import live, past
from tests.unit.test_why_texts import NONE
from tests.unit.test_wording import status_of


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


@pytest.mark.parametrize(("for_s", "until"), [(60, "60"), (7200, "7200")])
def test_while_an_allowance_holds_nobody_says_that_limits_are_halved(
    caplog: pytest.LogCaptureFixture, for_s: int, until: str
) -> None:
    scene = Scene()
    scene.begin()
    (halved,) = scene.watches.collect()
    assert halved["allowed_until"] is None
    until_ns = T0 + for_s * NS
    scene.engine.commands.allow(
        Allowance(subject=Subject(id=WEB), name=None, since_ns=T0, until_ns=until_ns, by="admin", limit=3, window_ns=NS)
    )
    (allowed,) = scene.watches.collect()
    assert allowed["allowed_until"] == render_time(T0 + int(until) * NS + scene.wall.offset_ns)
    assert scene.watches.find(WEB) == allowed
    assert scene.watches.find(WEB + 1) is None
    (verdict, *_) = only(Verdict, feed(scene.engine, [n / 100 for n in range(5)]))
    scene.watches.hear(verdict)
    assert "an allowance counts: " in caplog.text
    assert "halved" not in caplog.text
    allowed |= {"user": "shop17", "until": "2026-02-25T13:38:01+01:00", "allowed_until": "2026-02-19T09:00:00+01:00"}
    not_halved = "limits are not halved, an allowance counts until 2026-02-19 09:00"
    assert f"watched: shop17: until 2026-02-25 13:38; {not_halved}. Undo: smtpguard incidents unwatch shop17" in (
        render_status(status_of(watched=[allowed]))
    )
    assert render_blocks([], None, [allowed], now=0)[1:] == [
        "WATCHED (end: smtpguard incidents unwatch USER)",
        "USER    UID   UNTIL             BY     WHY",
        f"shop17  {WEB}  2026-02-25 13:38  admin  again ({not_halved})",
    ]
    assert render_blocks([], None, [allowed, halved], now=0)[1].startswith("WATCHED (limits are halved; end: ")
    card = render_card(build_why(live(watch=allowed), past(), None))
    at = card.index("watched      until 2026-02-25 13:38: again")
    assert card[at + 1] == f"             {not_halved}"
    for language, words in (("en", not_halved), ("de", "statt halber Grenzwerte gilt eine Freigabe bis")):
        template = make_environment(language, is_html=False, own_files=NONE).get_template("ticket.txt")
        assert words in template.render(build_ticket(build_why(live(watch=allowed), past(), None), "host"))


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
    for text in ("{", "{}", "[1]", "[" * 100_000):
        after.watches.restore({FACT: text})
    assert caplog.messages == ["state: the watches that are kept there can't be read"] * 4


@pytest.mark.parametrize(
    "odd",
    [
        {"uid": -1},
        {"uid": 2**32 - 1},
        {"uid": 2**70},
        {"uid": "7"},
        {"uid": 7.5},
        {"uid": True},
        {"since_ns": math.inf},
        {"until_ns": math.nan},
        {"until_ns": 2**63},
        {"since_ns": -1},
    ],
)
def test_a_watch_whose_figures_can_not_be_true_is_left_out(
    caplog: pytest.LogCaptureFixture, odd: dict[str, object]
) -> None:
    """Infinity ended the guard at its start."""
    scene = Scene()
    scene.begin()
    (row,) = scene.kept[-1]
    after = Scene()
    after.watches.restore({FACT: json.dumps([row | odd, row | {"uid": 7, "name": "u7"}])})
    assert [watch["uid"] for watch in after.watches.collect()] == [7]
    assert caplog.messages == ["state: a watch that is kept there can't be read, and is left out"]


def test_what_a_person_said_before_the_state_could_be_read_is_newer_and_all_of_it_is_kept() -> None:
    before = Scene()
    for uid in (WEB, WEB + 1, WEB + 2):
        before.watches.begin(People().account(uid), for_ns=3600 * NS, reason="old", incident=None)
    after = Scene()
    after.watches.begin(People().account(WEB), for_ns=60 * NS, reason="new", incident=None)
    assert not after.watches.end(People().account(WEB + 1))
    after.watches.restore({FACT: json.dumps(before.kept[-1])})
    reasons = {row["uid"]: row["reason"] for row in after.watches.collect()}
    assert reasons == {WEB: "new", WEB + 2: "old"}
    assert {row["uid"]: row["reason"] for row in after.kept[-1]} == reasons
    after.watches.begin(People().account(WEB + 1), for_ns=60 * NS, reason="again", incident=None)
    assert WEB + 1 in {row["uid"] for row in after.watches.collect()}
