"""What people ask the guard: its status, the reload, the control socket, made of the parts that do what is asked."""

import contextlib

from smtpguard.control.server import ControlServer
from smtpguard.daemon.core import Core
from smtpguard.daemon.hang_up import HangUp
from smtpguard.daemon.inlet import Inlet
from smtpguard.daemon.loop import Loop
from smtpguard.daemon.outlet.messenger import Messenger
from smtpguard.daemon.reconfiguration import Reconfiguration
from smtpguard.daemon.serve.allow_command import AllowCommand
from smtpguard.daemon.serve.block_command import BlockCommand
from smtpguard.daemon.serve.block_list import BlockList
from smtpguard.daemon.serve.commits import Commits
from smtpguard.daemon.serve.control_part import ControlPart, find_group
from smtpguard.daemon.serve.enforcement_status import EnforcementStatus
from smtpguard.daemon.serve.halve_command import HalveCommand
from smtpguard.daemon.serve.handlers import Handlers
from smtpguard.daemon.serve.history_command import HistoryCommand
from smtpguard.daemon.serve.listings import Listings
from smtpguard.daemon.serve.lookups import Lookups
from smtpguard.daemon.serve.metrics_snapshot import MetricsSnapshot
from smtpguard.daemon.serve.reload import Reload
from smtpguard.daemon.serve.report_command import ReportCommand
from smtpguard.daemon.serve.source_status import SourceStatus
from smtpguard.daemon.serve.status import Status
from smtpguard.daemon.serve.why_command import WhyCommand
from smtpguard.daemon.startup.handoff import Start
from smtpguard.daemon.startup.service_manager import ServiceManager
from smtpguard.settings import Settings
from smtpguard.state.desk import HistoryDesk


class Reception:
    """All that answers.

    Args:
        settings: The configuration.
        start: What the command line said.
        core: The parts that decide, act and write.
        inlet: The parts that see.
        messenger: What has others told.
        loop: What they live in.
        since_ns: When the guard started (CLOCK_BOOTTIME).
        had_terminal: Whether it was started from a terminal.
        stack: What has to be undone at the end, in reverse order.
    """

    def __init__(
        self,
        settings: Settings,
        start: Start,
        *,
        core: Core,
        inlet: Inlet,
        messenger: Messenger,
        loop: Loop,
        since_ns: int,
        had_terminal: bool,
        stack: contextlib.ExitStack,
    ) -> None:
        self._start = start
        self._core = core
        self._inlet = inlet
        self._messenger = messenger
        self._loop = loop
        self._since_ns = since_ns
        self._had_terminal = had_terminal
        self._stack = stack
        self._make_history(settings)
        self._make_status()
        self._make_metrics()
        self._make_reload()
        self._open_control(settings)

    def _make_history(self, settings: Settings) -> None:
        core = self._core
        desk = HistoryDesk(settings.state_path)
        self._stack.callback(desk.close)
        self.history = HistoryCommand(desk, core.state, core.around.accounts, core.journal.recorder)
        self.listings = Listings(self._messenger, self.history.ask, core.execution.account_of, core.wall, core.now)

    def _make_status(self) -> None:
        core = self._core
        guard, account_of = core.guard, core.execution.account_of
        self.overview = Status(
            guard,
            SourceStatus(guard, self._inlet.sensing.sensors, account_of, core.wall, core.now),
            EnforcementStatus(guard, core.enforcement, core.engine, account_of, core.wall),
            engine=core.engine,
            execution=core.execution,
            journal=core.journal,
            state=core.state,
            events=core.events,
            switch=core.switch,
            enforcing_since=core.enforcing_since,
            watches=core.watches,
            listings=self.listings,
            looker=core.enrichers.looker,
            rdns=core.enrichers.rdns,
            pairing=self._inlet.pairing,
            now=core.now,
            stalls=self._loop.stalls,
            supervision=self._loop.supervision,
            troubles=self._troubles,
            parts=self._render_parts,
            since_ns=self._since_ns,
        )
        self.overview.wrong_file = self._start.wrong_file
        self.manager = ServiceManager(self._start.manager, self.overview.headline, core.now())
        self._stack.callback(self.manager.close)

    def _make_metrics(self) -> None:
        core = self._core
        self.snapshot = (
            None
            if core.totals is None
            else MetricsSnapshot(
                core.totals,
                core.guard,
                self.overview,
                engine=core.engine,
                enforcement=core.enforcement,
                journal=core.journal,
                state=core.state,
                events=core.events,
                loop=self._loop,
                sensors=self._inlet.sensing.sensors,
                account_of=core.execution.account_of,
                wall=core.wall,
                now=core.now,
                since_ns=self._since_ns,
            )
        )

    def send_metrics(self, now_ns: int) -> None:
        """Have the file of metrics renewed."""
        del now_ns
        if self.snapshot is not None:
            self._messenger.send_snapshot(self.snapshot.collect())

    def _make_reload(self) -> None:
        core = self._core
        self.reconfiguration = Reconfiguration(
            self._start,
            around=core.around,
            table=core.nft,
            guard=core.guard,
            enforcement=core.enforcement,
            sensing=self._inlet.sensing,
            program=self._inlet.program,
            messenger=self._messenger,
            overview=self.overview,
            last_good=core.last_good,
            enforcing_since=core.enforcing_since,
            wall=core.wall,
            now=core.now,
        )
        self.reload = Reload(
            self.reconfiguration.read, self.reconfiguration.apply, self.manager, core.enforcement.credits.is_settled
        )
        self._stack.callback(self.reload.close)
        self.hang_up = HangUp(
            self._loop, core.events, self.reload, core.journal.recorder, had_terminal=self._had_terminal
        )

    def _open_control(self, settings: Settings) -> None:
        core = self._core
        accounts = core.around.accounts
        self.lookups = Lookups(accounts.names, core.now)
        self.commits = Commits(core.state, core.now, core.enforcement.credits.is_settled)
        history = self.history
        blocks = BlockList(core.engine, core.execution, core.wall, core.now)
        self.handlers = Handlers(
            core.guard,
            core.orders,
            core.enforcement,
            accounts=accounts,
            now=core.now,
            overview=self.overview,
            blocks=blocks,
            block=BlockCommand(
                core.orders,
                core.guard,
                core.enforcement,
                switch=core.switch,
                undone=core.forgiveness,
                jail=core.jail,
                tell_fail2ban=core.unbanner.tell,
                accounts=accounts,
                wall=core.wall,
                now=core.now,
            ),
            allow=AllowCommand(
                core.orders, core.guard, core.enforcement, accounts=accounts, wall=core.wall, now=core.now
            ),
            switch=core.switch,
            tell_fail2ban=core.unbanner.tell,
            reload=self.reload.request,
            lookups=self.lookups,
            commits=self.commits,
            learning_period=core.learning_period,
            supervision=self._loop.supervision,
            recorder=core.journal.recorder,
            history=history,
            why=WhyCommand(
                history, blocks, core.engine, accounts, core.guard, self.overview, watches=core.watches, now=core.now
            ),
            watches=core.watches,
            halve=HalveCommand(core.watches, accounts, core.wall),
            report=ReportCommand(history, core.guard, accounts),
        )
        group, self._group_trouble = find_group(settings.control_group)
        server = ControlServer(
            settings.control_socket,
            group=group,
            verbs=settings.control_verbs,
            handler=self.handlers.handle,
            names=lambda uid: accounts.account(uid).name,
        )
        self.control = ControlPart(server)
        core.journal.publish = self.control.publish
        self._stack.callback(server.close)

    def _render_parts(self) -> dict[str, str]:
        """Lines of parts for `status`."""
        core = self._core
        told = core.learning_period.render(core.guard.settings, core.now())
        return core.around.parts() | ({} if told is None else {"newcomers": told}) | self._messenger.parts()

    def _troubles(self) -> list[str]:
        """What is wrong with parts that have no line of their own in `status`."""
        core = self._core
        looker = core.enrichers.looker
        found = {
            "processes are not looked at": core.enrichers.trouble or (looker and looker.trouble()),
            "limits are not exact": core.enforcement.credits.trouble,
            "a lost table is noticed late": core.table_watch.trouble,
            "open sessions live on": core.sessions.trouble,
            "refused senders are not told why": self._inlet.program.trouble,
            "only root may use the control socket": self._group_trouble,
            "not reloaded": self.reload.trouble,
            "who was freed is banned still": core.unbanner.trouble(),
            "not notified": self._messenger.trouble(),
        }
        return [*(f"{what}: {why}" for what, why in found.items() if why), *core.around.troubles()]
