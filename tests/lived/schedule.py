"""One thing after the other happens to the host, in an order that the seed gives; each comes about equally often."""

import contextlib
import time
from collections.abc import Iterator, Sequence

from tests.lived import accounts, files, jail, kernel, network, people, process, settings
from tests.lived.registry import HAPPENINGS
from tests.lived.world import World

ROOMS = (accounts, files, jail, kernel, network, people, process, settings)
"""Where happenings are: importing them registers them."""
NOT_YET: frozenset[str] = frozenset()
"""Happenings that the guard does not live through yet."""
MAX_LASTING = 3
"""Happenings after which one that lasts is ended."""


class HappeningError(Exception):
    """Something went wrong; says with which seed, at which step, and what was being done."""


def live_through(world: World, seed: int, seconds: float, *, only: Sequence[str] = (), pause_s: float) -> int:
    """Let things happen for a time, and everything at least once; how many did.

    Args:
        world: The host, guarded.
        seed: Of the order, for the report.
        seconds: How long.
        only: Names of happenings, to look for a fault; all if empty.
        pause_s: The least from one to the next.
    """
    names = sorted(set(only) or HAPPENINGS.keys() - NOT_YET)
    end = time.monotonic() + seconds
    todo: list[str] = []
    lasting: list[tuple[int, str, Iterator[None]]] = []
    step = 0
    while step < len(names) or time.monotonic() < end:
        if not todo:
            todo = world.random.sample(names, len(names))
        begun = time.monotonic()
        step += 1
        name = todo.pop()
        for entry in [entry for entry in lasting if entry[1] == name]:
            lasting.remove(entry)
            _end(world, seed, step, entry)
        with _told(seed, step, name):
            print(f"{time.time():.3f} {step} {name}", flush=True)
            begins = HAPPENINGS[name](world)
            if begins is not None:
                next(begins)
                lasting.append((step + world.random.randint(1, MAX_LASTING), name, begins))
            world.check_all()
        for entry in [entry for entry in lasting if entry[0] <= step]:
            lasting.remove(entry)
            _end(world, seed, step, entry)
        with _told(seed, step, f"looking at the daemon after {name}"):
            world.measures.look(world.pid, world.ask("status")["status"])
        time.sleep(max(0, begun + pause_s - time.monotonic()))
    for entry in lasting:
        _end(world, seed, step, entry)
    world.measures.life_ends()
    return step


def _end(world: World, seed: int, step: int, entry: tuple[int, str, Iterator[None]]) -> None:
    _, name, ends = entry
    with _told(seed, step, f"the end of {name}"):
        print(f"{time.time():.3f} {step} the end of {name}", flush=True)
        next(ends, None)
        world.check_all()


@contextlib.contextmanager
def _told(seed: int, step: int, name: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise HappeningError(f"seed {seed}, step {step}, {name}: {error}") from error
