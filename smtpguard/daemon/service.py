"""`smtpguard run`: puts the parts together, in an order in which nothing is half there, and takes them apart again.

Order at the start: configuration, privileges, lock, helpers (forked before there are threads), state, engine, table,
sources, control socket. Whatever fails before the loop leaves nothing behind.
"""

import contextlib
import ctypes
import gc
import logging
import os
import signal
import sys
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

from smtpguard import __version__
from smtpguard.actions.eventlog import EventLog
from smtpguard.actions.fail2ban import Unbanner
from smtpguard.actions.nft.enforcer import NftEnforcer
from smtpguard.actions.nft.render import build_spec
from smtpguard.actions.sessions import SessionEnder
from smtpguard.clock import SystemClock, WallMap
from smtpguard.control.connection import Peer
from smtpguard.control.listener import read_gid
from smtpguard.control.server import Answer, ControlServer
from smtpguard.daemon.adoption import Adoption
from smtpguard.daemon.bpf_lifecycle import BpfLifecycle
from smtpguard.daemon.enforce.bulk import without_collections
from smtpguard.daemon.enforce.enforcement import Enforcement
from smtpguard.daemon.enforce.identity import Identity
from smtpguard.daemon.enforce.off_switch import OffSwitch
from smtpguard.daemon.enforce.set_comparison import SetComparison
from smtpguard.daemon.enforce.table_watch import TableWatch
from smtpguard.daemon.forgiveness import Forgiveness
from smtpguard.daemon.guard import Guard
from smtpguard.daemon.host_watch import HostWatch
from smtpguard.daemon.intake.sensor_pairing import SensorPairing
from smtpguard.daemon.intake.source_supervisor import SourceSupervisor
from smtpguard.daemon.loop import Loop
from smtpguard.daemon.record.journal import Journal
from smtpguard.daemon.record.learning import Learning
from smtpguard.daemon.record.window_saver import Keeping
from smtpguard.daemon.serve.commits import Commits
from smtpguard.daemon.serve.control_part import ControlPart
from smtpguard.daemon.serve.handlers import Handlers
from smtpguard.daemon.serve.lookups import Lookups
from smtpguard.daemon.serve.orders import Orders
from smtpguard.daemon.serve.reload import Reload, Reloaded
from smtpguard.daemon.serve.requests import Args
from smtpguard.daemon.serve.status import Status
from smtpguard.daemon.startup.handoff import Start
from smtpguard.daemon.startup.instance_lock import InstanceLock
from smtpguard.daemon.startup.privileges import apply_limits, apply_priority, apply_privileges
from smtpguard.daemon.startup.restore import restore, restore_late
from smtpguard.daemon.startup.service_manager import ServiceManager
from smtpguard.daemon.ticker import Ticker
from smtpguard.enrich.looker import Looker
from smtpguard.enrich.reverse_dns import ReverseDns
from smtpguard.errors import ConfigError, GuardError, LogError, SourceError
from smtpguard.kernel.nft.access import open_nft
from smtpguard.kernel.nft.notifications import NftNotifications
from smtpguard.model import NS
from smtpguard.policy.engine import Engine
from smtpguard.policy.rules import check_rules
from smtpguard.settings import Settings
from smtpguard.settings.load_in_child import read_settings_apart
from smtpguard.settings.on_reload import find_changes, keep_until_restart, render_changes
from smtpguard.state.last_good import LastGood
from smtpguard.state.paths import state_paths
from smtpguard.state.writer import StateWriter

if TYPE_CHECKING:
    from smtpguard.enrich.accounts.directory import Renewal

log = logging.getLogger(__name__)

_CHORE_NS = NS
_M_ARENA_MAX = -8  # mallopt(3)
_SWITCH_S = 0.0002


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
    """The parts of a running guard.

    Args:
        settings: The configuration.
        start: What the command line said.
        stack: What has to be undone at the end, in reverse order.
    """

    def __init__(self, settings: Settings, start: Start, stack: contextlib.ExitStack) -> None:
        self.settings = settings
        self._start = start
        self._stack = stack
        clock = SystemClock()
        self.now = clock.boot_ns
        self.wall = WallMap(clock)
        self._started_ns = self.now()
        self._renewal: Renewal | None = None
        self._overruled: list[str] = []
        self._had_terminal = sys.stdin is not None and sys.stdin.isatty()
        stack.enter_context(InstanceLock(settings))
        self.loop = Loop(self.now)
        threading.excepthook = self._thread_died
        stack.callback(self.loop.close)
        self._make_enrichers()
        with without_collections():
            self._make_core()
            gc.freeze()  # of 10,000 blocks nothing is garbage: each search through all that would take 50 ms
        self._make_doors()

    # -- parts -------------------------------------------------------------------------------------------------------

    def _make_enrichers(self) -> None:
        """Helpers are forked first: before any thread, before privileges are given up, while the process is small."""
        settings = self.settings
        self.looker: Looker | None = None
        self._looker_trouble: str | None = None
        if settings.attribution_process:
            looker = Looker(php=settings.attribution_php)
            try:
                looker.start()
                self.looker = looker
                self._stack.callback(looker.close)
            except SourceError as error:
                log.warning("processes are not looked at: %s", error)
                self._looker_trouble = str(error)
        way = open_nft()
        way.start()
        self._stack.callback(way.close)
        apply_limits()
        apply_priority()
        apply_privileges(settings)
        self.rdns: ReverseDns | None = None
        if settings.attribution_rdns:
            self.rdns = ReverseDns()
            self.rdns.start()
            self._stack.callback(self.rdns.close)
        self.events = EventLog(settings.log_path, connects=settings.log_connects)
        self._stack.callback(lambda: self.events.close(wall_ns=self.wall.to_wall_ns(self.now())))
        try:
            self.events.open()
        except LogError as error:
            log.error("events are not logged, the guard goes on: %s", error)  # noqa: TRY400 - one line for people

    def _make_core(self) -> None:
        settings = self.settings
        self.around = HostWatch(settings, self.now)
        self._stack.callback(self.around.close)
        self.around.open()
        accounts, destinations = self.around.accounts, self.around.destinations
        state = StateWriter(state_paths(settings))
        loaded = state.start()
        self._stack.callback(state.close)
        for note in loaded.notes:
            log.warning("state: %s", note)
        self.engine = Engine(settings=settings, directory=accounts, why_exempt=destinations.why_exempt)
        way = open_nft()
        self.nft = NftEnforcer(build_spec(settings), nft=way, exemptions=self.around.exemptions(), now_ns=self.now)
        sessions = SessionEnder(settings.ports)
        self._stack.callback(sessions.close)
        self.sessions = sessions
        self.enforcement = Enforcement(
            settings,
            engine=self.engine,
            around=self.around,
            nft=self.nft,
            sessions=sessions,
            judging=self.loop.supervision,
            now=self.now,
        )
        self.journal = Journal(self.events, state, self.wall, self.now, looker=self.looker, rdns=self.rdns)
        self._stack.callback(self.journal.waiting.close)
        self.guard = Guard(
            settings,
            engine=self.engine,
            enforcement=self.enforcement,
            journal=self.journal,
            state=state,
            accounts=accounts,
            destinations=destinations,
            wall=self.wall,
            now=self.now,
        )
        self.around.on_change = self._surroundings_changed
        self.engine.tick(self.now())
        self.orders = Orders(self.guard)
        self.keeping = Keeping(self.engine, state, self.wall, self.now)
        self.switch = OffSwitch(self.engine, self.enforcement, state, self.wall, self.now)
        self.last_good = LastGood(loaded.facts, state)
        self.learning = Learning(self.engine, state, self.wall, self._is_seeing)
        self.learning.restore(loaded.facts, loaded.seen, self.now())
        for row in loaded.switches:
            self.switch.restore(row)
        identity, adoption = Identity(loaded.facts, state), Adoption(self.orders, self.nft)
        self.comparison = SetComparison(
            self.nft, adopt=adoption, identity=identity, now=self.now, show=self.guard.show_user
        )
        self.enforcement.comparison = self.comparison
        with self.enforcement.together():
            restore(self.orders, self.keeping, loaded, nft=self.nft, adoption=adoption, identity=identity)
        self.enforcement.refresh("start")
        self.healing = TableWatch(
            NftNotifications(settings.nft_table, way),
            nft=self.nft,
            enforcement=self.enforcement,
            freed=self.orders.freed_by_hand,
            now=self.now,
        )
        self._stack.callback(self.healing.close)
        self.healing.open()

    def _make_doors(self) -> None:
        settings = self.settings
        names = settings.sources if isinstance(settings.sources, tuple) else ()
        self.counting = SensorPairing(names, self.guard.take, self.guard.hear) if len(names) > 1 else None
        self.program = BpfLifecycle(self.guard, self.loop, self._stack)
        self.sensing = SourceSupervisor(
            settings,
            self.counting.lead if self.counting else self.guard.take,
            self.program.source_opened,
            self.program.source_closed,
            self.now,
            reports=self.guard.take_reports,
            beside=self.counting.beside if self.counting else None,
            supervision=self.loop.supervision,
        )
        self._stack.callback(self.sensing.close)
        self.unbanner = Unbanner(self.now)
        clearing = Forgiveness(self.guard, self.around.doubt, self.unbanner.tell)
        self.guard.doubts = clearing
        self.around.on_cleared = clearing.take
        overview = Status(
            self.guard,
            self.sensing,
            self.events,
            switch=self.switch,
            looker=self.looker,
            rdns=self.rdns,
            counting=self.counting,
            stalls=self.loop.stalls,
            supervision=self.loop.supervision,
            troubles=self._troubles,
            parts=self._list_parts,
            since_ns=self._started_ns,
        )
        overview.wrong_file = self._start.wrong_file
        self.overview = overview
        self.manager = ServiceManager(self._start.manager, overview.headline, self.now())
        self._stack.callback(self.manager.close)
        self.reloading = Reload(self._read_settings, self._apply_settings, self.manager)
        self._stack.callback(self.reloading.close)
        self.lookups = Lookups(self.around.accounts.names, self.now)
        self.commits = Commits(self.guard.state, self.now)
        self.verbs = Handlers(
            self.orders,
            overview,
            switch=self.switch,
            tell_fail2ban=self.unbanner.tell,
            reload=self.reloading.request,
            lookups=self.lookups,
            commits=self.commits,
            learning=self.learning,
        )
        group = settings.control_group
        self._group_trouble: str | None = None
        try:
            if group is not None:
                read_gid(group)
        except ConfigError as error:  # an LDAP group may come late: a guard that only root can ask is better than none
            log.error("only root may use the control socket: %s", error)  # noqa: TRY400 - one line for people
            group, self._group_trouble = None, f"{error.what}; restart the guard when it is there"
        server = ControlServer(
            settings.control_socket,
            group=group,
            verbs=settings.control_verbs,
            handler=self._handle,
            names=lambda uid: self.around.accounts.account(uid).name,
        )
        self.control = ControlPart(server)
        self.journal.publish = self.control.publish
        self._stack.callback(server.close)

    # -- running -----------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Open the doors, then serve until a signal."""
        self.loop.on_signal(signal.SIGINT, self.loop.stop)
        self.loop.on_signal(signal.SIGTERM, self.loop.stop)
        self.loop.on_signal(signal.SIGHUP, self._hang_up)
        self.control.server.open()
        for name, part in (("sources", self.sensing), ("engine", self.guard), ("enforcement", self.enforcement)):
            self.loop.add(part, name, vital=True)
        if self.counting is not None:
            self.loop.add(self.counting, "pairing", vital=True)
        for name, other in (
            ("journal", self.journal),
            ("surroundings", self.around),
            ("table_watch", self.healing),
            ("enrichment", self.journal.waiting),
            ("fail2ban", self.unbanner),
            ("reload", self.reloading),
            ("lookups", self.lookups),
            ("commits", self.commits),
            ("control", self.control),
            ("switch", Ticker(_CHORE_NS, self.switch.on_time, self.now())),
            ("answers", Ticker(_CHORE_NS, self.program.on_time, self.now())),
            ("clock", Ticker(_CHORE_NS, self._follow_clock, self.now())),
            ("learning", Ticker(_CHORE_NS, self.learning.on_time, self.now())),
            ("state", Ticker(_CHORE_NS, self._keep_state, self.now())),
            ("service_manager", self.manager),
        ):
            self.loop.add(other, name)
        mode = "dry run: nobody is refused" if self.settings.dry_run else "enforcing"
        log.info("smtpguard %s, %s, pid %d", __version__, mode, os.getpid())
        if self._start.wrong_file is not None:
            log.error("%s", self._start.wrong_file)
        else:
            self.last_good.keep(self.settings, self.wall.to_wall_ns(self.now()))
        for text in self.settings.warnings:
            log.warning("%s", text)
        try:
            self.loop.run()
        finally:
            self.manager.stopping()
            self.learning.write()
        log.info("stopped")

    def _read_settings(self) -> Settings:
        """What the file holds now, and the accounts by it: in a thread, as both take long."""
        written = read_settings_apart(self._start.config_path)
        self._overruled = find_overruled(written, self._start)
        settings = apply_start(written, self._start)
        self._renewal = self.around.accounts.renew(settings)
        return settings

    def _apply_settings(self, read: Settings) -> Reloaded:
        """Put a configuration that was read again in force, as far as a running guard can.

        Raises:
            ConfigError: A rule counts what can't be counted; nothing has changed then.
        """
        check_rules(read)
        # Credits are off while they begin anew: a verdict that waits in the ring has to be in force before.
        self.sensing.catch_up()
        new, changes = keep_until_restart(self.settings, read), find_changes(self.settings, read)
        self.settings = new
        renewal, self._renewal = self._renewal, None
        self.around.reconfigure(new, renewal)
        self.enforcement.settings = new
        self.guard.reconfigure(new)
        self.sensing.reconfigure(new)
        self.program.refresh()
        self.enforcement.refresh("settings")
        self.overview.wrong_file = None
        self.last_good.keep(read, self.wall.to_wall_ns(self.now()))
        notes = [*self._overruled, *read.warnings]
        if self.program.trouble:
            notes.append(f"Refused senders are not told why: {self.program.trouble}")
        text = render_changes(changes, notes=notes)
        unmet = tuple(self.enforcement.refusal_troubles())
        return Reloaded(text=text, changed=changes.live, waiting=changes.waiting, unmet=unmet)

    def _surroundings_changed(self, *, accounts: bool) -> None:
        """Accounts, own addresses or exempt destinations are others: kernel and engine learn it at once."""
        if accounts:
            self.guard.reconfigure(self.settings)
        else:
            self.engine.forget_destinations()
        self.enforcement.refresh("accounts" if accounts else "destinations")

    def _hang_up(self) -> None:
        """SIGHUP: the terminal we were started from is gone, or an administrator wants a reload."""
        if self._had_terminal and not _is_terminal(0):
            self.loop.stop()
            return
        self.events.reopen()
        self.reloading.request(_tell_reload)

    def _follow_clock(self, now_ns: int) -> None:
        """Once a second: what is stored as wall time is stored again when somebody has set the clock."""
        del now_ns
        step_ns = self.wall.refresh()
        if step_ns:
            log.warning("the clock was set by %+.1f s; blocks keep their length", step_ns / NS)
            self.keeping.clock_was_set()
            self.switch.clock_was_set()
            self.learning.clock_was_set(step_ns)

    def _keep_state(self, now_ns: int) -> None:
        """Once a second: take what could not be read at the start, and save the windows."""
        del now_ns
        late = self.guard.state.take_late()
        if late is not None:
            restore_late(self.orders, self.switch, late)
            self.learning.restore(late.facts, late.seen, self.now())
        self.keeping.save_windows()

    def _handle(self, peer: Peer, verb: str, args: Args) -> Answer:
        """Answer a request; one that finds a mistake of ours is answered too, and ends nothing."""
        try:
            return self.verbs.handle(peer, verb, args)
        except GuardError:
            raise
        except Exception as error:
            self.loop.supervision.record("control", error)
            what = f"{verb} failed by a mistake of smtpguard's own: {type(error).__name__}: {error}"
            raise GuardError(what, fix="the guard goes on; please report what its log says") from error

    def _thread_died(self, args: threading.ExceptHookArgs) -> None:
        """A thread has made a mistake."""
        if isinstance(args.exc_value, Exception):
            name = args.thread.name if args.thread is not None else "unknown"
            self.loop.supervision.note_thread(name, args.exc_value)

    def _is_seeing(self) -> bool:
        return self.sensing.leader() is not None

    def _list_parts(self) -> dict[str, str]:
        """Lines of parts for `status`."""
        told = self.learning.render(self.settings, self.now())
        return self.around.parts() | ({} if told is None else {"newcomers": told})

    def _troubles(self) -> list[str]:
        """What is wrong with parts that have no line of their own in `status`."""
        found = {
            "processes are not looked at": self._looker_trouble or (self.looker and self.looker.trouble()),
            "limits are not exact": self.enforcement.credits.trouble,
            "a lost table is noticed late": self.healing.trouble,
            "open sessions live on": self.sessions.trouble,
            "refused senders are not told why": self.program.trouble,
            "only root may use the control socket": self._group_trouble,
            "not reloaded": self.reloading.trouble,
            "who was freed is banned still": self.unbanner.trouble(),
        }
        return [*(f"{what}: {why}" for what, why in found.items() if why), *self.around.troubles()]


def _tell_reload(answer: Reloaded | GuardError) -> None:
    if isinstance(answer, Reloaded):
        if (unmet := answer.as_error()) is not None:
            log.error("%s", unmet)
        else:
            log.info("%s", answer.text)
    else:
        log.error("not reloaded, the old configuration goes on: %s", answer)


def _is_terminal(descriptor: int) -> bool:
    """Whether a descriptor is a terminal that is still there."""
    try:
        return os.isatty(descriptor) and bool(os.ttyname(descriptor))
    except OSError:
        return False
