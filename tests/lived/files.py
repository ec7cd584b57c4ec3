"""Log, disk and state."""

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator

from tests.fakes.namespaces import fill
from tests.lived.registry import happening
from tests.lived.world import SAVED_S, World
from tests.support.host import wait_for

HOLDER = """
import sqlite3, sys
held = sqlite3.connect(sys.argv[1], isolation_level=None)
held.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
sys.stdin.read()
"""
NEWER = 999


def _rotated(world: World) -> str:
    world.turns["rotated"] = number = world.turns.get("rotated", 0) + 1
    return f"events.log.{number:04}"


@happening
def log_renamed(world: World) -> None:
    """logrotate's `create`: another name, then a signal."""
    log = world.small / "events.log"
    wait_for(log.exists)
    log.rename(log.with_name(_rotated(world)))
    world.host.stop_signal(signal.SIGHUP)


@happening
def log_copied_and_truncated(world: World) -> None:
    """logrotate's `copytruncate`."""
    log = world.small / "events.log"
    wait_for(log.exists)
    copy = log.with_name(_rotated(world))
    with log.open("r+b") as source:
        try:
            # What comes between the read and the cut is lost; that is its way. Of a line that is just being written a
            # part may be seen.
            data = source.read()
            copy.write_bytes(data[: data.rfind(b"\n") + 1])
        except OSError:  # a full disk: it is given up for today
            copy.unlink()
            return
        os.ftruncate(source.fileno(), 0)


@happening
def disk_full(world: World) -> Iterator[None]:
    fill(world.small)
    world.unsaved()
    yield
    (world.small / "ballast").unlink(missing_ok=True)
    world.saved()


@happening
def state_deleted(world: World) -> None:
    """It is written again, with what is in force."""
    for path in world.small.glob("state.db*"):
        path.unlink()
    end = time.monotonic() + 2.5  # it looks with the next change, at most a second later; on a full disk in vain
    while not (world.small / "state.db").exists() and time.monotonic() < end:
        time.sleep(0.02)
    time.sleep(SAVED_S)


@happening
def state_locked(world: World) -> Iterator[None]:
    """Another process holds the lock of writers."""
    argv = [sys.executable, "-c", HOLDER, str(world.small / "state.db")]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        locked = holder.stdout.readline() == "locked\n"  # on a full disk it can't be had
        world.unsaved()
        yield
        if locked:
            holder.kill()
    world.saved()


@happening
def state_from_a_newer_version(world: World) -> None:
    """It is left alone, and what the kernel holds is in force; then the old version comes back."""
    guest = world.guest(blocked=True)
    path = world.small / "state.db"

    def write_version(number: int) -> bool:
        with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(path, timeout=0.2)) as connection:
            connection.execute(f"PRAGMA user_version = {number}")
            return True
        return False

    with contextlib.closing(sqlite3.connect(path)) as connection:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
    if not write_version(NEWER):
        return
    world.unsaved()
    world.kill()
    world.check(guest)
    assert write_version(version)
    world.kill()
    world.saved()
    world.settle_unsaved()
