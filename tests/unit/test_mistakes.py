"""A mistake of ours in one attempt costs that attempt alone: not those before it, nor those behind it in the line."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from smtpguard.daemon.guard import Guard
from smtpguard.daemon.record.enrichment_queue import Entry, Waiting
from smtpguard.model import Connect, Decision, Subject
from smtpguard.settings import Settings
from tests.support.policy import T0, People, connect


def test_what_was_judged_before_it_is_noted() -> None:
    noted: list[Entry] = []

    def feed(seen: Connect) -> list[Decision]:
        if seen.uid == 1003:
            raise TypeError("no such keyword")
        return []

    guard = Guard(
        Settings(),
        engine=cast("Any", SimpleNamespace(feed=feed)),
        enforcement=cast(
            "Any",
            SimpleNamespace(cap=SimpleNamespace(mark=lambda seen: seen), credits=SimpleNamespace(note=lambda *_: None)),
        ),
        execution=cast("Any", SimpleNamespace(act=lambda *_, **__: None)),
        journal=cast("Any", SimpleNamespace(add=noted.append)),
        accounts=cast("Any", People()),
        destinations=cast("Any", SimpleNamespace(why_exempt=lambda _: None)),
        now=lambda: T0,
    )
    with pytest.raises(TypeError):
        guard.take([connect(0, uid) for uid in (1001, 1002, 1003, 1004)])
    assert [entry.account.uid for entry in noted] == [1001, 1002]
    assert guard.seen == 2


def test_what_stands_behind_it_in_the_line_leaves_at_the_next_turn() -> None:
    left: list[int] = []

    def deliver(entry: Entry) -> None:
        if entry.account.uid == 1002:
            raise TypeError("no such keyword")
        left.append(entry.account.uid)

    people = People()
    waiting = Waiting(lambda: T0, deliver, looker=None, rdns=None)
    for uid in (1001, 1002, 1003):
        waiting.add(Entry(connect=connect(0, uid), account=people.account(uid), subject=Subject(id=uid)))
    with pytest.raises(TypeError):
        waiting.on_time(T0)
    waiting.on_time(T0)
    assert left == [1001, 1003]
