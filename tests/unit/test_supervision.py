"""A part that raises: caught once, told, counted, left to rest and taken up again."""

import logging
import os
from collections.abc import Sequence

import pytest

from smtpguard.daemon import supervision
from smtpguard.daemon.loop import Loop
from smtpguard.daemon.supervision import PartError
from smtpguard.model import NS
from tests.fakes.clock import FakeClock

REST_S = supervision.FIRST_REST_NS / NS
WELL_S = supervision.WELL_NS / NS


class Part:
    """Raises where it is told to."""

    def __init__(self, *broken: str) -> None:
        self.broken = set(broken)
        self.calls: list[str] = []
        self.reader, self.writer = os.pipe()

    def _called(self, method: str) -> None:
        self.calls.append(method)
        if method in self.broken:
            raise TypeError(f"{method} takes\n\x1b[31mnothing")

    def filenos(self) -> Sequence[int]:
        self._called("filenos")
        return (99_999,) if "fileno" in self.broken else (self.reader,)

    def on_ready(self, fileno: int) -> None:
        self._called("on_ready")
        os.read(fileno, 100)

    def next_deadline(self) -> int | None:
        self._called("next_deadline")
        return None

    def on_time(self, now_ns: int) -> None:
        del now_ns
        self._called("on_time")

    def close(self) -> None:
        os.close(self.reader)
        os.close(self.writer)


class World:
    """A loop with a part that is broken between two that are not."""

    def __init__(self, *broken: str, vital: bool = False) -> None:
        self.clock = FakeClock()
        self.loop = Loop(self.clock.boot_ns, longest_wait_ns=0)
        self.supervision = self.loop.supervision
        self.before, self.part, self.after = Part(), Part(*broken), Part()
        self.loop.add(self.before)
        self.loop.add(self.part, "broken", vital=vital)
        self.loop.add(self.after)

    def turn(self, seconds: float = 0) -> int:
        """How often the part was called in a turn after some time."""
        self.clock.advance(seconds)
        os.write(self.part.writer, b"x")
        before = len(self.part.calls)
        others = [part.calls.count("on_time") for part in (self.before, self.after)]
        self.loop.turn()
        assert [part.calls.count("on_time") - 1 for part in (self.before, self.after)] == others
        return len(self.part.calls) - before

    def failures(self) -> int:
        return self.supervision.failures["broken"]

    def close(self) -> None:
        for part in (self.before, self.part, self.after):
            part.close()
        self.loop.close()


@pytest.mark.parametrize("method", ["filenos", "fileno", "on_ready", "next_deadline", "on_time"])
def test_wherever_a_part_raises_the_loop_goes_on_and_comes_back_to_it(
    method: str, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(method)
    world.turn()
    assert world.failures() == 1
    assert world.turn() == 0, "it rests"
    (health,) = world.supervision.failing()
    assert (health.name, health.in_a_row) == ("broken", 1)
    world.turn(REST_S)  # its descriptors are waited for from the next turn on
    world.turn()
    assert world.failures() == 2
    world.part.broken.clear()
    world.turn(2 * REST_S)
    world.turn()
    assert {"filenos", "on_ready", "next_deadline", "on_time"} <= set(world.part.calls)
    world.clock.advance(WELL_S)
    assert world.supervision.failing() == []
    assert world.failures() == 2, "the count stays"
    assert "the part broken works again" in caplog.messages
    world.close()


def test_it_is_told_with_its_trace_once_and_with_its_text_escaped(caplog: pytest.LogCaptureFixture) -> None:
    world = World("on_time")
    for _ in range(5):
        world.turn(1)
    told = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(told) == world.failures() == 5
    assert [record.exc_info is not None for record in told] == [True, False, False, False, False]
    assert "\n" not in told[0].getMessage()
    assert "\x1b" not in told[0].getMessage()
    world.close()


def test_rests_grow_and_a_part_on_the_way_of_a_verdict_rests_a_second_at_most() -> None:
    for vital, longest in ((False, 10), (True, 1)):
        world = World("on_time", vital=vital)
        rests = []
        for _ in range(9):
            world.turn(10)
            (health,) = world.supervision.failing()
            assert health.rests_until_ns is not None
            rests.append((health.rests_until_ns - world.clock.boot_ns()) / NS)
            if vital and len(rests) == 5:
                break
        assert rests[:4] == [0.1, 0.2, 0.4, 0.8]
        assert rests[-1] == longest
        world.close()


def test_the_wait_ends_with_the_rest() -> None:
    world = World("on_time")
    world.loop = loop = Loop(world.clock.boot_ns, longest_wait_ns=60 * NS)
    loop.add(world.part)
    world.part.broken = {"on_time"}
    os.write(world.part.writer, b"x")
    loop.turn()
    assert 0.05 < loop._wait_s() <= REST_S
    world.close()


def test_readiness_and_soundness_follow_the_parts_on_the_way_of_a_verdict() -> None:
    world = World("on_time")
    world.turn()
    assert world.supervision.is_ready()
    assert world.supervision.vital_failures == 0
    world.close()
    world = World("on_time", vital=True)
    world.turn()
    assert not world.supervision.is_ready()
    assert world.supervision.is_sound(), "one error, and it goes on"
    assert world.supervision.vital_failures == 1
    world.turn(REST_S)
    assert not world.supervision.is_sound()
    assert world.supervision.troubles()[0].startswith("NOT JUDGING RELIABLY: the part broken fails: TypeError")
    world.clock.advance(WELL_S + 1)
    assert world.supervision.is_ready()
    assert world.supervision.is_sound()
    world.close()


def test_what_no_verdict_can_do_without_ends_the_process_when_it_goes_on_failing() -> None:
    world = World("on_time", vital=True)
    for _ in range(60):
        world.turn(1)
    with pytest.raises(PartError, match=r"the part broken fails since \d+ s: TypeError"):
        world.turn(1)
    world.close()
    world = World("on_time")
    for _ in range(100):
        world.turn(1)
    world.close()


def test_errors_that_are_far_apart_end_nothing() -> None:
    world = World("on_time", vital=True)
    for _ in range(100):
        world.turn(WELL_S + 2)
        assert world.supervision.is_sound()
    world.close()


def test_a_signal_whose_handler_raises_ends_nothing() -> None:
    world = World()
    world.loop._handlers[10] = lambda: os.close(-1)
    os.write(world.loop._wake_write, bytes([10]))
    world.turn()
    assert world.supervision.failures["signals"] == 1
    world.close()
