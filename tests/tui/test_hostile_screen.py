"""What tenants and names can hold drives no terminal: in every field of every view, at every place it is shown."""

import json
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpguard.control.watch_item import render_item
from smtpguard.errors import DecodeError
from smtpguard.model import Account, Connect, Customer
from smtpguard.tui.facts import UserState, read_episodes, read_held, read_status, read_users
from smtpguard.tui.pieces import TICKS
from smtpguard.tui.sightings import Sighting, read_item, read_line
from tests.tui.support import CARD, EPISODE, FACTS, HELD, NOW, Stage, play, sighting

EVIL = (
    "\x1b[2J\x1b]0;title\x07",
    "\x9b31m\x90q\x9c",
    "\u202egpj.exe\u2066",
    "\uff21\uff22 \u6f22\u5b57 e\u0301 \U0001f469\u200d\U0001f4bb",
    "[red]x[/red] [@click=app.quit]y[/] [link=http://evil]z",
    "a\r\nb\tc\x00d\u2028e",
    "\ud800\udcff",
)
BORDER = "┌─┐│└┘"
FINE = {*map(chr, range(0x20, 0x7F)), *TICKS, *BORDER}


def evil_sighting(number: int, text: str) -> Sighting:
    """As if nothing had escaped it on the way."""
    names = [field.name for field in fields(Sighting) if field.type in ("str", str)]
    changes: dict[str, Any] = dict.fromkeys(names, text)
    return replace(sighting(number), **changes)


def check(lines: list[str], width: int) -> None:
    for line in lines:
        assert set(line) <= FINE, repr(line)
        assert len(line) == width, "wide characters would shift what follows"


@pytest.mark.parametrize("size", [(80, 24), (200, 60)], ids=["80x24", "200x60"])
def test_every_view_with_hostile_text(size: tuple[int, int]) -> None:
    stage = Stage()
    stage.feed.put(*(evil_sighting(number, text) for number, text in enumerate(EVIL * 2)))
    held = [replace(HELD, user=text, uid=1000 + n, by=text, why=text, kind=text) for n, text in enumerate(EVIL)]
    episodes = [replace(EPISODE, id=text, user=text, rules=text, first=text, last=text) for text in EVIL]
    users = {1000 + n: UserState(standing=text, rule=text, now=1, limit=2) for n, text in enumerate(EVIL)}
    stage.desk.facts = replace(
        FACTS, held=tuple(held), episodes=tuple(episodes), users=users, sensors=EVIL[0], troubles=EVIL[::-1]
    )
    stage.desk.card = CARD | {"user": EVIL[4], "lines": list(EVIL)}

    async def scene(stage: Stage) -> None:
        for view in "12345":
            await stage.press(view, "i")
            check(stage.raw(), size[0])
            await stage.press("enter")
            check(stage.raw(), size[0])
            await stage.press("escape", "b")
            check(stage.raw(), size[0])
            await stage.press("n", "r", *["right"] * 9)
            check(stage.raw(), size[0])
        for text in EVIL:
            stage.app._say(text)
            stage.feed.link, stage.feed.why = "none", text
            await stage.turn()
            check(stage.raw(), size[0])
        assert stage.app.is_running

    play(stage, size, scene, count=0)


def test_markup_is_text() -> None:
    stage = Stage()
    script = "[bold]/h[/bold][@click=q]x"

    async def scene(stage: Stage) -> None:
        await stage.turn(sighting(1, script=script))
        lines = await stage.press("3")
        assert any(script in line for line in lines)

    play(stage, (80, 24), scene, count=0)


def test_what_the_daemon_sends_is_escaped_as_in_the_log() -> None:
    connect = Connect(
        time_ns=NOW, uid=1001, port=25, address=bytes(4), sensor="bpf", script=b"/a\x1b[2J\xe2\x80\xae b", proc=b'"\\'
    )
    customer = Customer(domain=EVIL[0])
    account = Account(uid=1001, name="we%b\x1b", standing="tenant", customer=customer)
    seen = read_item(render_item(connect, account, NOW))
    assert set(seen.domain) <= FINE
    assert seen.script == "/a\\x1b[2J\\xe2\\x80\\xae\\x20b"
    assert seen.proc == "\\x22\\x5c"
    assert seen.user == "we%25b%1B"
    seen = read_item(render_item(connect, replace(account, customer=Customer(domain="shop.example")), NOW))
    assert seen.domain == "shop.example"
    seen = read_item(render_item(replace(connect, netns=5), replace(account, customer=customer), NOW))
    assert seen.domain == "-", "a container's uid is no customer's"
    old = {key: value for key, value in ITEM.items() if key != "domain"}
    assert read_item(old) == read_item(ITEM), "a daemon that has not been started anew since an update"


SIMPLE = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9)
JSON = SIMPLE | st.lists(SIMPLE, max_size=3) | st.dictionaries(st.text(max_size=3), SIMPLE, max_size=2)
ITEM = render_item(
    Connect(time_ns=NOW, uid=1001, port=25, address=bytes(4), sensor="bpf", proc=b"php"),
    Account(uid=1001, name="web", standing="tenant"),
    NOW,
)
LINE = {"time": "2026-09-21T14:13:20.000000+00:00", "user": "web", "uid": 1, "pid": 2, "port": 25, "dst": "192.0.2.1"}


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(ITEM)), JSON)
def test_a_wrong_item_is_an_error_of_one_kind(key: str, value: Any) -> None:  # noqa: ANN401 - any JSON
    try:
        seen = read_item(ITEM | {key: value})
    except DecodeError:
        return
    assert all(set(text) <= FINE for text in (seen.user, seen.domain, seen.script, seen.address))


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(LINE)), JSON)
def test_a_wrong_line_is_an_error_of_one_kind(key: str, value: Any) -> None:  # noqa: ANN401 - any JSON
    try:
        seen = read_line(json.dumps(LINE | {key: value}).encode())
    except DecodeError:
        return
    assert all(set(text) <= FINE for text in (seen.user, seen.proc, seen.script, seen.address))


def test_what_the_guard_says_is_cleaned() -> None:
    row = {
        "user": EVIL[0],
        "uid": 1,
        "domain": EVIL[1],
        "netns": None,
        "kind": "block",
        "ports": None,
        "since": 1.0,
        "until": 2.0,
    }
    row |= {"by": EVIL[1], "why": EVIL[2], "mode": "enforce", "refused": 1, "suspended": False}
    (held,) = read_held([row])
    assert set(held.user + held.domain + held.by + held.why) <= FINE
    incident = {"id": EVIL[0], "user": EVIL[1], "uid": 1, "first": EVIL[2], "last": "", "mode": "", "rules": [EVIL[3]]}
    (episode,) = read_episodes([incident | {"verdicts": 1, "refused": 1, "closed": None, "over": False}])
    assert set(episode.id + episode.user + episode.first + episode.rules) <= FINE
    status = read_status({"mode": "enforce", "troubles": [EVIL[0]], "sources": [{"name": EVIL[1], "state": "leads"}]})
    assert set("".join(status["troubles"]) + status["sensors"]) <= FINE
    (state,) = read_users(
        [{"uid": 1, "standing": EVIL[0], "rules": [{"name": EVIL[1], "now": 1, "limit": 0}]}]
    ).values()
    assert set(state.standing + state.rule) <= FINE
