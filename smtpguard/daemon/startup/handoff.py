"""From the command to the daemon: the same process begins anew, without what only commands need.

Reading a command line and checking a configuration takes 13 MB of modules (click, YAML, JSON Schema) that a daemon on a
server full of customers would keep for ever. So `smtpguard run` checks everything, hands the checked settings over in
memory (memfd_create(2)) and executes `python -P -m smtpguard.daemon` in /, under the same pid.
"""

import os
import pickle
import sys
from dataclasses import dataclass, replace
from typing import NoReturn

from smtpguard.daemon.startup.service_manager import NOWHERE, Address, take_address
from smtpguard.errors import PrivilegeError
from smtpguard.interpreter import module_argv, module_environment
from smtpguard.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """What the command line said.

    Attributes:
        config_path: The file that was named, absolute; None for the usual order.
        dry_run: --dry-run.
        sources: --source, each.
        verbose: --verbose.
        wrong_file: Why the settings are not those of the file, for people; None if they are.
        manager: Where the service manager listens; it is nobody else's business.
    """

    config_path: str | None = None
    dry_run: bool = False
    sources: tuple[str, ...] = ()
    verbose: bool = False
    wrong_file: str | None = None
    manager: Address = NOWHERE


def check_privilege() -> None:
    """Raise PrivilegeError unless we are root."""
    if os.geteuid() != 0:
        what = "the guard watches other users' connections: CAP_BPF, CAP_NET_ADMIN, CAP_SYS_PTRACE"
        raise PrivilegeError(what, fix="run it as root")


def execute(settings: Settings, start: Start) -> NoReturn:
    """Become the daemon."""
    environment = module_environment()
    start = replace(start, manager=take_address(environment))
    descriptor = os.memfd_create("smtpguard-settings", 0)
    with os.fdopen(os.dup(descriptor), "wb") as file:
        pickle.dump((settings, start), file)
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.chdir("/")  # the directory it was typed in may be a tenant's, and may want to be unmounted
    os.execve(sys.executable, module_argv("smtpguard.daemon", str(descriptor)), environment)  # noqa: S606 - ourselves


def receive(descriptor: int) -> tuple[Settings, Start]:
    """What `execute` handed over."""
    with os.fdopen(descriptor, "rb") as file:
        settings, start = pickle.load(file)  # noqa: S301 - written by ourselves before we began anew
    return settings, start
