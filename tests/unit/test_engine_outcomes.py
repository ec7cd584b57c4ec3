"""Failures and bytes: what rules count from reports about sockets."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from smtpguard.model import NS, Refusal, SocketNews, SocketReport, Subject, Verdict
from smtpguard.policy import byte_windows
from smtpguard.policy.engine import Engine
from smtpguard.settings import HOUR_NS, MINUTE_NS, Rule
from tests.support.policy import BURST, T0, WEB, People, connect, engine_of, feed, only, person, settings_of

FAILURES = Rule(name="scan", count="failures", limit=3, window_ns=MINUTE_NS, action="block")
BYTES = Rule(name="volume", count="bytes", limit=1000, window_ns=MINUTE_NS, action="block")


def report(at_s: float, kind: SocketNews = "refused", sent: int = 0, cookie: int = 1, **more: Any) -> SocketReport:  # noqa: ANN401
    more = {"connect_time_ns": T0, "uid": WEB, "netns": None, "port": 25, "address": bytes([192, 0, 2, 1]), **more}
    return SocketReport(
        time_ns=T0 + round(at_s * NS),
        kind=kind,
        cookie=cookie,
        latency_ns=None,
        bytes_sent=sent,
        bytes_received=0,
        retransmissions=0,
        **more,
    )


def tell(engine: Engine, reports: Iterable[SocketReport]) -> list[Any]:
    return [decision for item in reports for decision in engine.report(item)]


@pytest.mark.parametrize("kind", ["refused", "timeout", "gave-up"])
def test_failures_count_however_they_failed(kind: SocketNews) -> None:
    engine = engine_of(FAILURES)
    assert tell(engine, (report(n, kind) for n in range(3))) == []
    [verdict, block] = tell(engine, [report(3, kind)])
    assert (verdict.rule, verdict.count, verdict.connect.port) == ("scan", 4, 25)
    assert block.mode == "enforce"
    assert only(Refusal, feed(engine, [4]))
    assert tell(engine, (report(n, kind) for n in range(5, 50))) == []


def test_what_went_well_is_no_failure() -> None:
    engine = engine_of(replace(FAILURES, limit=0))
    assert tell(engine, [report(0, "established"), report(1, "open", 5), report(2, "closed", 10)]) == []


def test_failures_and_connections_have_windows_of_their_own() -> None:
    engine = engine_of(FAILURES, BURST)
    feed(engine, (0, 1, 2))
    assert tell(engine, (report(n) for n in (0, 1, 2))) == []
    assert only(Verdict, tell(engine, [report(3)]))[0].rule == "scan"


def test_bytes_of_all_sessions_add_up() -> None:
    engine = engine_of(BYTES)
    assert tell(engine, [report(0, "open", 400), report(1, "open", 700), report(2, "open", 250, cookie=2)]) == []
    [verdict, _] = tell(engine, [report(3, "closed", 300, cookie=2), report(4, "open", 750)])
    assert (verdict.rule, verdict.count, verdict.limit) == ("volume", 1050, 1000)


def test_bytes_leave_the_window() -> None:
    engine = engine_of(BYTES)
    assert tell(engine, (report(40 * n, "open", 600 * (n + 1)) for n in range(2))) != []
    slow = engine_of(BYTES)
    assert tell(slow, (report(61 * n, "open", 600 * (n + 1)) for n in range(20))) == []


def test_session_from_before_the_sensor_begins_at_its_first_report() -> None:
    engine = engine_of(BYTES)
    old: dict[str, Any] = {"connect_time_ns": None}
    assert tell(engine, [report(0, "open", 10**9, **old), report(1, "open", 10**9 + 1000, **old)]) == []
    assert tell(engine, [report(2, "open", 10**9 + 1001, **old)]) != []


def test_cookie_that_is_used_again_is_another_session() -> None:
    engine = engine_of(replace(BYTES, limit=10**6))
    first: dict[str, Any] = {"connect_time_ns": T0}
    second: dict[str, Any] = {"connect_time_ns": T0 + 5}
    tell(engine, [report(0, "open", 500_000, **first), report(1, "open", 400_000, **second)])
    assert tell(engine, [report(2, "open", 500_001, **second)]) != []


def test_bytes_throttle_lasts_until_enough_has_left() -> None:
    engine = engine_of(replace(BYTES, action="throttle"))
    assert tell(engine, [report(0, "open", 300), report(10, "open", 900)]) == []
    [verdict, block] = tell(engine, [report(20, "open", 1250)])
    assert verdict.count == 1250
    assert block.until_ns == T0 + 60 * NS  # 300 leave at 60 s, and 950 are left


def test_open_session_in_a_throttle_is_still_counted_for_a_block() -> None:
    throttle = replace(BURST, action="throttle", limit=1)
    engine = engine_of(throttle, BYTES)
    feed(engine, (0, 1))
    assert only(Refusal, feed(engine, [2]))
    out = tell(engine, [report(3, "open", 5000)])
    assert [verdict.rule for verdict in only(Verdict, out)] == ["volume"]


def test_warn_on_bytes_is_told_once() -> None:
    engine = engine_of(replace(BYTES, action="warn"))
    out = tell(engine, (report(n, "open", 600 * (n + 1)) for n in range(300)))
    assert [verdict.count for verdict in only(Verdict, out)] == [1200]  # it stays over the limit all the time


def test_whom_it_may_hit_holds_for_reports_too() -> None:
    people = People([person(0, "root"), person(33, "shared"), person(1005, "exempt")])
    home = bytes([198, 51, 100, 7])
    engine = engine_of(replace(FAILURES, limit=0), people=people, why_exempt={home: "exempt"}.get)
    assert tell(engine, [report(0, uid=0), report(0, uid=1005), report(0, uid=None), report(0, address=home)]) == []
    assert [v.mode for v in only(Verdict, tell(engine, [report(0, uid=33)]))] == ["dry-run"]
    assert [v.why_dry for v in only(Verdict, tell(engine, [report(0, netns=4)]))] == ["container"]
    assert tell(engine, [report(0, port=443)]) == []


def test_reports_cost_nothing_without_such_rules() -> None:
    engine = engine_of(BURST)
    tell(engine, (report(n, uid=n) for n in range(100)))
    assert engine.stats().subjects == 0
    engine.reconfigure(settings_of(FAILURES), People(), T0)
    assert only(Verdict, tell(engine, (report(n) for n in range(4))))


def test_reload_and_unblock_treat_them_as_any_window() -> None:
    engine = engine_of(BYTES, FAILURES)
    tell(engine, [report(0, "open", 900), *[report(n) for n in range(3)]])
    engine.reconfigure(settings_of(BYTES, FAILURES), People(), T0 + 4 * NS)
    engine.commands.set_off(off=True)
    assert [v.rule for v in only(Verdict, tell(engine, [report(4), report(4, "open", 1800)]))] == ["scan"]
    engine.commands.set_off(off=False)
    engine.commands.unblock(Subject(id=WEB), by="admin", now_ns=T0 + 5 * NS)
    assert tell(engine, [report(6, "open", 2800), *[report(n) for n in range(6, 9)]]) == []


def test_a_window_of_bytes_is_bounded() -> None:
    volume = byte_windows.ByteWindow(replace(BYTES, window_ns=HOUR_NS, limit=10**12), frozenset({25}))
    for second in range(20_000):
        volume.add(T0 + second * NS, 10)
    assert len(volume.times) <= 2 * byte_windows.STEPS
    assert volume.held(T0 + 19_999 * NS) == 36_000


def test_late_bytes_count_with_the_newest_step() -> None:
    volume = byte_windows.ByteWindow(BYTES, frozenset({25}))
    volume.add(T0 + 10 * NS, 10)
    volume.add(T0, 5)
    assert (list(volume.times), volume.held(T0 + 10 * NS)) == ([T0 + 10 * NS], 15)


def test_sessions_are_bounded_and_lost_ends_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(byte_windows, "MAX_SESSIONS", 10)
    sessions = byte_windows.CountedSessions()
    assert [sessions.news(report(0, "open", 5, cookie=n)) for n in range(12)] == [5] * 10 + [0, 0]
    assert sessions.untracked == 2
    assert sessions.news(report(1, "closed", 9, cookie=11)) == 9  # what was not followed counts at its end
    assert sessions.news(report(4000, "open", 7, cookie=99)) == 7  # the ten were silent for an hour


def test_evidence_of_a_verdict_is_the_connection_of_the_report() -> None:
    [verdict, _] = tell(engine_of(replace(FAILURES, limit=0)), [report(1, cookie=77)])
    assert (verdict.connect.cookie, verdict.connect.uid, verdict.connect.address) == (77, WEB, connect(0).address)


def test_a_report_that_says_what_was_told_needs_no_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(byte_windows, "MAX_SESSIONS", 0)
    engine = engine_of(BYTES)
    assert tell(engine, [report(0, "open", 600, bytes_told=0), report(1, "open", 900, bytes_told=600)]) == []
    assert only(Verdict, tell(engine, [report(2, "closed", 1001, bytes_told=900)]))[0].count == 1001


def test_a_socket_that_hides_is_a_failure_where_bytes_count() -> None:
    engine = engine_of(FAILURES, BYTES)
    assert tell(engine, [report(n, "untracked", cookie=n) for n in range(3)]) == []
    assert only(Verdict, tell(engine, [report(3, "untracked")]))[0].rule == "scan"
    assert tell(engine_of(FAILURES), [report(n, "untracked", cookie=n) for n in range(9)]) == []
    elsewhere = replace(BYTES, ports=frozenset({587}))
    assert tell(engine_of(FAILURES, elsewhere), [report(n, "untracked", cookie=n) for n in range(9)]) == []


def test_a_session_that_is_followed_nowhere_has_sent_too_much() -> None:
    engine = engine_of(BYTES)
    tell(engine, [report(0, "open", 400, bytes_told=0)])
    [verdict, block] = tell(engine, [report(1, "unfollowed", cookie=2)])
    assert (verdict.rule, verdict.count, block.mode) == ("volume", 1001, "enforce")
    assert tell(engine, [report(2, "unfollowed", cookie=3)]) == [], "blocked already"
