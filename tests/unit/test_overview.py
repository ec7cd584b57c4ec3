"""What `status` says where something can't be looked at: that it can't, and never zero."""

from collections import Counter
from typing import Any
from unittest.mock import MagicMock, Mock, patch

import pytest

from smtpguard.daemon.serve.enforcement_status import EnforcementStatus
from smtpguard.daemon.serve.source_status import SourceStatus
from smtpguard.daemon.serve.status import Status, _render_stats
from smtpguard.enrich.looker import LookerStats
from smtpguard.errors import EnforceError, SourceError
from smtpguard.model import NS
from smtpguard.settings import Settings
from smtpguard.sources.base import Unsent
from tests.support.policy import person


class Parts:
    """What `status` is made of, on fakes."""

    def __init__(self, **settings: Any) -> None:  # noqa: ANN401 - as Settings
        self.guard, self.sensors, self.events, self.supervision = Mock(), MagicMock(), Mock(), Mock()
        self.engine = Mock(is_off=False, is_tripped=Mock(return_value=False), blocks=list)
        self.execution, self.enforcement = Mock(), Mock()
        self.journal, self.state, self.wall = Mock(), Mock(), Mock(offset_ns=0)
        self.guard.settings = Settings(**settings)
        enforcement = self.enforcement
        enforcement.health.table_trouble = enforcement.health.template_trouble = None
        enforcement.is_refusing.return_value, enforcement.healing = True, True
        enforcement.health.list_out_of_sync.return_value = []
        enforcement.cap.read.return_value = Counter()
        enforcement.cap.cap = Mock(per_ns=NS)
        enforcement.credits.exact_rules = frozenset()
        enforcement.comparison = Mock(differences=(), trouble=None, looked_ns=None)
        self.state.stats.return_value = Mock(error=None, dropped={}, notes=())
        self.events.stats.return_value.error = None
        self.journal.waiting.stats.return_value = {}
        self.sensors.__iter__.return_value = iter(())
        self.sensors.read_unsent.return_value = ()
        self.supervision.failures = {}
        self.supervision.troubles.return_value = self.supervision.failing.return_value = []
        account_of = self.execution.account_of
        self.sources = SourceStatus(self.guard, self.sensors, account_of, self.wall, self.now)
        self.means = EnforcementStatus(self.guard, enforcement, self.engine, account_of, self.wall)
        self.overview = Status(
            self.guard,
            self.sources,
            self.means,
            engine=self.engine,
            execution=self.execution,
            journal=self.journal,
            state=self.state,
            events=self.events,
            switch=Mock(until_ns=None),
            enforcing_since=Mock(wall_ns=None),
            watches=Mock(collect=list),
            listings=Mock(collect=lambda: None),
            looker=None,
            rdns=None,
            pairing=None,
            now=self.now,
            stalls=Mock(worst_ns=0),
            supervision=self.supervision,
            troubles=list,
            parts=dict,
            since_ns=0,
        )

    @staticmethod
    def now() -> int:
        return 1000 * NS


def test_whom_the_cap_refused_is_not_known_where_the_kernel_does_not_say() -> None:
    parts = Parts()
    troubles: list[str] = []
    parts.enforcement.cap.read.side_effect = EnforceError("no", where="nft")
    assert parts.means.list_capped(troubles) is None
    assert troubles == ["whom the cap refused can't be read: nft: no"]
    parts.enforcement.cap.cap = None
    assert parts.means.list_capped(troubles) == []


def test_nor_is_whose_events_were_only_counted() -> None:
    parts = Parts()
    troubles: list[str] = []
    parts.sensors.read_unsent.side_effect = SourceError("no", where="bpf")
    assert parts.sources.list_not_recorded(troubles) is None
    assert troubles == ["bpf: no"]


def test_a_comparison_that_nobody_could_make_is_a_trouble_and_no_agreement() -> None:
    parts = Parts()
    comparison = parts.enforcement.comparison
    assert "not compared with the list yet" in parts.means.list_means()[0]["state"]
    comparison.looked_ns, comparison.trouble = 999 * NS, "no"
    assert parts.overview.troubles() == ["can't compare the kernel with the list: no"]
    row = parts.means.list_means()[0]
    assert row["in_step"] is None
    assert "last compared with the list" in row["state"]
    comparison.trouble = None
    assert parts.means.list_means()[0]["in_step"] is True


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"table_trouble": "no"}, "table inet smtpguard: no"),
        ({"is_refusing": Mock(return_value=False)}, "table inet smtpguard is not there: a dry run needs none"),
    ],
)
def test_the_table_s_line(change: dict[str, object], said: str) -> None:
    parts = Parts()
    for name, value in change.items():
        setattr(parts.enforcement.health if name == "table_trouble" else parts.enforcement, name, value)
    assert parts.means.list_means()[0]["state"] == said


def test_a_blind_guard_says_why_in_one_line() -> None:
    parts = Parts()
    parts.sensors.leader.return_value = None
    bpf = Mock(why="no such cgroup", source=None)
    bpf.name = "bpf"
    parts.sensors.render_whys.return_value = "bpf: no such cgroup"
    assert parts.overview.headline() == "blind: bpf: no such cgroup"
    assert parts.overview.troubles() == [
        "BLIND: no source works. Nothing is seen, nobody is stopped. See: smtpguard doctor"
    ]
    parts = Parts(sources="none")
    parts.sensors.leader.return_value = None
    assert parts.overview.headline() == "dry run, watching nothing (sources: none)"


def test_what_is_wrong_comes_worst_first() -> None:
    parts = Parts(dry_run=False)
    parts.engine.is_off = True
    parts.enforcement.health.table_trouble = "no"
    parts.enforcement.health.template_trouble = "line 3: syntax error"
    parts.enforcement.is_refusing.return_value = False
    parts.events.stats.return_value.error = "/x: can't be written: no space"
    parts.state.stats.return_value.error = "locked"
    assert parts.overview.troubles() == [
        "OFF: nobody is refused. Switch on: smtpguard on",
        "MAY STILL REFUSE: the table can't be removed: nft: no",
        "the ruleset in force is not the one in the files: line 3: syntax error",
        "the event log can't be written: /x: no space",
        "the state can't be written: locked",
    ]
    assert parts.overview.headline().startswith("OFF: nobody is refused, watching with ")
    parts.engine.is_off, parts.enforcement.is_refusing.return_value = False, True
    assert parts.overview.troubles()[0] == "NOT ENFORCING: nft: no"
    parts.enforcement.health.table_trouble = None
    parts.engine.is_off = True
    assert parts.means.list_means()[0]["state"] == "table inet smtpguard is removed, as smtpguard is off"
    parts.engine.is_off, parts.enforcement.healing = False, False
    assert "was removed by `nft remove`" in parts.means.list_means()[0]["state"]


def test_events_that_were_only_counted_are_summed_by_user() -> None:
    parts = Parts()
    parts.execution.account_of.side_effect = lambda subject: person(subject.id, "tenant")
    rows = [(1001, "block", None, 2), (1001, None, None, 3), (1001, None, "closed", 5), (1002, None, None, 1)]
    parts.sensors.read_unsent.return_value = [
        Unsent(owner=owner, port=25, refused_by=by, news=news, count=count)  # type: ignore[arg-type]
        for owner, by, news, count in rows
    ]
    shown = parts.sources.list_not_recorded([])
    assert shown is not None
    assert [(row["uid"], row["attempts"], row["refused"], row["reports"]) for row in shown] == [
        (1001, 3, 2, 5),
        (1002, 1, 0, 0),
    ]


def test_what_is_off_in_a_part_is_said_with_why() -> None:
    stats = LookerStats(asked=3, off="the fork-server has ended", off_users=(1001, 1002))
    text = _render_stats(stats)
    assert text.startswith("3 asked, ")
    assert text.endswith("off users: 1001, 1002, off: the fork-server has ended")


def test_what_parts_raised_is_counted_in_a_line() -> None:
    parts = Parts()
    parts.journal.waiting.stats.return_value = {}
    parts.state.stats.return_value = Mock(dropped={}, notes=())
    parts.supervision.failures = Counter({"journal": 2, "control": 1})
    assert parts.overview._parts()["failures"] == "control 1, journal 2"


def test_a_file_that_is_wrong_comes_before_all_else() -> None:
    parts = Parts()
    parts.overview.wrong_file = "x.yaml is wrong: the last good one is in force"
    assert parts.overview.headline().startswith("x.yaml is wrong: the last good one is in force; dry run")
    assert parts.overview.troubles()[0].startswith("x.yaml is wrong: the last good one is in force. Mend it, then")


def test_rules_that_need_bpf_are_named_where_there_is_none() -> None:
    parts = Parts()
    parts.journal.waiting.stats.return_value = {}
    parts.state.stats.return_value = Mock(dropped={}, notes=())
    parts.supervision.failures = Counter()
    with patch.object(parts.sources, "find_uncounted", return_value=Mock(inactive=("failures",))):
        assert parts.overview._parts()["inactive"] == "rules as shipped that need the source bpf: failures"
