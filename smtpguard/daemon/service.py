"""`smtpguard run`: puts the parts together, in an order in which nothing is half there, and takes them apart again.

Order at the start: configuration, privileges, lock, helpers (forked before there are threads), state, engine, table,
sources, control socket. Whatever fails before the loop leaves nothing behind.
"""

import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from smtpguard import __version__
from smtpguard.actions.base import Passes
from smtpguard.actions.bpf_deny import BpfDeny
from smtpguard.actions.eventlog import EventLog
from smtpguard.actions.fail2ban import Unbanner
from smtpguard.actions.nft.apply import NftEnforcer
from smtpguard.actions.nft.render import build_spec
from smtpguard.daemon.arms import Arms
from smtpguard.daemon.clock import SystemClock, WallMap
from smtpguard.daemon.control import ControlServer, Peer
from smtpguard.daemon.guard import Guard
from smtpguard.daemon.journal import Journal
from smtpguard.daemon.lock import InstanceLock
from smtpguard.daemon.loop import Loop
from smtpguard.daemon.overview import Overview
from smtpguard.daemon.responder import Responder
from smtpguard.daemon.sensing import Sensing
from smtpguard.daemon.ticker import Ticker
from smtpguard.daemon.verbs import Verbs
from smtpguard.enrich.accounts import Accounts
from smtpguard.enrich.looker import Looker
from smtpguard.enrich.rdns import Rdns
from smtpguard.errors import ConfigError, GuardError, LogError, PrivilegeError, SourceError
from smtpguard.model import NS, Block, Subject
from smtpguard.policy.destinations import Destinations
from smtpguard.policy.engine import Engine
from smtpguard.settings import Settings
from smtpguard.settings_file import load_settings
from smtpguard.sources.base import Source
from smtpguard.sources.bpf.source import BpfSource
from smtpguard.state.keeper import Paths
from smtpguard.state.writer import StateWriter

log = logging.getLogger(__name__)

_CHORE_NS = NS


def read_settings(config_path: str | None, *, dry_run: bool, sources: tuple[str, ...]) -> Settings:
    """The configuration with what the command line says on top of it."""
    settings = load_settings(config_path)
    if dry_run:
        settings = replace(settings, dry_run=True)
    if sources:
        settings = replace(settings, sources=sources)
    return settings


def serve(config_path: str | None, *, dry_run: bool, sources: tuple[str, ...]) -> None:
    """Run the guard until a signal ends it.

    Raises:
        GuardError: It can't start; nothing is left behind.
    """
    read = partial(read_settings, config_path, dry_run=dry_run, sources=sources)
    settings = read()
    if os.geteuid() != 0:
        raise PrivilegeError(
            "the guard watches other users' connections", fix="run it as root (CAP_BPF, CAP_NET_ADMIN, CAP_SYS_PTRACE)"
        )
    with contextlib.ExitStack() as stack:
        Service(settings, read, stack).run()
