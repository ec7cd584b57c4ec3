"""When somebody was blocked, as the lived-in host reads it off the event log."""

import random

import pytest

from smtpguard.logline import LogLine, Value
from smtpguard.model import NS
from tests.lived.model import Held, Judge, Person, Rule, Span, WrongError, list_blocks
from tests.support.crowd import Attempt


def line(at_s: float, event: str, *, by: str = "guard", until_s: float = 0, mode: str = "enforce") -> LogLine:
    fields: dict[str, Value] = {"BY": by}
    if event != "UNBLOCK":
        fields |= {"MODE": mode, "UNTIL": round(until_s * NS)}
    return LogLine(wall_ns=round(at_s * NS), user="spam1", uid=1, event=event, fields=fields)


def block(at_s: float, until_s: float, **more: str) -> LogLine:
    return line(at_s, "BLOCK", until_s=until_s, **more)


@pytest.mark.parametrize(
    ("lines", "held"),
    [
        ([block(1, 5), line(5.001, "UNBLOCK", by="time")], [(1, 5)]),
        ([block(1, 5), line(3, "UNBLOCK", by="root")], [(1, 3)]),
        ([block(1, 5), block(2, 9, by="admin"), line(3, "UNBLOCK", by="root")], [(1, 3), (2, 3)]),
        # The next one begins before the end of the one before it is told: after `on` the window is full.
        ([block(1, 5), block(5.1, 9.1), line(5.2, "UNBLOCK", by="time")], [(1, 5), (5.1, 9.1)]),
        ([block(1, 5), block(5, 9), line(5, "UNBLOCK", by="time"), line(9, "UNBLOCK", by="time")], [(1, 5), (5, 9)]),
        ([block(1, 5), line(3, "EXTENDED", until_s=9), line(9, "UNBLOCK", by="time")], [(1, 9)]),
        # A restart did not know that it was made longer.
        ([block(1, 5), line(3, "EXTENDED", until_s=9), line(6.5, "UNBLOCK", by="time")], [(1, 6.5)]),
        ([block(1, 9), line(5, "UNBLOCK", by="time")], [(1, 5)]),
        ([block(1, 5, mode="dry-run")], []),
    ],
)
def test_when_somebody_was_blocked(lines: list[LogLine], held: list[tuple[float, float]]) -> None:
    for _ in range(5):
        found = [(b.begun_ns / NS, b.ended_ns / NS) for b in list_blocks(lines, "spam1", lambda wall_ns: wall_ns)]
        assert found == held
        if len({one.wall_ns for one in lines}) == len(lines):
            random.shuffle(lines)  # of several files, the newest first


@pytest.mark.parametrize(("killed_s", "is_wrong"), [(1.02, False), (1.2, True), (0.9, True)])
def test_only_a_block_of_the_moment_before_a_kill_may_be_lost(killed_s: float, is_wrong: bool) -> None:
    person = Person("spam1", 1, "spammer", Rule(port=25, rate=1, limit=5, window_s=60, credited=True))
    passed = Attempt(round(4 * NS), round(4.001 * NS), 0)
    dead = Span("dead", round(killed_s * NS), round((killed_s + 1) * NS))
    judge = Judge(person, [passed] * 9, [dead], late_s=0.05)
    wrong = ""
    try:
        judge.check_blocks([Held(NS, 9 * NS)])
    except WrongError as error:
        wrong = str(error)
    assert wrong == ("9 of spam1 came through a block" if is_wrong else "")


@pytest.mark.parametrize(("unsaved_s", "is_wrong"), [((0.5, 2), False), ((1.5, 2), True), ((0.2, 0.9), True)])
def test_a_block_that_began_while_nothing_was_saved_may_be_lost(unsaved_s: tuple[float, float], is_wrong: bool) -> None:
    begun_ns, ended_ns = (round(at_s * NS) for at_s in unsaved_s)
    person = Person("spam1", 1, "spammer", Rule(port=25, rate=1, limit=5, window_s=60, credited=True))
    before, after = (Attempt(round(at_s * NS), round((at_s + 0.001) * NS), 0) for at_s in (1.9, 4))
    spans = [Span("unsaved", begun_ns, ended_ns), Span("dead", ended_ns, ended_ns + NS)]
    wrong = []
    for passed in (before, after):
        try:
            Judge(person, [passed] * 9, spans, late_s=0.05).check_blocks([Held(NS, 9 * NS)])
        except WrongError:
            wrong.append(passed)
    assert wrong == ([before, after] if is_wrong else [before]), "until the daemon ended it held all the same"
