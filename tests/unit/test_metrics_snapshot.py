"""What the daemon hands over for metrics: never a zero where nobody could look, and nothing that goes back."""

import json
import time
from typing import Any, cast
from unittest.mock import Mock

import pytest

from smtpguard.daemon.intake.sensor import Sensor
from smtpguard.daemon.intake.sensor_list import SensorList
from smtpguard.daemon.outlet.frames import render_frame
from smtpguard.daemon.record.metric_totals import MAX_SERIES, MetricTotals
from smtpguard.daemon.serve.metrics_snapshot import MetricsSnapshot
from smtpguard.model import NS, Subject
from smtpguard.notify.metric_families import FAMILIES
from smtpguard.settings import Settings
from smtpguard.sources.base import SourceStats
from tests.support.policy import BURST, T0, People, block_of, connect, engine_of


class Parts:
    """What the snapshot is collected from: a real engine, all else on fakes."""

    def __init__(self, *, users: bool = False, **settings: Any) -> None:  # noqa: ANN401 - as Settings
        self.engine = engine_of(BURST, **settings)
        self.engine.tick(T0)
        self.totals = MetricTotals(users=users)
        self.guard = Mock(settings=Settings(rules=(BURST,), **{"dry_run": False, **settings}))
        self.enforcement, self.overview = Mock(), Mock()
        self.overview.mode.return_value, self.overview.is_ready.return_value = "enforce", True
        self.enforcement.health.list_out_of_sync.return_value = []
        self.enforcement.health.table_trouble = self.enforcement.comparison = None
        self.sensor = Sensor("bpf")
        self.sensor.put_in_place(cast("Any", Mock(stats=SourceStats())))
        self.sensors = SensorList([self.sensor, Sensor("nflog")])
        self.loop, self.journal, self.state, self.events = Mock(), Mock(), Mock(), Mock()
        self.loop.supervision.failures = {"journal": 2, "thread x": 1}
        self.loop.part_names.return_value = ["journal", "engine"]
        self.journal.waiting.stats.return_value = {"waiting": 3}
        self.journal.recorder.dropped = 0
        self.state.stats.return_value = Mock(waiting=4, dropped={"minutes": 2, "places": 3})
        self.events.stats.return_value = Mock(waiting=5, dropped=6)
        self.wall: Any = Mock(to_wall_ns=lambda ns: ns + 50 * NS)
        self.snapshot = MetricsSnapshot(
            self.totals,
            self.guard,
            self.overview,
            engine=self.engine,
            enforcement=self.enforcement,
            journal=self.journal,
            state=self.state,
            events=self.events,
            loop=self.loop,
            sensors=self.sensors,
            account_of=lambda subject: People().account(subject.id),
            wall=self.wall,
            now=lambda: T0,
            since_ns=T0 - NS,
        )

    def read(self, name: str) -> dict[tuple[Any, ...], Any]:
        return {tuple(labels): value for *labels, value in self.snapshot.collect()["families"][name]}


def test_each_family_of_the_daemons_has_its_labels() -> None:
    families = Parts(users=True).snapshot.collect()["families"]
    known = {family.name: family for family in FAMILIES}
    assert {*families} == {*known} - {"notifications_total", "response_seconds"}
    for name, rows in families.items():
        assert all(len(row) == len(known[name].labels) + 1 for row in rows), name


def test_what_the_guard_is_at_the_moment() -> None:
    parts = Parts()
    assert parts.read("build_info").popitem()[0][1:] == ("bpf", "enforce")
    assert parts.read("guarding") == {(): 1}
    assert parts.read("part_failures_total") == {("journal",): 2, ("engine",): 0, ("thread x",): 1}
    assert parts.read("spool_entries") == {("event-log",): 5, ("journal",): 3, ("state",): 4}
    parts.overview.mode.return_value = "off"
    assert parts.read("guarding") == {(): 0}
    parts.overview.mode.return_value, parts.overview.is_ready.return_value = "enforce", False
    assert parts.read("guarding") == {(): 0}
    parts.sensor.take_out()
    assert parts.read("build_info").popitem()[0][1:] == ("none", "enforce")


def test_the_start_stays_though_the_clock_is_set() -> None:
    parts = Parts()
    before = parts.read("start_time_seconds")
    parts.wall.to_wall_ns = lambda ns: ns + 9999 * NS
    assert parts.read("start_time_seconds") == before == {(): T0 / NS + 49}


@pytest.mark.parametrize(
    ("change", "count"),
    [({}, 0), ({"differences": ("a", "b")}, 2), ({"trouble": "nobody can look"}, 1)],
)
def test_where_nobody_can_look_it_is_out_of_step(change: dict[str, Any], count: int) -> None:
    parts = Parts()
    parts.enforcement.comparison = Mock(**{"differences": (), "trouble": None, **change})
    assert parts.read("out_of_step") == {(): count}
    parts.enforcement.health.table_trouble = "no table"
    parts.enforcement.health.list_out_of_sync.return_value = ["bpf: no"]
    assert parts.read("out_of_step") == {(): count + 2}


def test_losses_go_on_when_a_source_is_opened_anew() -> None:
    parts = Parts()
    source = parts.sensor.source
    assert source is not None
    source.stats.lost, source.stats.garbled = 5, 1
    assert parts.read("losses_total")["bpf", "lost"] == 5
    source.stats.lost = 7
    source.stats.notes |= {"beyond a user's budget": 3, "reports dropped": 4}
    assert parts.sensor.totals() == {"events": 4, "only counted": 3, "garbled": 1, "outcomes": 4}
    parts.sensor.take_out()
    assert parts.read("losses_total")["bpf", "lost"] == 7
    parts.sensor.put_in_place(cast("Any", Mock(stats=SourceStats(lost=2))))
    found = parts.read("losses_total")
    assert (found["bpf", "lost"], found["bpf", "garbled"], found["nflog", "lost"]) == (9, 1, 0)
    assert (found["-", "event-log"], found["-", "state"]) == (6, 5)


def test_blocks_by_kind_and_mode() -> None:
    parts = Parts()
    for uid, source, kind in ((1, "guard", "block"), (2, "admin", "block"), (3, "guard", "throttle")):
        parts.engine.commands.add_block(block_of(source, uid=uid, kind=kind))
    found = parts.read("blocks")
    assert found == {
        ("block", "enforce"): 2, ("throttle", "enforce"): 1, ("hold", "enforce"): 0,
        ("block", "dry-run"): 0, ("throttle", "dry-run"): 0, ("hold", "dry-run"): 0,
    }  # fmt: skip


def test_verdicts_of_each_rule_are_expected_and_a_rule_that_is_gone_keeps_its_count() -> None:
    parts = Parts()
    parts.totals.verdicts["gone", "warn", "enforce"] = 7
    assert parts.read("verdicts_total") == {
        ("burst", "block", "enforce"): 0, ("burst", "block", "dry-run"): 0,
        ("burst", "throttle", "enforce"): 0, ("burst", "throttle", "dry-run"): 0, ("gone", "warn", "enforce"): 7,
    }  # fmt: skip


def test_users_over_half_of_a_limit_and_nobody_becomes_known_by_looking() -> None:
    parts = Parts(users=True)
    for uid, count in ((1001, 2), (1002, 1)):
        for at_s in range(count):
            parts.engine.feed(connect(at_s / 100, uid=uid))
            parts.totals.users.add(People().account(uid), Subject(id=uid))  # type: ignore[union-attr]
    parts.totals.users.add(People().account(1003), Subject(id=1003))  # type: ignore[union-attr]
    held = parts.engine.stats().subjects
    assert parts.read("user_connects_total") == {("u1001",): 2}
    assert parts.engine.stats().subjects == held


def test_however_much_was_counted_it_fits_into_one_packet_and_costs_little() -> None:
    parts = Parts(users=True)
    for number in range(MAX_SERIES):
        name = f"{number:063}"
        parts.totals.connects["audit-log", str(10_000 + number), "refused"] = 10**12
        parts.totals.verdicts[name, "throttle", "enforce"] = 10**12
    for uid in range(1, 101):
        parts.totals.users.add(People().account(uid), Subject(id=uid))  # type: ignore[union-attr]
    took_s: list[float] = []
    for _ in range(3):  # a virtual machine's processor may be away in one of them
        begun = time.process_time()
        found = parts.snapshot.collect()
        took_s.append(time.process_time() - begun)
    assert min(took_s) < 0.15, "the loop is kept for so long"
    found["families"]["user_connects_total"] = [["n" * 255, 10**12]] * 50
    assert json.loads(render_frame("snapshot", found).partition(b"\n")[2]) == json.loads(json.dumps(found))
