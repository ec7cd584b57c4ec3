"""Signals and clocks: what happens to the daemon's own process."""

import contextlib
import os
import signal
import time

from smtpguard.model import NS
from tests.lived.model import Span
from tests.lived.registry import happening
from tests.lived.world import World
from tests.support.processes import list_descendants

HELD_S = 2.0
"""Limits hold for so long without the guard, from the last time that it said it lives: at whole seconds."""
LATE_S = 0.7
"""After a whole second: not so long before the next that it says so once more."""


@happening
def hung_up(world: World) -> None:
    world.host.stop_signal(signal.SIGHUP)


@happening
def stopped_for_a_second(world: World) -> None:
    """A debugger, a snapshot of the machine: it stands still, and the kernel goes on."""
    world.measures.disturb()
    if time.clock_gettime(time.CLOCK_BOOTTIME) % 1 > LATE_S:
        world.host.wait_for_beat()
    begun_ns, begun_s = time.time_ns(), time.monotonic()
    with world.model.span("stopped", after_s=0.2):
        world.host.stop_signal(signal.SIGSTOP)
        time.sleep(1)
        world.host.stop_signal(signal.SIGCONT)
    if time.monotonic() - begun_s > HELD_S - LATE_S - 0.2:  # this machine was busy: nothing has held to the end
        world.model.spans.append(Span("lost", begun_ns, time.time_ns() + NS // 5))  # and until it has run again


@happening
def killed(world: World) -> None:
    world.kill()


@happening
def terminated(world: World) -> None:
    """`systemctl restart`."""
    world.kill(signal.SIGTERM)


@happening
def helper_killed(world: World) -> None:
    """A helper that looks at processes ends; nobody else notices."""
    if helpers := list(list_descendants(world.pid)):
        with contextlib.suppress(ProcessLookupError):  # one that looks has a life of milliseconds
            os.kill(world.random.choice(helpers), signal.SIGKILL)


@happening
def clock_set(world: World) -> None:
    """The wall clock is set, forward or back, and set right again: blocks keep their length."""
    guest = world.guest(blocked=True)
    world.be_faked()
    world.step_clock(1 if world.turn("clock", 2) else -1)
    world.check(guest)
    world.check_lists()
    world.step_clock(0)
    world.check(guest)
