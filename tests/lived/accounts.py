"""Accounts, groups, subordinate uids and login.defs change."""

from collections.abc import Iterator

from smtpguard.demo.lab import PEER4
from tests.lived.registry import happening
from tests.lived.world import SETTLE_S, UNTIL_SLID_S, World
from tests.support.host import wait_for

NEW_UID = 61290
SUBUIDS = (900_000, 65_536)
EXEMPT_GROUP = "mailers"


def _line(name: str, uid: int) -> str:
    return f"{name}:x:{uid}:{uid}:laboratory:/nonexistent:/bin/sh\n"


@happening
def account_made(world: World) -> None:
    """`useradd`, and `userdel` later: a new account may send, and is known by its name."""
    with world.edited("/etc/passwd", "", _line("newcomer", NEW_UID)):
        assert world.probe(NEW_UID, PEER4) == 0
        world.ask("block", user="newcomer", for_ns=10**10)
        assert world.probe(NEW_UID, PEER4) != 0
        world.ask("unblock", user="newcomer")
    assert world.probe(NEW_UID, PEER4) == 0, "who has no name may send all the same"


@happening
def account_deleted(world: World) -> None:
    """A blocked account that is removed stays blocked, and is when it comes back."""
    guest = world.guest(blocked=True)
    with world.edited("/etc/passwd", f"^{guest.name}:.*\n", ""):
        world.check(guest)
    world.check(guest)


@happening
def account_renamed(world: World) -> None:
    """A block is bound to uid and name: under another name the uid is somebody else's."""
    guest = world.guest(blocked=True)
    with world.edited("/etc/passwd", f"^{guest.name}:", f"{guest.name}new:"):
        guest.free()
        world.check(guest)
    world.check(guest)


@happening
def uid_given_to_another(world: World) -> None:
    """Two accounts change numbers: neither inherits what stood against the other."""
    one, other = world.random.sample(world.model.of_kind("guest"), 2)
    if one.exempt or other.exempt:
        return
    world.block(one, 30)
    world.unblock(other)
    text = world.read("/etc/passwd")
    swapped = text.replace(_line(one.name, one.uid), _line(other.name, one.uid).replace("laboratory", "moved"))
    swapped = swapped.replace(_line(other.name, other.uid), _line(one.name, other.uid))
    assert swapped != text
    world.write("/etc/passwd", swapped)
    world.let_accounts_be_read()
    one.free()
    world.check(one)
    world.check(other)
    world.write("/etc/passwd", text)
    world.let_accounts_be_read()


@happening
def group_joined(world: World) -> Iterator[None]:
    """Who joins an exempt group is free, whatever was active for them; who leaves it is held to the rules again."""
    guest = world.guest(blocked=True)
    before = world.read("/etc/group")
    line = next(line for line in before.splitlines() if line.startswith(f"{EXEMPT_GROUP}:"))
    world.write("/etc/group", before.replace(line, f"{line},{guest.name}" if line[-1] != ":" else line + guest.name))
    world.let_accounts_be_read()
    guest.free()
    guest.exempt.add("group")
    world.check(guest)
    yield
    world.write("/etc/group", before)
    world.let_accounts_be_read()
    guest.exempt.discard("group")
    world.check(guest)


@happening
def subuid_given(world: World) -> None:
    """A block covers the subordinate uids that its user has now."""
    guest = world.guest(blocked=True)
    first, count = SUBUIDS
    with world.edited("/etc/subuid", "", f"{guest.name}:{first}:{count}\n"):
        wait_for(lambda: world.probe(first + 1000, PEER4) != 0, SETTLE_S)  # the user's block is theirs
        world.check(guest)
    wait_for(lambda: world.probe(first + 1000, PEER4) == 0, SETTLE_S)  # they are nobody's any more
    world.check(guest)


@happening
def login_defs_changed(world: World) -> None:
    """Below UID_MIN accounts are the system's: told about, not refused by a rule."""
    with world.model.span("free", after_s=UNTIL_SLID_S):
        with world.edited("/etc/login.defs", r"^UID_MIN\s.*", "UID_MIN 62000"):
            world.check(world.random.choice(world.model.of_kind("innocent")))
        for guest in world.model.of_kind("guest"):
            world.unblock(guest)
