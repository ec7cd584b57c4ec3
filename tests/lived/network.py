"""Addresses, links and the resolver change."""

import time
from collections.abc import Iterator

from smtpguard.demo.lab import ANY4, ANY6, BLACKHOLE4, HOST6, PEER4, PEER6
from tests.lived.registry import happening
from tests.lived.world import OWN_PLACE, RELAY_PLACES, World
from tests.support.host import wait_for

RELOAD_S = 5


@happening
def address_added(world: World) -> Iterator[None]:
    """The host's own addresses pass for everybody, from the moment they are the host's."""
    guest = world.guest(blocked=True)
    world.host.lab.ip(world.host.lab.host, "address", "add", f"{OWN_PLACE}/32", "dev", "sg0")
    world.model.places.add(OWN_PLACE)
    world.check(guest, OWN_PLACE)
    yield
    world.host.lab.ip(world.host.lab.host, "address", "del", f"{OWN_PLACE}/32", "dev", "sg0")
    world.model.places.discard(OWN_PLACE)
    world.check(guest, OWN_PLACE)


@happening
def link_down_and_up(world: World) -> None:
    """The only link goes down, with its routes, and comes back."""
    lab = world.host.lab
    with world.model.span("link", after_s=2.5):
        world.model.link_is_up = False
        lab.ip(lab.host, "link", "set", "sg0", "down")
        time.sleep(world.random.uniform(0.1, 0.6))
        lab.ip(lab.host, "link", "set", "sg0", "up")
        lab.ip(lab.host, "address", "replace", f"{HOST6}/64", "dev", "sg0", "nodad")
        for net, via in ((ANY4, PEER4), (BLACKHOLE4, PEER4), (ANY6, PEER6)):
            lab.ip(lab.host, "route", "replace", net, "via", via)
        wait_for(lambda: all(world.probe(0, place) == 0 for place in (PEER4, PEER6)), 5)
        world.model.link_is_up = True


@happening
def link_comes_and_goes(world: World) -> None:
    """A container's link, with an address that is the host's own meanwhile."""
    lab = world.host.lab
    lab.ip(lab.host, "link", "add", "d0", "type", "veth", "peer", "name", "d1")
    lab.ip(lab.host, "address", "add", "10.9.8.7/24", "dev", "d0")
    lab.ip(lab.host, "link", "set", "d0", "up")
    time.sleep(0.2)
    lab.ip(lab.host, "link", "del", "d0")


@happening
def dns_answer_changed(world: World) -> None:
    """An exempt name has another address: it passes for a blocked user, at the price of one refusal."""
    world.answer(next(place for place in RELAY_PLACES if place != world.relay))
    world.check_relay(world.guest(blocked=True))


@happening
def dns_failing(world: World) -> Iterator[None]:
    """A name that can't be looked up keeps its last good addresses, while the daemon lives."""
    guest = world.guest(blocked=True)
    world.answer(world.relay, how="fails")
    time.sleep(1.5)  # beyond the life of the last answer
    world.check_relay(guest)
    yield
    world.check_relay(guest)
    world.answer(world.relay)
    world.check_relay(guest)


@happening
def dns_slow(world: World) -> Iterator[None]:
    """A resolver that hangs holds up nothing: not a verdict, not a command, not a reload."""
    guest = world.guest(blocked=True)
    world.answer(world.relay, how="hangs")
    time.sleep(1.5)
    world.check_relay(guest)
    begun = time.monotonic()
    world.reload()
    assert time.monotonic() - begun < RELOAD_S, "the resolver was waited for"
    yield
    world.check_relay(guest)
    world.answer(world.relay)
    world.check_relay(guest)
