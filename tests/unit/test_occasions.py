"""What the daemon hands over as it happens: incidents, the safety brake, blindness that lasts, a lost state."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from unittest.mock import Mock

from smtpguard.daemon.outlet.occasions import BLIND_NS, HEALTH_NS, Occasions
from smtpguard.daemon.record.enrichment_queue import Entry
from smtpguard.model import NS, BreakerChange, Customer, Subject, Verdict
from smtpguard.notify.body import render_body
from smtpguard.settings import BreakerLimits
from smtpguard.state.incident_row import IncidentRow
from tests.support.policy import T0, WEB, People, connect


class Condition:
    """How a guard fares."""

    def __init__(self) -> None:
        self.seeing = self.acting = self.well = True

    def is_seeing(self) -> bool:
        return self.seeing

    def is_acting(self) -> bool:
        return self.acting

    def is_well(self) -> bool:
        return self.well

    def headline(self) -> str:
        return "as it is"


class Bench:
    def __init__(self, *, is_used: bool = True) -> None:
        self.now_ns = T0
        self.told: list[Mapping[str, Any]] = []
        self.health: list[bool] = []
        self.is_off = False
        messenger = Mock(is_used=is_used, tell=self.told.append)
        messenger.send_health = lambda *, is_well, **_: self.health.append(is_well)
        wall = Mock(offset_ns=0, to_wall_ns=lambda ns: ns)
        self.occasions = Occasions(messenger, wall, lambda: self.now_ns, is_off=lambda: self.is_off)
        self.condition = Condition()
        self.occasions.condition = self.condition

    def pass_time(self, seconds: int) -> None:
        for _ in range(seconds):
            self.now_ns += NS
            self.occasions.on_time(self.now_ns)

    def conditions(self) -> list[tuple[str, bool]]:
        return [(occasion["condition"], occasion["holds"]) for occasion in self.told]


def make_row(**changes: Any) -> IncidentRow:  # noqa: ANN401
    row = IncidentRow(
        uid=WEB,
        netns=None,
        name="web",
        first_ns=T0,
        last_ns=T0,
        verdicts=1,
        connects=6,
        refused=1,
        peak_per_minute=6,
        destinations=1,
        rules=("mx",),
        mode="enforce",
        tops={"scripts": [("/a.php", 6)], "destinations": []},
    )
    return replace(row, **changes)


def make_verdict(**changes: Any) -> Verdict:  # noqa: ANN401
    verdict = Verdict(
        time_ns=T0,
        subject=Subject(id=WEB),
        account=People().account(WEB),
        rule="mx",
        count=6,
        limit=5,
        window_ns=600 * NS,
        action="block",
        until_ns=T0 + 1800 * NS,
        mode="enforce",
        connect=connect(0),
        ports=(25,),
    )
    return replace(verdict, **changes)


def begin(bench: Bench, verdict: Verdict, **entry: Any) -> Mapping[str, Any]:  # noqa: ANN401
    attempt = replace(verdict.connect, script=b"/home/web/x\r\n.php")
    account = replace(verdict.account, customer=Customer(domain="exa\nmple.org"))
    made = Entry(connect=attempt, account=account, subject=verdict.subject, **entry)
    bench.occasions.incident_begins(make_row(), verdict, made, is_left=False)
    return bench.told[-1]


def test_an_incident_says_who_why_until_when_and_nothing_that_is_not_escaped() -> None:
    bench = Bench()
    told = begin(bench, make_verdict())
    assert told["id"] == f"{make_row().id}-block-enforce"
    assert told["verdict"]["script"] == r"/home/web/x\x0d\x0a.php"
    assert told["domain"] == r"exa\x0ample.org"
    assert [block["kind"] for block in told["blocks"]] == ["block"]
    assert told["incident"]["scripts"] == [{"script": "/a.php", "count": 6}]


def test_what_refuses_nobody_has_no_block() -> None:
    bench = Bench()
    for changes in ({"mode": "dry-run"}, {"action": "warn", "until_ns": None}):
        assert begin(bench, make_verdict(**changes))["blocks"] == []


def test_the_same_verdict_has_the_same_id_and_a_graver_one_another() -> None:
    bench = Bench()
    ids = [begin(bench, make_verdict(action=action))["id"] for action in ("throttle", "throttle", "block")]
    assert ids[0] == ids[1] != ids[2]


def test_what_goes_on_for_days_is_said_once_for_each() -> None:
    bench = Bench()
    day_ns = 86_400 * NS
    for last_ns in (0, day_ns - 1, day_ns, day_ns + 60 * NS, 2 * day_ns):
        bench.occasions.incident_lasts(make_row(last_ns=T0 + last_ns))
    name = make_row().id
    assert [told["id"] for told in bench.told] == [f"{name}-day-1", f"{name}-day-2"]
    assert {told["kind"] for told in bench.told} == {"incident-begins"}
    bench.occasions.incident_over(make_row(is_over=True))
    assert bench.occasions._days == {}


def test_a_containers_uid_is_not_taken_for_the_customer_of_that_number() -> None:
    bench = Bench()
    bench.occasions.incident_over(make_row(netns=4026532000, name=None))
    bench.occasions.incident_over(make_row(netns=4026532000))
    contained, subordinate = bench.told
    assert (contained["user"], contained["uid"]) == (f"uid:{WEB}@container", None)
    assert (subordinate["user"], subordinate["uid"]) == ("web", WEB), "a subordinate uid has its owner's name"
    assert json.loads(render_body(contained, host="h", share=("user",)))["why"]["commands"] == []
    assert json.loads(render_body(subordinate, host="h", share=("user",)))["why"]["commands"] != []


def test_over_says_so() -> None:
    bench = Bench()
    bench.occasions.incident_over(make_row(is_over=True))
    assert (bench.told[0]["kind"], bench.told[0]["incident"]["over"]) == ("incident-over", True)


def test_the_brake_and_a_lost_state() -> None:
    bench = Bench()
    change = BreakerChange(time_ns=T0, tripped=True, blocks=4, mode="enforce")
    bench.occasions.brake(change, BreakerLimits())
    bench.occasions.state_lost(["set aside", "left out"])
    assert [told["kind"] for told in bench.told] == ["breaker", "state", "state"]
    assert bench.told[0]["brake"] == {"tripped": True, "blocks": 4, "mode": "enforce", "limit": 3, "per": 600}
    assert len({told["id"] for told in bench.told}) == 3


def test_a_note_is_escaped_and_bounded() -> None:
    bench = Bench()
    bench.occasions.noted("web01", 1001, by="root", text="cleaned\n\x1b[2J" + 500 * "x")
    (told,) = bench.told
    assert told["kind"] == "note"
    assert (told["user"], told["uid"], told["by"]) == ("web01", 1001, "root")
    assert told["note"].startswith("cleaned")
    assert told["note"].isascii()
    assert told["note"].isprintable()
    assert len(told["note"]) <= 220


def test_blindness_that_passes_is_not_told_and_one_that_lasts_is_once() -> None:
    bench = Bench()
    bench.pass_time(10)
    assert sorted(bench.conditions()) == [("blind", False), ("not-enforcing", False), ("off", False)]
    bench.told.clear()
    bench.condition.seeing = False
    bench.pass_time(BLIND_NS // NS - 1)
    bench.condition.seeing = True
    bench.pass_time(60)
    assert bench.told == []
    bench.condition.seeing = False
    bench.pass_time(60)
    assert bench.conditions() == [("blind", True)]
    bench.condition.acting = False
    bench.is_off = True
    bench.pass_time(60)
    bench.condition.seeing = True
    bench.pass_time(60)
    assert bench.conditions()[1:] == [("not-enforcing", True), ("off", True), ("blind", False)]


def test_health_is_said_every_ten_seconds_and_at_once_when_it_changes() -> None:
    bench = Bench()
    bench.pass_time(31)
    assert bench.health == [True] * 4
    bench.condition.well = False
    bench.pass_time(1)
    assert bench.health[-1] is False
    bench.pass_time(HEALTH_NS // NS)
    assert bench.health[-2:] == [False, False]


def test_where_nobody_is_told_nothing_is_made() -> None:
    bench = Bench(is_used=False)
    bench.occasions.incident_over(make_row(is_over=True))
    bench.pass_time(60)
    assert (bench.told, bench.health) == ([], [])
