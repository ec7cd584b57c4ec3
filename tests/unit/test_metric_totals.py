"""What metrics count: as the event log does, never back, and bounded whatever comes."""

from collections import Counter
from dataclasses import replace

from smtpguard.daemon.record.enrichment_queue import Entry
from smtpguard.daemon.record.metric_totals import BUCKETS_S, MAX_SERIES, OTHER, MetricTotals
from smtpguard.daemon.record.user_totals import MAX_ASKED, MAX_SHOWN, UserTotals
from smtpguard.model import NS, Subject, Verdict
from tests.support.policy import T0, WEB, block_of, connect, person


def entry_of(uid: int = WEB, standing: str = "tenant", **more: object) -> Entry:
    attempt = connect(0, uid=uid, **more)
    return Entry(connect=attempt, account=person(uid, standing), subject=Subject(id=uid))  # type: ignore[arg-type]


def test_attempts_are_counted_as_their_lines_say() -> None:
    totals = MetricTotals(users=False)
    totals.add_attempt(entry_of(result="allowed"), 5 * NS, refused=False)
    totals.add_attempt(entry_of(result="refused", refused_by="block", port=587), 7 * NS, refused=True)
    totals.add_attempt(entry_of(0, "root"), 6 * NS, refused=False)
    assert totals.connects == {
        ("test", "25", "allowed"): 1,
        ("test", "587", "refused"): 1,
        ("test", "25", "-"): 1,
    }
    assert totals.findings == {("test",): 2}
    assert totals.refusals == {("block",): 1}
    assert totals.last_event_ns == 7 * NS
    assert totals.users is None


def test_a_sensor_that_does_not_know_the_result_is_told_by_whom_it_was_refused() -> None:
    totals = MetricTotals(users=False)
    totals.add_attempt(replace(entry_of(), refused_by="throttle"), NS, refused=True)
    totals.add_attempt(entry_of(result="refused"), NS, refused=True)  # by another program
    assert totals.refusals == {("throttle",): 1, (OTHER,): 1}
    assert totals.connects == {("test", "25", "refused"): 2}


def test_series_are_bounded_and_nothing_is_left_out() -> None:
    totals = MetricTotals(users=False)
    for port in range(2 * MAX_SERIES):
        totals.add_attempt(entry_of(port=port), NS, refused=False)
    assert len(totals.connects) == MAX_SERIES + 1
    assert totals.connects.total() == 2 * MAX_SERIES
    assert totals.connects[OTHER, OTHER, OTHER] == MAX_SERIES


def test_verdicts_and_responses() -> None:
    totals = MetricTotals(users=False)
    verdict = Verdict(
        time_ns=T0, subject=Subject(id=WEB), account=person(WEB, "tenant"), rule="burst", count=4, limit=3,
        window_ns=60 * NS, action="block", until_ns=T0 + NS, mode="enforce", connect=connect(0),
    )  # fmt: skip
    totals.add_verdict(verdict)
    totals.add_verdict(replace(verdict, mode="dry-run"))
    assert totals.verdicts == {("burst", "block", "enforce"): 1, ("burst", "block", "dry-run"): 1}
    totals.add_response(block_of("guard"), T0 + 200_000)
    totals.add_response(block_of("guard"), T0 + 60 * NS)
    for block in (block_of("admin"), block_of("guard", mode="dry-run"), block_of("guard", renewed=True)):
        totals.add_response(block, T0 + 200_000)
    assert dict(zip((*BUCKETS_S, "more"), totals.responses, strict=True)) == {
        **dict.fromkeys((*BUCKETS_S, "more"), 0), 0.00025: 1, "more": 1,
    }  # fmt: skip
    assert totals.response_ns == 60 * NS + 200_000


def test_a_hundred_thousand_uids_are_fifty_series_and_few_questions() -> None:
    users, asked = UserTotals(), Counter[int]()
    spammer = 999_999

    def fullness(uid: int, /) -> float:
        asked[uid] += 1
        return 0.9 if uid == spammer else 0.6

    for uid in range(1, 100_001):
        users.add(person(uid, "tenant"), Subject(id=uid))
        if uid % 100 == 0:
            users.add(person(spammer, "tenant"), Subject(id=spammer))
    first = users.pick(fullness)
    assert len(first) == MAX_SHOWN == 50
    assert first[0] == (spammer, 1000)
    assert len(asked) <= 2 * MAX_ASKED
    for uid in range(100_001, 200_001):
        users.add(person(uid, "tenant"), Subject(id=uid))
    asked.clear()
    second = dict(users.pick(fullness))
    assert len(second) == MAX_SHOWN
    assert second[spammer] == 1000, "the crowd has pushed out who was shown, and the counter has gone back"
    assert len(asked) <= 2 * MAX_ASKED + MAX_SHOWN
    assert users.forgotten > 100_000


def test_only_who_is_over_half_of_a_limit_is_shown_and_nobody_whom_no_rule_counts() -> None:
    users = UserTotals()
    for uid, standing in ((1, "tenant"), (2, "shared"), (3, "root"), (4, "mta"), (5, "exempt"), (6, "container")):
        users.add(person(uid, standing), Subject(id=uid))  # type: ignore[arg-type]
    users.add(person(7, "tenant"), Subject(id=7, scope=9))
    assert users.pick({1: 0.5, 2: 0.51}.__getitem__) == [(2, 1)]
    assert users.pick({1: 1.0, 2: 0.0}.__getitem__) == [(1, 1)]


def test_who_is_shown_is_not_forgotten_however_few_their_attempts() -> None:
    users = UserTotals(max_users=100)
    for _ in range(3):
        users.add(person(1, "tenant"), Subject(id=1))
    assert users.pick({1: 1.0}.__getitem__) == [(1, 3)]
    for uid in range(2, 1000):
        for _ in range(5):
            users.add(person(uid, "tenant"), Subject(id=uid))
    assert users.pick(lambda uid: float(uid == 1)) == [(1, 3)]
