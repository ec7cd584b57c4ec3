"""What others do to nftables and BPF."""

import time
from collections.abc import Iterator

from smtpguard.demo.lab import PEER4
from smtpguard.model import NS
from tests.lived.registry import happening
from tests.lived.world import World
from tests.support.bpf_links import detach_all, list_links
from tests.support.host import wait_for

FOREIGN = 50_000


def _nft(world: World, text: str) -> str:
    path = world.host.lab.directory / "by-hand.nft"
    path.write_text(text)
    return world.host.nft("-f", str(path))


@happening
def ruleset_flushed(world: World) -> None:
    with world.model.span("bare", after_s=0.3):
        world.host.nft("flush", "ruleset")


@happening
def table_deleted(world: World) -> None:
    with world.model.span("bare", after_s=0.3):
        done = world.host.lab.run(["nft", "delete", "table", "inet", "smtpguard"])
        assert done.returncode == 0 or "No such file" in done.stderr


@happening
def element_deleted(world: World) -> None:
    """An element deleted by hand is the wish to unblock."""
    guest = world.guest(blocked=True)
    world.host.nft("delete", "element", "inet", "smtpguard", "blocked", f"{{ {guest.uid} }}")
    guest.free()
    world.check(guest)


@happening
def saved_ruleset_loaded(world: World) -> None:
    """`nft -f` of what `nft list ruleset` had said, as nftables.service does: who is free since then stays free."""
    guest, other = world.random.sample(world.model.of_kind("guest"), 2)
    if guest.exempt or other.exempt:
        return
    world.block(other, 30)
    world.unblock(guest)
    saved = world.host.nft("list", "ruleset")
    with world.model.span("bare", after_s=0.5):
        _nft(world, f"flush ruleset\n{saved}")
    world.check(guest)
    world.check(other)


@happening
def foreign_set_loaded(world: World) -> Iterator[None]:
    """A country's networks in somebody else's table; then the ruleset is flushed beside it."""
    elements = ",".join(f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}" for n in range(FOREIGN))
    _nft(world, f"table inet foreign {{\nset countries {{\ntype ipv4_addr\nelements = {{ {elements} }}\n}}\n}}\n")
    with world.model.span("bare", after_s=0.5):
        world.host.nft("delete", "table", "inet", "smtpguard")
    world.check(world.guest(blocked=True))
    yield
    done = world.host.lab.run(["nft", "delete", "table", "inet", "foreign"])
    assert done.returncode == 0 or "No such file" in done.stderr  # a flush may have come before us


@happening
def bpf_detached(world: World) -> None:
    with world.model.span("blind", after_s=0.1):
        detach_all(world.cgroup_id)
        wait_for(lambda: list_links(world.cgroup_id) and world.is_ready())


@happening
def sensor_dead(world: World) -> None:
    """The program in the kernel is taken away again and again: another source sees meanwhile."""
    with world.model.span("blind", after_s=0.1):
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            detach_all(world.cgroup_id)
            time.sleep(0.02)
        wait_for(lambda: list_links(world.cgroup_id) and world.is_ready(), 20)


@happening
def element_added(world: World) -> None:
    """An element added by hand refuses while it is there."""
    guest = world.guest(blocked=False)
    seconds = 3
    world.host.nft("add", "element", "inet", "smtpguard", "blocked", f"{{ {guest.uid} timeout {seconds}s }}")
    guest.blocks["hand"] = time.time_ns() + seconds * NS
    world.check(guest, PEER4)
