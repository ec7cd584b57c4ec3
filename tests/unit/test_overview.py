"""What `status` says where something can't be looked at: that it can't, and never zero."""

from collections import Counter
from typing import Any
from unittest.mock import Mock, patch

import pytest

from smtpguard.daemon.serve.status import Status, _render_stats
from smtpguard.enrich.looker import LookerStats
from smtpguard.errors import EnforceError, SourceError
from smtpguard.model import NS
from smtpguard.settings import Settings
from smtpguard.sources.base import Unsent
from tests.support.policy import person


def made_overview(**settings: Any) -> tuple[Status, Mock, Mock]:  # noqa: ANN401 - as Settings
    guard, sensing, events, supervision = Mock(), Mock(), Mock(), Mock()
    guard.settings = Settings(**settings)
    guard.engine.is_off, guard.wall.offset_ns = False, 0
    guard.engine.is_tripped.return_value = False
    guard.now.return_value = 1000 * NS
    guard.enforcement.activation.trouble = guard.enforcement.template_trouble = None
    guard.enforcement.activation.up, guard.enforcement.healing = True, True
    guard.enforcement.out_of_step.return_value = []
    guard.enforcement.comparison = Mock(differences=(), trouble=None, looked_ns=None)
    guard.state.stats.return_value.error = events.stats.return_value.error = None
    sensing.sensors = ()
    supervision.troubles.return_value = supervision.failing.return_value = []
    overview = Status(
        guard,
        sensing,
        events,
        switch=Mock(),
        looker=None,
        rdns=None,
        counting=None,
        stalls=Mock(),
        supervision=supervision,
        troubles=list,
        parts=dict,
        since_ns=0,
    )
    return overview, guard, sensing


def test_whom_the_cap_refused_is_not_known_where_the_kernel_does_not_say() -> None:
    overview, guard, _ = made_overview()
    troubles: list[str] = []
    guard.enforcement.cap.read.side_effect = EnforceError("no", where="nft")
    assert overview._capped(troubles) is None
    assert troubles == ["whom the cap refused can't be read: nft: no"]
    guard.enforcement.cap.cap = None
    assert overview._capped(troubles) == []


def test_nor_is_whose_events_were_only_counted() -> None:
    overview, _, sensing = made_overview()
    troubles: list[str] = []
    sensing.read_unsent.side_effect = SourceError("no", where="bpf")
    assert overview._not_recorded(troubles) is None
    assert troubles == ["bpf: no"]


def test_a_comparison_that_nobody_could_make_is_a_trouble_and_no_agreement() -> None:
    overview, guard, _ = made_overview()
    comparison = guard.enforcement.comparison
    assert "not compared with the list yet" in overview._enforcement()[0]["state"]
    comparison.looked_ns, comparison.trouble = 999 * NS, "no"
    assert overview.troubles() == ["can't compare the kernel with the list: no"]
    row = overview._enforcement()[0]
    assert row["in_step"] is None
    assert "last compared with the list" in row["state"]
    comparison.trouble = None
    assert overview._enforcement()[0]["in_step"] is True


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"trouble": "no"}, "table inet smtpguard: no"),
        ({"up": False}, "table inet smtpguard is not there: a dry run needs none"),
    ],
)
def test_the_table_s_line(change: dict[str, object], said: str) -> None:
    overview, guard, _ = made_overview()
    for name, value in change.items():
        setattr(guard.enforcement.activation, name, value)
    assert overview._enforcement()[0]["state"] == said


def test_a_blind_guard_says_why_in_one_line() -> None:
    overview, _, sensing = made_overview()
    sensing.leader.return_value = None
    bpf = Mock(why="no such cgroup", source=None)
    bpf.name = "bpf"
    sensing.sensors = (bpf,)
    assert overview.headline() == "blind: bpf: no such cgroup"
    assert overview.troubles() == ["BLIND: no source works. Nothing is seen, nobody is stopped. See: smtpguard doctor"]
    overview, _, sensing = made_overview(sources="none")
    sensing.leader.return_value = None
    assert overview.headline() == "dry run, watching nothing (sources: none)"


def test_what_is_wrong_comes_worst_first() -> None:
    overview, guard, _ = made_overview(dry_run=False)
    guard.engine.is_off = True
    guard.enforcement.activation.trouble = "no"
    guard.enforcement.template_trouble = "line 3: syntax error"
    guard.enforcement.activation.up = False
    overview._events.stats.return_value.error = "/x: can't be written: no space"  # type: ignore[attr-defined]
    guard.state.stats.return_value.error = "locked"
    assert overview.troubles() == [
        "OFF: nobody is refused. Switch on: smtpguard on",
        "MAY STILL REFUSE: the table can't be removed: nft: no",
        "the ruleset in force is not the one in the files: line 3: syntax error",
        "the event log can't be written: /x: no space",
        "the state can't be written: locked",
    ]
    assert overview.headline().startswith("OFF: nobody is refused, watching with ")
    guard.engine.is_off, guard.enforcement.activation.up = False, True
    assert overview.troubles()[0] == "NOT ENFORCING: nft: no"
    guard.enforcement.activation.trouble = None
    guard.engine.is_off = True
    assert overview._enforcement()[0]["state"] == "table inet smtpguard is removed: smtpguard is off"
    guard.engine.is_off, guard.enforcement.healing = False, False
    assert "was removed by `nft remove`" in overview._enforcement()[0]["state"]


def test_events_that_were_only_counted_are_summed_by_user() -> None:
    overview, guard, sensing = made_overview()
    guard.account_of.side_effect = lambda subject: person(subject.id, "tenant")
    rows = [(1001, "block", None, 2), (1001, None, None, 3), (1001, None, "closed", 5), (1002, None, None, 1)]
    sensing.read_unsent.return_value = [
        Unsent(owner=owner, port=25, refused_by=by, news=news, count=count)  # type: ignore[arg-type]
        for owner, by, news, count in rows
    ]
    shown = overview._not_recorded([])
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
    overview, guard, _ = made_overview()
    guard.journal.waiting.stats.return_value = {}
    guard.state.stats.return_value = Mock(dropped={}, notes=())
    overview._supervision.failures = Counter({"journal": 2, "control": 1})
    assert overview._parts()["failures"] == "control 1, journal 2"


def test_a_file_that_is_wrong_comes_before_all_else() -> None:
    overview, _, _ = made_overview()
    overview.wrong_file = "x.yaml is wrong: the last good one is in force"
    assert overview.headline().startswith("x.yaml is wrong: the last good one is in force; dry run")
    assert overview.troubles()[0].startswith("x.yaml is wrong: the last good one is in force. Mend it, then")


def test_rules_that_need_bpf_are_named_where_there_is_none() -> None:
    overview, guard, _ = made_overview()
    guard.journal.waiting.stats.return_value = {}
    guard.state.stats.return_value = Mock(dropped={}, notes=())
    overview._supervision.failures = Counter()
    with patch.object(overview, "_uncounted", return_value=Mock(inactive=("failures",))):
        assert overview._parts()["inactive"] == "rules as shipped that need the source bpf: failures"
