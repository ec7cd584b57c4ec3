"""Event time and wall time, and a clock that somebody sets."""

import time

import pytest

from smtpguard.clock import STEP_NS, SystemClock, WallMap, next_beat
from smtpguard.model import NS
from tests.fakes.clock import FakeClock


def test_maps_both_ways() -> None:
    clock = FakeClock()
    wall = WallMap(clock)
    assert wall.to_wall_ns(clock.boot - 3 * NS) == clock.wall - 3 * NS
    assert wall.to_event_ns(clock.wall - 3 * NS) == clock.boot - 3 * NS
    assert wall.to_deadline_ns(clock.wall + 3600 * NS) == clock.boot + 3600 * NS


@pytest.mark.parametrize("step_s", [3600, -3600, 0.02, -86400 * 365])
def test_a_set_clock_maps_old_events_with_the_old_offset(step_s: float) -> None:
    clock = FakeClock()
    wall = WallMap(clock)
    old_event_ns, old_wall_ns = clock.boot, clock.wall
    clock.advance(10)
    clock.step_wall(step_s)
    assert wall.refresh() == round(step_s * NS)
    assert wall.refresh() == 0
    clock.advance(5)
    assert wall.to_wall_ns(old_event_ns) == old_wall_ns
    assert wall.to_wall_ns(clock.boot) == clock.wall
    assert wall.to_deadline_ns(clock.wall + NS) == clock.boot + NS


def test_stamps_from_before_a_step_keep_their_place() -> None:
    clock = FakeClock()
    wall = WallMap(clock)
    event_ns, stamp_ns = clock.boot - NS, clock.wall - NS
    clock.step_wall(3600)
    wall.refresh()
    clock.advance(2)
    assert wall.to_event_ns(stamp_ns) == event_ns
    assert wall.to_event_ns(clock.wall) == clock.boot


def test_a_stamp_from_the_future_is_now() -> None:
    clock = FakeClock()
    assert WallMap(clock).to_event_ns(clock.wall + 100 * NS) == clock.boot


def test_jitter_is_no_step_but_small_steps_add_up() -> None:
    clock = FakeClock()
    wall = WallMap(clock)
    clock.step_wall(0.9 * STEP_NS / NS)
    assert wall.refresh() == 0
    clock.step_wall(0.9 * STEP_NS / NS)
    assert wall.refresh() == round(1.8 * STEP_NS)


def test_many_steps_are_bounded_and_the_last_one_holds() -> None:
    clock = FakeClock()
    wall = WallMap(clock)
    for _ in range(1000):
        clock.advance(1)
        clock.step_wall(60)
        assert wall.refresh() == 60 * NS
    assert len(wall._spans) <= 8
    assert wall.to_wall_ns(clock.boot) == clock.wall
    assert isinstance(wall.to_wall_ns(0), int)


def test_the_system_clock_is_the_kernels() -> None:
    clock = SystemClock()
    wall = WallMap(clock)
    before_ns, mapped_ns, after_ns = time.time_ns(), wall.to_wall_ns(clock.boot_ns()), time.time_ns()
    assert before_ns - NS < mapped_ns < after_ns + NS
    assert clock.monotonic_ns() <= clock.boot_ns()
    assert wall.refresh() == 0


def test_beats_of_one_pause_fall_together_and_of_a_longer_one_onto_them() -> None:
    assert next_beat(7 * NS) == 8 * NS
    assert next_beat(7 * NS + 1) == next_beat(8 * NS - 1) == 8 * NS
    assert next_beat(8 * NS, 10 * NS) == next_beat(10 * NS - 1) == 10 * NS
