"""The parts that decide, act and write, each made once, in the order in which none needs one that is not there yet.

They are joined here and nowhere else; what opens sources and what answers people is made of them.
"""

import contextlib
import logging

from smtpguard.actions.eventlog import EventLog
from smtpguard.actions.fail2ban import Unbanner
from smtpguard.actions.nft.enforcer import NftEnforcer
from smtpguard.actions.nft.render import build_spec
from smtpguard.actions.sessions import SessionEnder
from smtpguard.clock import WallMap
from smtpguard.daemon.adoption import Adoption
from smtpguard.daemon.chores import Chores
from smtpguard.daemon.enforce.enforcement import Enforcement
from smtpguard.daemon.enforce.identity import Identity
from smtpguard.daemon.enforce.off_switch import OffSwitch
from smtpguard.daemon.enforce.set_comparison import SetComparison
from smtpguard.daemon.enforce.table_watch import TableWatch
from smtpguard.daemon.execution import Execution
from smtpguard.daemon.forgiveness import Forgiveness
from smtpguard.daemon.guard import Guard
from smtpguard.daemon.host_watch import HostWatch
from smtpguard.daemon.record.journal import Journal
from smtpguard.daemon.record.learning_period import IsSeeing, LearningPeriod
from smtpguard.daemon.record.metric_totals import MetricTotals
from smtpguard.daemon.record.window_saver import Keeping
from smtpguard.daemon.serve.jail_bans import JailBans
from smtpguard.daemon.serve.orders import Orders
from smtpguard.daemon.startup.enrichers import Enrichers
from smtpguard.daemon.startup.restore import Restore
from smtpguard.daemon.supervision import Supervision
from smtpguard.daemon.watches import Watches
from smtpguard.hooks import ClockNs
from smtpguard.kernel.nft.access import NetlinkNft
from smtpguard.kernel.nft.notifications import NftNotifications
from smtpguard.policy.engine import Engine
from smtpguard.settings import Settings
from smtpguard.state.enforcing_since import EnforcingSince
from smtpguard.state.last_good import LastGood
from smtpguard.state.paths import state_paths
from smtpguard.state.writer import StateWriter

log = logging.getLogger(__name__)


class Core:
    """Engine, enforcement, journal, guard, orders, and what an earlier run has left.

    Args:
        settings: The configuration.
        around: Accounts and destinations.
        events: The event log.
        enrichers: What finds out more about attempts.
        way: The way to nftables.
        supervision: Whether attempts are judged.
        wall: Event time to wall time.
        now: CLOCK_BOOTTIME in nanoseconds.
        is_seeing: Whether connections are seen.
        stack: What has to be undone at the end, in reverse order.

    Attributes:
        lost: What of an earlier run's state could not be had, a sentence each.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        around: HostWatch,
        events: EventLog,
        enrichers: Enrichers,
        way: NetlinkNft,
        supervision: Supervision,
        wall: WallMap,
        now: ClockNs,
        is_seeing: IsSeeing,
        stack: contextlib.ExitStack,
    ) -> None:
        self.around, self.events, self.enrichers = around, events, enrichers
        self.wall, self.now = wall, now
        self._way = way
        self._supervision = supervision
        self._is_seeing = is_seeing
        self._stack = stack
        self._load_state(settings)
        self._make_engine(settings)
        self._make_enforcement(settings)
        self._make_guard(settings)
        self._make_orders()
        self._take_what_was_before(settings)
        self._watch_table(settings)
        around.on_change = self._surroundings_changed

    def _load_state(self, settings: Settings) -> None:
        self.state = StateWriter(state_paths(settings))
        self._loaded = self.state.start()
        self._stack.callback(self.state.close)
        self.lost = self._loaded.notes
        for note in self.lost:
            log.warning("state: %s", note)
        self.last_good = LastGood(self._loaded.facts, self.state)
        self.enforcing_since = EnforcingSince(self._loaded.facts, self.state)

    def _make_engine(self, settings: Settings) -> None:
        around = self.around
        self.engine = Engine(settings=settings, directory=around.accounts, why_exempt=around.destinations.why_exempt)
        self.learning_period = LearningPeriod(self.engine, self.state, self.wall, self._is_seeing)
        self.keeping = Keeping(self.engine, self.state, self.wall, self.now)

    def _make_enforcement(self, settings: Settings) -> None:
        self.nft = NftEnforcer(
            build_spec(settings), nft=self._way, exemptions=self.around.exemptions(), now_ns=self.now
        )
        self.sessions = SessionEnder(settings.ports)
        self._stack.callback(self.sessions.close)
        self.enforcement = Enforcement(
            settings,
            engine=self.engine,
            around=self.around,
            nft=self.nft,
            sessions=self.sessions,
            judging=self._supervision,
            now=self.now,
        )
        self.switch = OffSwitch(self.engine, self.enforcement, self.state, self.wall, self.now)

    def _make_guard(self, settings: Settings) -> None:
        enrichers, accounts = self.enrichers, self.around.accounts
        self.journal = Journal(
            self.events, self.state, self.wall, self.now, looker=enrichers.looker, rdns=enrichers.rdns
        )
        self.journal.recorder.is_seeing = self._is_seeing
        self._stack.callback(self.journal.waiting.close)
        self.execution = Execution(
            settings,
            enforcement=self.enforcement,
            journal=self.journal,
            state=self.state,
            accounts=accounts,
            wall=self.wall,
            now=self.now,
        )
        self.guard = Guard(
            settings,
            engine=self.engine,
            execution=self.execution,
            enforcement=self.enforcement,
            journal=self.journal,
            accounts=accounts,
            destinations=self.around.destinations,
            now=self.now,
        )
        self.totals = None if settings.metrics_textfile is None else MetricTotals(users=settings.metrics_users)
        self.journal.totals = self.execution.totals = self.totals
        self.engine.tick(self.now())

    def _make_orders(self) -> None:
        self.orders = Orders(
            engine=self.engine,
            execution=self.execution,
            enforcement=self.enforcement,
            journal=self.journal,
            state=self.state,
            accounts=self.around.accounts,
            wall=self.wall,
            now=self.now,
        )
        self.jail = self.execution.jail = JailBans(self.orders)
        self.watches = self.execution.watches = self.journal.watches = Watches(
            self.engine,
            self.enforcement,
            self.journal.recorder,
            self.state,
            directory=self.around.accounts,
            wall=self.wall,
            now=self.now,
        )
        self.unbanner = Unbanner(self.now)
        self.forgiveness = self.execution.doubts = Forgiveness(
            self.engine,
            self.execution,
            self.enforcement,
            self.now,
            doubt=self.around.doubt,
            tell_fail2ban=self.unbanner.tell,
        )
        self.around.on_cleared = self.forgiveness.take

    def _take_what_was_before(self, settings: Settings) -> None:
        loaded = self._loaded
        self.learning_period.restore(loaded.facts, loaded.seen, self.now())
        for row in loaded.switches:
            self.switch.restore(row)
        identity = Identity(loaded.facts, self.state)
        self.nft.on_made = identity.note
        adoption = Adoption(self.orders, self.enforcement, self.nft, self.around.accounts, self.now)
        self.enforcement.comparison = SetComparison(
            self.nft, adopt=adoption, now=self.now, show=self.execution.show_user
        )
        restore = Restore(
            self.orders,
            engine=self.engine,
            enforcement=self.enforcement,
            journal=self.journal,
            keeping=self.keeping,
            state=self.state,
            wall=self.wall,
            now=self.now,
        )
        with self.enforcement.together():  # its end makes the table: what was in it is read before
            self.watches.restore(loaded.facts)
            restore.take(loaded, dry_run=settings.dry_run, nft=self.nft, adoption=adoption, identity=identity)
        self.enforcement.refresh("start")
        self.chores = Chores(
            self.guard,
            self.state,
            restore,
            self.keeping,
            switch=self.switch,
            learning_period=self.learning_period,
            journal=self.journal,
            watches=self.watches,
            enforcing_since=self.enforcing_since,
            wall=self.wall,
            now=self.now,
        )

    def _watch_table(self, settings: Settings) -> None:
        self.table_watch = TableWatch(
            NftNotifications(settings.nft_table, self._way),
            nft=self.nft,
            enforcement=self.enforcement,
            freed=self.orders.freed_by_hand,
            now=self.now,
        )
        self._stack.callback(self.table_watch.close)
        self.table_watch.changes = self.journal.recorder
        self.table_watch.open()

    def _surroundings_changed(self, *, accounts: bool) -> None:
        """Accounts, own addresses or exempt destinations have changed: kernel and engine learn it at once."""
        if accounts:
            self.guard.reconfigure(self.guard.settings)
        else:
            self.engine.forget_destinations()
        self.enforcement.refresh("accounts" if accounts else "destinations")
