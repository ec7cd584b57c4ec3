"""Incidents: merged by small gaps, told once when they begin and once when they are over."""

import pytest

from smtpguard.model import NS, Account, Connect, Subject, Verdict
from smtpguard.policy.incidents import GAP_NS, TOP, Incidents
from smtpguard.settings import MINUTE_NS

MAX_DESTINATIONS = 1000
WEB = Account(uid=1001, name="web01", standing="tenant")
WHO = Subject(id=1001)


def connect(at_ns: int, last: int = 1, script: bytes | None = None) -> Connect:
    address = last.to_bytes(4, "big")
    return Connect(time_ns=at_ns, uid=1001, port=25, address=address, sensor="bpf", script=script)


def verdict(at_ns: int, rule: str = "burst", subject: Subject = WHO) -> Verdict:
    return Verdict(
        time_ns=at_ns,
        subject=subject,
        account=WEB,
        rule=rule,
        count=31,
        limit=30,
        window_ns=MINUTE_NS,
        action="block",
        until_ns=at_ns + NS,
        mode="enforce",
        connect=connect(at_ns),
    )


def test_told_once_while_gaps_stay_short() -> None:
    incidents = Incidents()
    assert incidents.feed(verdict(0)) is not None
    assert incidents.feed(verdict(GAP_NS - 1, "fanout")) is None
    assert (incidents.next_deadline() or 0) <= 2 * GAP_NS - 1
    assert incidents.tick(2 * GAP_NS - 2) == []
    over = incidents.tick(2 * GAP_NS - 1)
    assert len(over) == 1
    assert (over[0].first_ns, over[0].last_ns, over[0].verdicts) == (0, GAP_NS - 1, 2)
    assert over[0].rules == ("burst", "fanout")
    assert incidents.feed(verdict(2 * GAP_NS)) is not None, "a new one"


def test_what_it_came_to() -> None:
    incidents = Incidents()
    incidents.attempt(WHO, connect(0), refused=False)  # before it began
    incidents.feed(verdict(0))
    for number in range(90):
        at_ns = number * NS
        incidents.attempt(WHO, connect(at_ns, last=number % 7, script=b"/x.php"), refused=number >= 10)
    incidents.attempt(Subject(id=7), connect(0), refused=False)
    found = incidents.tick(10 * GAP_NS)[0]
    assert (found.connects, found.refused, found.destinations) == (90, 80, 7)
    assert found.peak_per_minute == 60
    assert found.top_scripts == ((b"/x.php", 90),)
    assert found.over


def test_bounds() -> None:
    incidents = Incidents(max_incidents=2)
    for uid in range(1, 5):
        incidents.feed(verdict(0, subject=Subject(id=uid)))
    assert incidents.dropped == 2
    for number in range(MAX_DESTINATIONS + 50):
        incidents.attempt(Subject(id=1), connect(0, last=number, script=b"%d" % number), refused=True)
    held = incidents.current()[0]
    assert held.connects == MAX_DESTINATIONS + 50
    assert held.destinations == pytest.approx(MAX_DESTINATIONS + 50, rel=0.06)
    assert len(held.top_destinations) == len(held.top_scripts) == TOP


def test_refused_attempts_keep_it_going_and_others_do_not() -> None:
    incidents = Incidents()
    incidents.feed(verdict(0))
    incidents.attempt(WHO, connect(GAP_NS - 1), refused=True)
    incidents.attempt(WHO, connect(GAP_NS + 5), refused=False)
    assert incidents.tick(2 * GAP_NS - 2) == []
    assert incidents.feed(verdict(2 * GAP_NS - 2)) is None, "hammering at a block is one incident"
    assert [over.last_ns for over in incidents.tick(3 * GAP_NS)] == [2 * GAP_NS - 2]
    assert incidents.next_deadline() is None


def test_containers_take_only_their_share() -> None:
    incidents = Incidents(max_incidents=10)
    for netns in range(1, 100):
        incidents.feed(verdict(0, subject=Subject(id=1001, scope=netns)))
    assert incidents.dropped == 94
    assert incidents.feed(verdict(0)) is not None
    assert len(incidents.tick(GAP_NS)) == 6
    assert incidents.feed(verdict(GAP_NS, subject=Subject(id=1001, scope=5))) is not None


def test_what_went_on_at_a_restart_is_not_told_again() -> None:
    incidents = Incidents()
    incidents.feed(verdict(0))
    for number in range(20):
        incidents.attempt(WHO, connect(number * NS, last=number % 3, script=b"/x.php"), refused=True)
    again = Incidents()
    again.restore(incidents.current())
    assert again.current() == incidents.current()
    assert again.feed(verdict(30 * NS)) is None
    assert [over.verdicts for over in again.tick(30 * NS + GAP_NS)] == [2]


def test_late_attempt_makes_no_peak() -> None:
    incidents = Incidents()
    incidents.feed(verdict(10 * MINUTE_NS))
    for at_ns in (10 * MINUTE_NS, 11 * MINUTE_NS, 10 * MINUTE_NS, 11 * MINUTE_NS):
        incidents.attempt(WHO, connect(at_ns), refused=False)
    assert incidents.current()[0].peak_per_minute == 2
