"""What metrics are made of: the guard's figures at one moment, as JSON values. Collected here, rendered elsewhere.

Nothing is asked of the kernel, nothing is compared for it, and nothing that a tenant chooses the size of is walked:
it costs about a millisecond. A series that can be there is there from the first time, at zero.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import product
from typing import Any

from smtpguard import __version__
from smtpguard.actions.eventlog import EventLog
from smtpguard.clock import WallMap
from smtpguard.daemon.enforce.enforcement import Enforcement
from smtpguard.daemon.guard import Guard
from smtpguard.daemon.intake.sensor_list import SensorList
from smtpguard.daemon.loop import Loop
from smtpguard.daemon.record.journal import Journal
from smtpguard.daemon.record.metric_totals import BUCKETS_S, MAX_SERIES, Labels, MetricTotals
from smtpguard.daemon.serve.status import Status
from smtpguard.hooks import ClockNs
from smtpguard.model import NS, Account, Subject
from smtpguard.policy.engine import Engine
from smtpguard.policy.incidents import AccountOf
from smtpguard.settings import Settings
from smtpguard.state.writer import StateWriter
from smtpguard.text import render_user

Series = list[list[Any]]
"""Values of labels, in the order of the family, and the value."""
_MODES = ("enforce", "dry-run")


class MetricsSnapshot:
    """Collects it.

    Args:
        totals: What was counted.
        guard: The configuration in force.
        overview: Whether the guard works.
        engine, enforcement, journal, state, events, loop: The parts.
        sensors: The sources.
        account_of: Knows accounts.
        wall: Event time to wall time.
        now: CLOCK_BOOTTIME in nanoseconds.
        since_ns: When the guard started (CLOCK_BOOTTIME).
    """

    def __init__(
        self,
        totals: MetricTotals,
        guard: Guard,
        overview: Status,
        *,
        engine: Engine,
        enforcement: Enforcement,
        journal: Journal,
        state: StateWriter,
        events: EventLog,
        loop: Loop,
        sensors: SensorList,
        account_of: AccountOf,
        wall: WallMap,
        now: ClockNs,
        since_ns: int,
    ) -> None:
        self._totals = totals
        self._guard = guard
        self._overview = overview
        self._engine = engine
        self._enforcement = enforcement
        self._journal = journal
        self._state = state
        self._events = events
        self._loop = loop
        self._sensors = sensors
        self._account_of = account_of
        self._now = now
        self._start_s = wall.to_wall_ns(since_ns) / NS  # as the clock was then, however it is set later

    def collect(self) -> dict[str, Any]:
        """All families without their prefix; `response_seconds` is a histogram, `users` is there if it is wanted."""
        settings, totals, overview = self._guard.settings, self._totals, self._overview
        leader = self._sensors.leader()
        mode = overview.mode()
        sensors = [sensor.name for sensor in self._sensors]
        families: dict[str, Series] = {
            "build_info": [[__version__, "none" if leader is None else leader.name, mode, 1]],
            "start_time_seconds": [[self._start_s]],
            "guarding": [[int(overview.is_ready() and mode != "off")]],
            "dry_run": [[int(settings.dry_run)]],
            "breaker_tripped": [[int(self._engine.is_tripped("enforce"))]],
            "connects_total": _list_series(
                totals.connects, product(sensors, map(str, sorted(settings.ports)), ("allowed", "refused", "-"))
            ),
            "direct_smtp_egress_findings_total": _list_series(totals.findings, product(sensors)),
            "messages_total": [["postfix", 0], ["exim", 0]],
            "recipients_total": [["postfix", 0], ["exim", 0]],
            "verdicts_total": _list_series(totals.verdicts, _list_verdicts(settings)),
            "refusals_total": _list_series(totals.refusals, product(("block", "throttle", "credit", "cap", "other"))),
            "blocks": self._count_blocks(),
            "out_of_step": [[self._count_differences()]],
            "losses_total": self._list_losses(),
            "part_failures_total": _list_series(
                Counter({(name,): count for name, count in self._loop.supervision.failures.items()}),
                ((name,) for name in self._loop.part_names()),
            ),
            "last_event_timestamp_seconds": [[totals.last_event_ns / NS]],
            "spool_entries": [
                ["event-log", self._events.stats().waiting],
                ["journal", self._journal.waiting.stats()["waiting"]],
                ["state", self._state.stats().waiting],
            ],
        }
        if totals.users is not None:
            picked = totals.users.pick(self._fullness)
            families["user_connects_total"] = [[self._show_user(uid), count] for uid, count in picked]
        return {"families": families, "response_seconds": self._show_responses()}

    def _count_blocks(self) -> Series:
        now_ns = self._now()
        found = Counter[Labels]((block.kind, block.mode) for block in self._engine.blocks() if block.until_ns > now_ns)
        return _list_series(found, product(("block", "throttle", "hold"), _MODES))

    def _count_differences(self) -> int:
        """What the kernel does not do as listed, as found last; where nobody could look, that is one of them."""
        health, comparison = self._enforcement.health, self._enforcement.comparison
        count = len(health.list_out_of_sync()) + (health.table_trouble is not None)
        if comparison is not None:
            count += len(comparison.differences) + (comparison.trouble is not None)
        return count

    def _list_losses(self) -> Series:
        """What was lost on its way in, by sensor; and what was dropped further on, which no sensor lost."""
        rows: Series = []
        for sensor in self._sensors:
            totals = sensor.totals()
            lost, garbled = totals["events"] + totals["only counted"], totals["garbled"]
            rows += [[sensor.name, "lost", lost], [sensor.name, "garbled", garbled]]
        return [
            *rows,
            ["-", "event-log", self._events.stats().dropped],
            ["-", "state", sum(self._state.stats().dropped.values())],
            ["-", "record", self._journal.recorder.dropped],
            ["-", "windows", self._engine.stats().dropped],
        ]

    def _show_responses(self) -> dict[str, Any]:
        return {
            "buckets": [*zip(BUCKETS_S, self._totals.responses, strict=False), ("+Inf", self._totals.responses[-1])],
            "sum": self._totals.response_ns / NS,
        }

    def _fullness(self, uid: int, /) -> float:
        """How near to a limit a user is. Rules for newcomers count what most users do all the time: not asked."""
        fills, _ = self._engine.memory.fills(self._account(uid), self._now())
        shares = [fill.now / max(fill.rule.limit, 0.5) for fill in fills if fill.rule.novel_ns is None]
        return max(shares, default=0.0)

    def _show_user(self, uid: int) -> str:
        return render_user(uid, self._account(uid).name)

    def _account(self, uid: int) -> Account:
        return self._account_of(Subject(id=uid))


def _list_series(counts: Mapping[Labels, int], expected: Iterable[Labels]) -> Series:
    """Every series that can be expected, at zero where it has no count, and all others that have one."""
    rows = dict.fromkeys(expected, 0) | dict(counts)
    return [[*labels, count] for labels, count in rows.items()]


def _list_verdicts(settings: Settings) -> list[Labels]:
    """What the rules as configured may give: a block rule throttles while the safety brake holds."""
    found: list[Labels] = [
        (rule.name, action, mode)
        for rule in settings.rules
        for action in dict.fromkeys((rule.action, "throttle") if rule.action == "block" else (rule.action,))
        for mode in _MODES
    ]
    return found[:MAX_SERIES]
