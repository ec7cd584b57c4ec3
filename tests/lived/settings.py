"""The configuration is changed under the running guard, and read again."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.lived.registry import happening
from tests.lived.world import UNTIL_SLID_S, World

GUEST = "guest1"
CHANGES: dict[str, Any] = {
    "ports": [25, 465, 587, 2525, 2526],
    "rules": [{"name": "more", "count": "connections", "limit": 5000, "window": "1h", "action": "warn"}],
    "users": [{"match": {"users": [GUEST]}, "rules": {"burst": {"limit": 5}}}],
    "shared_users": {"users": ["nobody-here"], "block": []},
    "exempt": {"destinations": ["198.18.200.0/24"]},
    "loopback": "count",
    "escalation": {"forget": "1d", "still_trying": "extend"},
    "breaker": {"blocks": 5000},
    "block": {"verdict": "drop"},
    "cap": {"rate": "6000/minute", "burst": 1000},
    "sources": ["bpf", "nflog"],
    "cgroup": "auto",
    "log": {"connects": False},
    "state": {"keep": "1d"},
    "control": {"verbs": ["status"]},
    "audit": {"uid": 61299},
    "attribution": {"php": False},
    "nft": {"nflog_group": 26},
    "uid_min": 900,
    "notify": {"digest": "weekly"},
    "listed": {"every": "2h"},
    "nat64": ["2001:db8:64::/96"],
}
"""Each key, and another value for it that lets everybody do what they might before. Rules are added."""
AT_ONCE = 3
"""Keys that one happening changes, one after the other."""


@happening
def reloaded_with_another_value(world: World) -> None:
    """A few keys in turn, changed and changed back: windows and blocks go on all the while."""
    guest = world.guest(blocked=True)
    for _ in range(AT_ONCE):
        key = sorted(CHANGES)[world.turn("keys", len(CHANGES))]
        print(f"    {key}", flush=True)
        value = [*world.rules, *CHANGES[key]] if key == "rules" else CHANGES[key]
        with world.reloaded(**{key: value}) as said:
            assert key in said, f"the answer does not name it: {said}"
            world.check(guest)
            world.check(world.random.choice(world.model.of_kind("innocent")))
    world.check(guest)


@happening
def reloaded_broken(world: World) -> None:
    """A file that is no good changes nothing, and is named."""
    guest = world.guest(blocked=True)
    good = Path(world.host.config).read_text()
    broken = [f"{good}\nnonsense: 1\n", f"{good}\nrules: [\n", "\0"][world.turn("broken", 3)]
    Path(world.host.config).write_text(broken)
    done = world.host.cli("reload")
    assert done.returncode == 78, done.stderr
    assert world.host.config in done.stderr
    Path(world.host.config).write_text(good)
    world.check(guest)


@happening
def reloaded_exempting_a_blocked_user(world: World) -> Iterator[None]:
    """Who is exempt now is free of everything, and after that held to the rules again, with all counters at 0."""
    guest = world.guest(blocked=True)
    world.reload(exempt={"users": [guest.name]})
    guest.free()
    guest.exempt.add("configuration")
    world.check(guest)
    yield
    world.reload()
    guest.exempt.discard("configuration")
    world.check(guest)


@happening
def reloaded_into_dry_run(world: World) -> None:
    """Nobody is refused meanwhile but by a person's word."""
    guest = world.guest(blocked=True)
    with world.model.span("free", after_s=UNTIL_SLID_S), world.reloaded(dry_run=True):
        world.check(guest)
        spammer = world.random.choice(world.model.of_kind("spammer"))
        time.sleep(0.3)
        assert world.probe(spammer.uid, "198.18.0.1") == 0, "a dry run refused somebody"
    world.check(guest)
