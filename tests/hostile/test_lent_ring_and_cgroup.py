"""Attacks: a cgroup that was delegated to the tenant, and an io_uring that another user made and lends."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.host import INNOCENT, SPAMMER, Host, wait_for
from tests.support.processes import remove_cgroup

pytestmark = pytest.mark.kernel

INSIDE = """
import os, socket, sys
os.setresuid({uid}, {uid}, {uid})
os.mkdir({folder!r} + "/own")
open({folder!r} + "/own/cgroup.procs", "w").write("0")
assert "/own" in open("/proc/self/cgroup").read()
try:
    socket.create_connection(("192.0.2.2", 25), 3)
    print("through")
except OSError as error:
    print(error.errno)
"""
RING = """
import os, sys
sys.path[:0] = {path!r}
from tests.support.evasion import Target, Uring, finish, uring_connect
import tests.support.evasion as evasion
maker, user = {maker}, {user}
os.setresuid(maker, maker, 0)
ring = Uring({setup})
class Lent(Uring):
    def __init__(self, *_):
        self.__dict__.update(ring.__dict__)
evasion.Uring = Lent
os.setresuid(0, 0, 0)
os.setresuid(user, user, user)
try:
    uring_connect(Target("192.0.2.2", 25, user), setup={setup})
    print("through")
except OSError as error:
    print(error.errno)
"""


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with Host(attribution={"process": False, "rdns": False}) as host:
        host.start()
        yield host


def say(host: Host, text: str) -> str:
    done = host.lab.run([sys.executable, "-c", text], inside=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_cgroup_of_ones_own_is_below_the_guards(host: Host) -> None:
    assert host.lab.cgroup is not None
    folder = Path(host.lab.cgroup, "delegated")
    folder.mkdir()
    try:
        for path in (folder, folder / "cgroup.procs", folder / "cgroup.subtree_control", Path(host.lab.cgroup)):
            os.chown(path, SPAMMER[1], SPAMMER[1])
        os.chown(Path(host.lab.cgroup, "cgroup.procs"), SPAMMER[1], SPAMMER[1])
        script = INSIDE.format(uid=SPAMMER[1], folder=str(folder))
        before = len(host.events("CONNECT"))
        assert say(host, script) == "through"
        seen = wait_for(lambda: host.events("CONNECT")[before:])
        assert [event["UID"] for event in seen] == [str(SPAMMER[1])]
        wait_for(lambda: remove_cgroup(folder / "own"))
        assert host.cli("block", SPAMMER[0]).returncode == 0
        assert say(host, script) != "through"
        wait_for(lambda: len(host.events("CONNECT")) == before + 2)  # the next test counts from there
    finally:
        host.cli("unblock", SPAMMER[0])
        wait_for(lambda: remove_cgroup(folder / "own"))
        wait_for(lambda: remove_cgroup(folder))


@pytest.mark.parametrize(("setup", "counted"), [("0", INNOCENT), ("Uring.SQPOLL", SPAMMER)])
def test_a_ring_that_another_lends(host: Host, setup: str, counted: tuple[str, int]) -> None:
    """Submitted by the user it is the user's; a ring with a thread of its own acts as who made it, who lends it."""
    script = RING.format(path=sys.path, maker=SPAMMER[1], user=INNOCENT[1], setup=setup)
    before = len(host.events("CONNECT"))
    assert say(host, script) == "through"
    seen = wait_for(lambda: host.events("CONNECT")[before:])
    assert [event["UID"] for event in seen] == [str(counted[1])]


@pytest.mark.parametrize("setup", ["0", "Uring.SQPOLL"])
def test_whoever_is_blocked_sends_by_no_lent_ring(host: Host, setup: str) -> None:
    """bpf asks for the socket's creator too, and nft for it alone."""
    script = RING.format(path=sys.path, maker=SPAMMER[1], user=INNOCENT[1], setup=setup)
    assert host.cli("block", INNOCENT[0]).returncode == 0
    try:
        assert say(host, script) != "through"
    finally:
        host.cli("unblock", INNOCENT[0])
