"""A configuration that was read again, put in force part by part, as far as a running guard can.

What the command line says stands above the file. What needs a restart stays as it is, and people are told.
"""

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from smtpguard.clock import WallMap
from smtpguard.daemon.bpf_lifecycle import BpfLifecycle
from smtpguard.daemon.enforce.enforcement import Enforcement
from smtpguard.daemon.guard import Guard
from smtpguard.daemon.host_watch import HostWatch
from smtpguard.daemon.intake.source_supervisor import SourceSupervisor
from smtpguard.daemon.outlet.messenger import Messenger
from smtpguard.daemon.serve.reload import Reloaded
from smtpguard.daemon.serve.status import Status
from smtpguard.daemon.startup.handoff import Start
from smtpguard.errors import GuardError
from smtpguard.hooks import ClockNs
from smtpguard.policy.rules import check_rules
from smtpguard.settings import Settings
from smtpguard.settings.load_in_child import read_settings_apart
from smtpguard.settings.on_reload import RESTART, find_changes, keep_until_restart, render_changes
from smtpguard.state.enforcing_since import EnforcingSince
from smtpguard.state.last_good import LastGood

if TYPE_CHECKING:
    from smtpguard.enrich.accounts.directory import Renewal


def apply_start(settings: Settings, start: Start) -> Settings:
    """The configuration with what the command line says on top of it."""
    if start.dry_run:
        settings = replace(settings, dry_run=True)
    return replace(settings, sources=start.sources) if start.sources else settings


def find_overruled(settings: Settings, start: Start) -> list[str]:
    """What the file says and the command line overrules, as sentences without their full stop."""
    if start.dry_run and not settings.dry_run:
        return ["Nobody is refused all the same: it was started with --dry-run; start it again without that"]
    return []


class Preparing(Protocol):
    """What can do a part of its work beforehand."""

    def prepare(self, settings: Settings) -> None:
        """Do what a configuration will need, in any thread. Raises GuardError."""
        ...


class Reconfiguration:
    """Reads a configuration and puts it in force, as `Reload` asks for it.

    Args:
        start: What the command line said.
        around: Accounts and destinations.
        table: What takes a while to compile.
        guard, enforcement, sensing, program, messenger: The parts that have to know; the first has what is in force.
        overview: What stops to say that the file is wrong.
        last_good: Keeps what is in force for the next start.
        enforcing_since: Since when users are refused.
        wall: Event time to wall time.
        now: CLOCK_BOOTTIME in nanoseconds.
    """

    def __init__(
        self,
        start: Start,
        *,
        around: HostWatch,
        table: Preparing,
        guard: Guard,
        enforcement: Enforcement,
        sensing: SourceSupervisor,
        program: BpfLifecycle,
        messenger: Messenger,
        overview: Status,
        last_good: LastGood,
        enforcing_since: EnforcingSince,
        wall: WallMap,
        now: ClockNs,
    ) -> None:
        self._start = start
        self._around = around
        self._table = table
        self._guard = guard
        self._enforcement = enforcement
        self._sensing = sensing
        self._program = program
        self._messenger = messenger
        self._overview = overview
        self._last_good = last_good
        self._enforcing_since = enforcing_since
        self._wall = wall
        self._now = now
        self._renewal: Renewal | None = None
        self._overruled: list[str] = []

    def read(self) -> Settings:
        """What the file holds now, the accounts by it and the ruleset: in a thread, as all that takes long."""
        written = read_settings_apart(self._start.config_path)
        self._overruled = find_overruled(written, self._start)
        settings = apply_start(written, self._start)
        self._renewal = self._around.accounts.renew(settings)
        with contextlib.suppress(GuardError):  # whoever needs it says what is wrong with it
            self._table.prepare(settings)
        return settings

    def apply(self, read: Settings) -> Reloaded:
        """Put what was read in force.

        Raises:
            ConfigError: A rule counts what can't be counted; nothing has changed then.
        """
        check_rules(read)
        # Credits are off while they begin anew: a verdict that waits in the ring has to be in force before.
        self._sensing.catch_up()
        before = self._guard.settings
        new, changes = keep_until_restart(before, read), find_changes(before, read)
        renewal, self._renewal = self._renewal, None
        self._around.reconfigure(new, renewal)
        self._enforcement.settings = new
        self._guard.reconfigure(new)
        self._sensing.reconfigure(new)
        self._program.reconfigure(new)
        self._messenger.reconfigure(new)
        self._enforcement.refresh("settings")
        self._overview.wrong_file = None
        wall_ns = self._wall.to_wall_ns(self._now())
        self._last_good.keep(read, wall_ns)
        self._enforcing_since.note(wall_ns, dry_run=new.dry_run)
        notes = [*self._overruled, *read.warnings]
        if self._program.trouble:
            notes.append(f"Refused senders are not told why: {self._program.trouble}")
        by_hand = "end `smtpguard run` and start it again"
        restart = RESTART if self._start.manager.path else by_hand
        text = render_changes(changes, notes=notes, restart=restart)
        unmet = tuple(self._enforcement.health.refusal_troubles())
        return Reloaded(text=text, changed=changes.live, waiting=changes.waiting, unmet=unmet)
