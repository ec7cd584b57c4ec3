"""What administrators do, alone and six at a time, and a control socket that others crowd."""

import contextlib
import random
import time
from collections.abc import Iterator
from functools import partial

from smtpguard.errors import GuardError
from smtpguard.model import NS
from tests.lived.forked import do_at_once
from tests.lived.registry import happening
from tests.lived.world import World
from tests.support.host import wait_for

CROWDED = 80
"""More than the daemon has room for."""


@happening
def blocked_by_hand(world: World) -> None:
    """For a time that ends by itself while other things happen."""
    for guest in world.model.of_kind("guest")[:3]:
        if not guest.exempt:
            world.block(guest, world.random.uniform(2, 12))


@happening
def unblocked_by_hand(world: World) -> None:
    guest = world.guest(blocked=True)
    world.unblock(guest)
    world.check(guest)


@happening
def allowed(world: World) -> None:
    """An allowance frees; when it is ended, the rules hold with all counters at 0."""
    guest = world.guest(blocked=True)
    world.ask("allow", user=guest.name, for_ns=60 * NS, everything=True)
    guest.free()
    world.check(guest)
    world.ask("allow", user=guest.name, end=True)
    world.check(guest)


@happening
def switched_off(world: World) -> None:
    """`off` and `on`, by the command itself."""
    guest = world.guest(blocked=True)
    with world.model.being_calm("off"):
        assert world.host.cli("off").returncode == 0
        world.check(guest)
        time.sleep(world.random.uniform(0.1, 0.6))
        world.ask("on")
    world.check(guest)


@happening
def six_at_once(world: World) -> None:
    """Six people say different things about the same people at the same time; the last word is one's own."""
    people = [guest for guest in world.model.of_kind("guest") if not guest.exempt]
    orders = {
        "allow": {"for_ns": 60 * NS, "everything": True},
        "block": {"for_ns": 20 * NS},
        "unblock": {},
        "off": {},
        "on": {},
    }

    seed = world.random.randrange(1 << 32)

    def say(number: int) -> None:
        for verb in random.Random(seed + number).sample(sorted(orders), len(orders)) * 2:
            for person in people[number % 2 :: 2]:
                who = {} if verb in ("off", "on") else {"user": person.name}
                with contextlib.suppress(GuardError):  # an answer may be that it can't be: the daemon goes on
                    world.ask(verb, **orders[verb], **who)

    with world.model.being_calm("six people", after_s=0.3):
        for person in people:
            person.unclear_until_ns = time.time_ns() + 30 * NS
        do_at_once([partial(say, number) for number in range(6)])
        world.ask("on")
        for person in people:
            world.ask("allow", user=person.name, end=True)
            world.unblock(person)
            person.unclear_until_ns = 0
    for person in people:
        world.check(person)


@happening
def socket_full(world: World) -> None:
    """Clients that only connect: root's commands still find their way within the client's patience."""
    with contextlib.ExitStack() as stack:
        for _ in range(CROWDED):
            with contextlib.suppress(OSError):
                stack.enter_context(world.connect_control())
        begun = time.monotonic()
        with contextlib.suppress(GuardError):
            world.ask("status")
        assert time.monotonic() - begun < 11
    wait_for(world.is_ready)


@happening
def socket_slow(world: World) -> Iterator[None]:
    """A client that sends a letter at a time, and one that watches and never reads."""
    with world.connect_control() as slow, world.connect_control() as watcher:
        watcher.sendall(b'{"verb": "watch"}\n')
        slow.sendall(b'{"ve')
        guest = world.guest(blocked=True)
        world.check(guest)
        yield
        with contextlib.suppress(OSError):
            slow.sendall(b'rb": "status"}\n')
