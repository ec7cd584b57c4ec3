"""`watch` without a daemon: a source of its own, looked at and shown, nothing decided and nobody refused."""

import contextlib
import logging
import os
import signal
from collections.abc import Sequence
from typing import Protocol

from smtpguard.clock import SystemClock, WallMap
from smtpguard.daemon.intake.source_supervisor import SourceSupervisor
from smtpguard.daemon.loop import Loop
from smtpguard.daemon.record.enrichment_queue import Entry, Waiting
from smtpguard.daemon.ticker import Ticker
from smtpguard.enrich.accounts.directory import AccountDirectory
from smtpguard.enrich.looker import Looker
from smtpguard.enrich.reverse_dns import ReverseDns
from smtpguard.errors import PrivilegeError, SourceError
from smtpguard.model import NS, Account, Connect
from smtpguard.policy.destinations import Destinations
from smtpguard.policy.subjects import account_of, subject_of
from smtpguard.settings import Settings

log = logging.getLogger(__name__)


class Show(Protocol):
    """Shows what was seen."""

    def __call__(self, connect: Connect, account: Account, wall_ns: int) -> None:
        """Show one attempt, whose it is, and its wall time. Raises OSError when nobody reads any more."""


def observe(settings: Settings, show: Show) -> None:
    """Show every connection until a signal, or until nobody reads.

    Args:
        settings: Which sources, ports and enrichers.
        show: Shows one.

    Raises:
        SourceError: No source works.
        PrivilegeError: Not root.
    """
    if os.geteuid() != 0:
        raise PrivilegeError("no daemon answers, and a source of its own needs root", fix="run it as root")
    with contextlib.ExitStack() as stack:
        _observe(settings, show, stack)


def _observe(settings: Settings, show: Show, stack: contextlib.ExitStack) -> None:
    clock = SystemClock()
    wall = WallMap(clock)
    loop = Loop(clock.boot_ns)
    stack.callback(loop.close)
    looker = rdns = None
    if settings.attribution_process:
        looker = Looker(php=settings.attribution_php)
        looker.start()
        stack.callback(looker.close)
    if settings.attribution_rdns:
        rdns = ReverseDns()
        rdns.start()
        stack.callback(rdns.close)
    accounts = AccountDirectory(settings)
    destinations = Destinations()

    def deliver(entry: Entry) -> None:
        try:
            show(entry.connect, entry.account, wall.to_wall_ns(entry.connect.time_ns))
        except OSError:
            loop.stop()

    waiting = Waiting(clock.boot_ns, deliver, looker=looker, rdns=rdns)

    def take(connects: Sequence[Connect]) -> None:
        for connect in connects:
            if connect.uid is None:
                continue
            if settings.loopback == "ignore" and destinations.why_exempt(connect.address) == "loopback":
                continue
            subject = subject_of(accounts, connect.uid, connect.netns)
            waiting.add(Entry(connect=connect, account=account_of(accounts, subject), subject=subject))

    sensing = SourceSupervisor(settings, take, lambda _: None, lambda _: None, clock.boot_ns)
    stack.callback(sensing.close)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
        loop.on_signal(number, loop.stop)
    sensing.start()
    if sensing.leader() is None:
        reasons = "; ".join(f"{sensor.name}: {sensor.why}" for sensor in sensing.sensors)
        raise SourceError(f"no source works: {reasons or 'sources: none'}", fix="smtpguard doctor")

    def chores(now_ns: int) -> None:
        del now_ns
        wall.refresh()
        accounts.refresh()

    for part in (sensing, waiting, Ticker(2 * NS, chores, clock.boot_ns())):
        loop.add(part)
    loop.run()
    waiting.close()
