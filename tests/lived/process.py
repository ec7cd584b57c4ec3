"""Signals and clocks: what happens to the daemon's own process."""

import contextlib
import os
import signal
import time

from tests.lived.registry import happening
from tests.lived.world import World
from tests.support.processes import list_descendants


@happening
def hung_up(world: World) -> None:
    world.host.stop_signal(signal.SIGHUP)


@happening
def stopped_for_a_second(world: World) -> None:
    """A debugger, a snapshot of the machine: it stands still, and the kernel goes on."""
    world.measures.disturb()
    with world.model.span("stopped", after_s=0.2):
        world.host.stop_signal(signal.SIGSTOP)
        time.sleep(1)
        world.host.stop_signal(signal.SIGCONT)


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
