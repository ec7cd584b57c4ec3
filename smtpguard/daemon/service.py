"""`smtpguard run`, from its first part to its last: `Service` makes them in the order in which the guard comes to be.

Whatever fails before the loop leaves nothing behind: what has to be undone is on a stack.
"""

import contextlib
import ctypes
import gc
import logging
import os
import signal
import sys
import threading

from smtpguard import __version__
from smtpguard.actions.eventlog import EventLog
from smtpguard.actions.journal_log import JournalLog
from smtpguard.clock import SystemClock, WallMap
from smtpguard.daemon.core import Core
from smtpguard.daemon.enforce.bulk import without_collections
from smtpguard.daemon.host_watch import HostWatch
from smtpguard.daemon.inlet import Inlet
from smtpguard.daemon.loop import Loop, Part
from smtpguard.daemon.outlet.messenger import Messenger
from smtpguard.daemon.outlet.occasions import Occasions
from smtpguard.daemon.reception import Reception
from smtpguard.daemon.reconfiguration import apply_start
from smtpguard.daemon.startup.enrichers import Enrichers
from smtpguard.daemon.startup.handoff import Start
from smtpguard.daemon.startup.instance_lock import InstanceLock
from smtpguard.daemon.startup.privileges import apply_limits, apply_priority, apply_privileges
from smtpguard.daemon.ticker import Ticker
from smtpguard.errors import LogError
from smtpguard.kernel.nft.access import open_nft
from smtpguard.model import NS
from smtpguard.settings import Settings

log = logging.getLogger(__name__)

METRICS_NS = 15 * NS
"""How often the file of metrics is renewed: as often as Prometheus asks in most places."""
_CHORE_NS = NS
_M_ARENA_MAX = -8  # mallopt(3)
_SWITCH_S = 0.0002


def serve(settings: Settings, start: Start) -> None:
    """Run the guard until a signal ends it.

    Args:
        settings: The configuration, checked.
        start: What the command line said.

    Raises:
        GuardError: It can't start; nothing is left behind.
    """
    # One heap for all threads: theirs would cost some 200 kB each, and none of them is busy.
    ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)
    # After each system call the loop waits so long for a thread that computes (20,000 accounts: half a second).
    sys.setswitchinterval(_SWITCH_S)
    with contextlib.ExitStack() as stack:
        Service(apply_start(settings, start), start, stack).run()


class Service:
    """A running guard, from its first part to its last.

    Args:
        settings: The configuration, with what the command line says on top of it.
        start: What the command line said.
        stack: What has to be undone at the end, in reverse order.
    """

    def __init__(self, settings: Settings, start: Start, stack: contextlib.ExitStack) -> None:
        self._start = start
        clock = SystemClock()
        self.now, self.wall = clock.boot_ns, WallMap(clock)
        started_ns = self.now()
        had_terminal = sys.stdin is not None and sys.stdin.isatty()
        stack.enter_context(InstanceLock(settings))
        self.loop = Loop(self.now)
        stack.callback(self.loop.close)
        threading.excepthook = self._thread_died
        # Helpers are forked before there are threads, while the process is small and has its privileges.
        self.enrichers = Enrichers(stack)
        self.enrichers.fork(settings)
        way = open_nft()
        way.start()
        stack.callback(way.close)
        apply_limits()
        apply_priority()
        apply_privileges(settings)
        self.enrichers.start(settings)
        self.events = self._open_event_log(settings, stack)
        with without_collections():
            self.around = HostWatch(settings, self.now)
            stack.callback(self.around.close)
            self.around.open()
            self.core = Core(
                settings,
                around=self.around,
                events=self.events,
                enrichers=self.enrichers,
                way=way,
                supervision=self.loop.supervision,
                wall=self.wall,
                now=self.now,
                is_seeing=self._is_seeing,
                stack=stack,
            )
            gc.freeze()  # of 10,000 blocks nothing is garbage: each search through all that would take 50 ms
        self.inlet = Inlet(settings, self.core, self.loop, stack)
        self.messenger = Messenger(settings, self.now)
        stack.callback(self.messenger.close)
        engine = self.core.engine
        self.occasions = Occasions(self.messenger, self.wall, self.now, is_off=lambda: engine.is_off)
        self.core.journal.herald = self.core.execution.herald = self.occasions
        self.reception = Reception(
            settings,
            start,
            core=self.core,
            inlet=self.inlet,
            messenger=self.messenger,
            loop=self.loop,
            since_ns=started_ns,
            had_terminal=had_terminal,
            stack=stack,
        )
        self.reception.history.herald = self.occasions

    def run(self) -> None:
        """Join the parts to the loop, then serve until a signal."""
        self.loop.on_signal(signal.SIGINT, self.loop.stop)
        self.loop.on_signal(signal.SIGTERM, self.loop.stop)
        self.loop.on_signal(signal.SIGHUP, self.reception.hang_up.take)
        self.reception.control.server.open()
        self.messenger.open()
        self.occasions.state_lost(self.core.lost)
        self.occasions.condition = self.reception.overview
        for name, part, vital in self._list_parts():
            self.loop.add(part, name, vital=vital)
        settings = self.core.guard.settings
        self.core.enforcing_since.note(self.wall.to_wall_ns(self.now()), dry_run=settings.dry_run)
        mode = "dry run: nobody is refused" if settings.dry_run else "enforcing"
        log.info("smtpguard %s, %s, pid %d", __version__, mode, os.getpid())
        if self._start.wrong_file is not None:
            log.error("%s", self._start.wrong_file)
        else:
            self.core.last_good.keep(settings, self.wall.to_wall_ns(self.now()))
        for text in settings.warnings:
            log.warning("%s", text)
        self.core.journal.recorder.change("start", by="guard", reason=f"smtpguard {__version__}, {mode}")
        try:
            self.loop.run()
        finally:
            self.reception.manager.stopping()
            self.core.learning_period.write()
            self.inlet.sensing.catch_up()
            self.core.chores.stop()
        log.info("stopped")

    def _list_parts(self) -> list[tuple[str, Part, bool]]:
        """Name, part, whether it is on the way of a verdict; in the order in which they have their turns."""
        core, inlet, reception = self.core, self.inlet, self.reception
        pairing = [] if inlet.pairing is None else [("pairing", inlet.pairing, True)]
        ticker = Ticker(METRICS_NS, reception.send_metrics, self.now(), at_once=True)
        metrics = [] if core.totals is None else [("metrics", ticker, False)]
        chores = (
            ("switch", core.switch.on_time),
            ("answers", inlet.program.on_time),
            ("clock", core.chores.follow_clock),
            ("learning", core.learning_period.on_time),
            ("state", core.chores.keep_state),
            ("occasions", self.occasions.on_time),
            ("listed", reception.listings.on_time),
        )
        return [
            ("sources", inlet.sensing, True),
            ("engine", core.guard, True),
            ("enforcement", core.enforcement, True),
            *pairing,
            ("journal", core.journal, False),
            ("surroundings", self.around, False),
            ("table_watch", core.table_watch, False),
            ("enrichment", core.journal.waiting, False),
            ("fail2ban", core.unbanner, False),
            ("notification", self.messenger, False),
            ("reload", reception.reload, False),
            ("lookups", reception.lookups, False),
            ("commits", reception.commits, False),
            ("control", reception.control, False),
            *((name, Ticker(_CHORE_NS, chore, self.now()), False) for name, chore in chores),
            *metrics,
            ("service_manager", reception.manager, False),
        ]

    def _open_event_log(self, settings: Settings, stack: contextlib.ExitStack) -> EventLog:
        journal = None if settings.log_journal is None else JournalLog(settings.log_journal)
        events = EventLog(settings.log_path, connects=settings.log_connects, journal=journal)
        stack.callback(lambda: events.close(wall_ns=self.wall.to_wall_ns(self.now())))
        try:
            events.open()
        except LogError as error:
            log.error("events are not logged, the guard goes on: %s", error)  # noqa: TRY400 - one line for people
        return events

    def _thread_died(self, args: threading.ExceptHookArgs) -> None:
        """A thread has made a mistake."""
        if isinstance(args.exc_value, Exception):
            name = args.thread.name if args.thread is not None else "unknown"
            self.loop.supervision.note_thread(name, args.exc_value)

    def _is_seeing(self) -> bool:
        return self.inlet.is_seeing()
