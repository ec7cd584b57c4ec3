"""When somebody was blocked, as the lived-in host reads it off the event log."""

import random

import pytest

from smtpguard.logline import LogLine, Value
from smtpguard.model import NS
from tests.lived.model import list_blocks


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
