"""fail2ban beside the guard."""

import shlex
import sys
import time
from pathlib import Path

from smtpguard.model import NS
from tests.lived.registry import happening
from tests.lived.world import World
from tests.support.fail2ban import Fail2ban
from tests.support.host import Host, wait_for

JAIL = "smtpguard"
BAN_S = 60


def prepare(fail2ban: Fail2ban, programs: Path, host: Host, log: Path) -> None:
    """Let it watch the guard's log and run the guard's commands; it bans nobody by itself."""
    guard = programs / "smtpguard"
    guard.write_text(f'#!/bin/sh\nunset PYTHONPATH\nexec {shlex.quote(sys.executable)} -m smtpguard "$@"\n')
    guard.chmod(0o755)
    fail2ban.path_first = programs
    fail2ban.settings["SMTPGUARD_CONFIG"] = host.config
    fail2ban.enter = host.lab.argv
    fail2ban.log = log
    settings = {"logpath": str(log), "maxretry": "100000", "bantime": str(BAN_S), "bantime.increment": "false"}
    fail2ban.configure({JAIL: settings})


@happening
def banned_by_hand(world: World) -> None:
    """`banip`, and `unbanip`: a block of fail2ban's own."""
    guest = world.guest(blocked=False)
    world.fail2ban.client("set", JAIL, "banip", guest.name)
    wait_for(lambda: any(row["by"] == f"fail2ban:{JAIL}" for row in world.ask("blocks")["items"]), 10)
    guest.blocks[f"fail2ban:{JAIL}"] = time.time_ns() + BAN_S * NS
    world.check(guest)
    world.fail2ban.client("set", JAIL, "unbanip", guest.name)
    wait_for(lambda: not any(row["by"] == f"fail2ban:{JAIL}" for row in world.ask("blocks")["items"]), 10)
    guest.free()
    world.check(guest)


@happening
def fail2ban_restarted(world: World) -> None:
    """Its restart frees nobody."""
    guest = world.guest(blocked=True)
    world.fail2ban.stop()
    world.check(guest)
    world.fail2ban.start()
    world.check(guest)


@happening
def fail2ban_reloaded(world: World) -> None:
    world.fail2ban.client("reload")
