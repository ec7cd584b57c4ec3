"""The record that a running guard keeps: read back from the file, beside the daemon and after it was killed."""

import json
import re
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import Any

import pytest

from smtpguard.demo.lab import HOST4, HOST6, PEER4, PEER6
from smtpguard.state.history import History
from smtpguard.state.rows import ChangeRow
from smtpguard.state.span import Span
from smtpguard.text import parse_address
from tests.support.host import INNOCENT, SPAMMER, Host, wait_for
from tests.support.past import list_changes, list_incidents, list_verdicts

pytestmark = pytest.mark.kernel

RULE = {"name": "burst", "count": "connections", "limit": 30, "window": "10m", "action": "block", "block": "30m"}
CALM = {"blocks": 100, "per": "10m"}
WEB = SPAMMER[1]


@pytest.fixture
def host() -> Iterator[Host]:
    with Host(rules=[RULE], breaker=CALM, ports=[25, 2526]) as made:
        made.start()
        yield made


def figures(host: Host, uid: int) -> tuple[int, int]:
    """Attempts and refused ones, as the history has them."""
    with History(f"{host.lab.directory}/state.db") as history:
        totals = history.top_users(Span(uid=uid))
    return (totals[0].connects, totals[0].refused) if totals else (0, 0)


def changes(host: Host, *events: str) -> list[ChangeRow]:
    """What was done, the oldest first."""
    with History(f"{host.lab.directory}/state.db") as history:
        return [row for row in reversed(list_changes(history, Span())) if row.event in events]


def is_kept(host: Host, uid: int, connects: int, refused: int) -> bool:
    """Whether the file has a user's attempts and what became of them: summed up each second, written in the next."""
    if figures(host, uid) != (connects, refused):
        return False
    with closing(sqlite3.connect(f"file:{host.lab.directory}/state.db?mode=ro", uri=True)) as file:
        (ended,) = file.execute("SELECT sum(connected + failed) FROM outcomes WHERE uid = ?", (uid,)).fetchone()
    with History(f"{host.lab.directory}/state.db") as history:
        told = [incident.refused for incident in list_incidents(history, Span(uid=uid))]
    return ended == connects - refused and told == ([refused] if refused else [])


def in_log(host: Host, uid: int) -> tuple[int, int]:
    rows = [row for row in host.events("CONNECT") if row["UID"] == str(uid)]
    return len(rows), sum(row["RESULT"] == "refused" for row in rows)


def test_what_happened_a_second_ago_is_there_and_survives_sigkill(host: Host) -> None:
    done = host.connect(SPAMMER, 50, 400, to=[PEER4, PEER6])
    host.connect(INNOCENT, 7, 400)
    wait_for(lambda: in_log(host, WEB)[0] == 50 and in_log(host, INNOCENT[1])[0] == 7)
    wait_for(lambda: is_kept(host, WEB, 50, done.refused) and is_kept(host, INNOCENT[1], 7, 0), 6)
    host.stop(signal.SIGKILL)
    assert figures(host, WEB) == in_log(host, WEB) == (50, done.refused)
    assert figures(host, INNOCENT[1]) == (7, 0)
    with History(f"{host.lab.directory}/state.db") as history:
        places = history.top_places(Span(uid=WEB), "address")
        (incident,) = list_incidents(history, Span())
        (verdict,) = list_verdicts(history, Span())
    logged = Counter(parse_address(row["DST"]) for row in host.events("CONNECT") if row["UID"] == str(WEB))
    assert {place.key: place.connects for place in places} == logged
    assert (incident.uid, incident.mode) == (WEB, "enforce")
    assert done.refused == incident.refused <= incident.connects <= 50, "what came since the verdict, or was on its way"
    assert verdict.evidence["connect"]["port"] == 25
    (block,) = changes(host, "block")
    (line,) = host.events("BLOCK")
    assert (block.uid, block.by, block.details["rule"]) == (WEB, line["BY"], line["RULE"])
    host.start()
    assert figures(host, WEB) == (50, done.refused), "and nothing is counted twice"


def test_a_source_that_tells_no_own_address_says_so() -> None:
    with Host(rules=[RULE], breaker=CALM, sources=["nflog"]) as host:
        host.start()
        host.connect(INNOCENT, 4)
        wait_for(lambda: figures(host, INNOCENT[1]) == (4, 0), 5)
        wait_for(lambda: "not known (4)" in host.cli("why", INNOCENT[0]).stdout)
        source = shown(host, "events", "--src", HOST4)["source"]
        assert (source["users"], source["unknown"]) == ([], 4)
        assert "Of 4 attempts it is not known" in host.cli("events", "--src", HOST4).stdout


def test_a_clean_stop_loses_nothing(host: Host) -> None:
    host.connect(INNOCENT, 20)
    host.stop()
    assert figures(host, INNOCENT[1]) == in_log(host, INNOCENT[1]) == (20, 0)
    assert [row.event for row in changes(host, "start", "stop")] == ["start", "stop"]
    with sqlite3.connect(f"{host.lab.directory}/state.db") as file:
        ((since_ns, until_ns),) = file.execute("SELECT since_ns, until_ns FROM watched").fetchall()
    assert 0 < until_ns - since_ns < 60e9
    assert abs(time.time_ns() - until_ns) < 5e9


def test_what_became_of_connections_is_kept_and_from_which_own_address_they_came(host: Host) -> None:
    host.connect(INNOCENT, 5, 200)
    assert host.connect(INNOCENT, 3, 200, port=2526, to=[PEER4, PEER4, PEER6]).errors == {"ECONNREFUSED": 3}
    host.connect(SPAMMER, 31, 400, to=[PEER6])
    wait_for(lambda: len(host.events("EXCEEDED")) == 1)
    wait_for(lambda: is_kept(host, WEB, 31, 1) and is_kept(host, INNOCENT[1], 8, 0), 6)
    own = shown(host, "why", INNOCENT[0])["own_addresses"]
    assert [(row["address"], row["connected"], row["failed"]) for row in own] == [(HOST4, 5, 2), (HOST6, 0, 1)]
    assert re.search(rf"^from +{HOST4} \(7\), {HOST6} \(1\)$", host.cli("why", INNOCENT[0]).stdout, re.MULTILINE)
    found = shown(host, "events", "--src", HOST6)
    assert [(event["kind"], event["user"]) for event in found["events"]] == [
        ("block", SPAMMER[0]),
        ("exceeded", SPAMMER[0]),
    ]
    figures = [(row["user"], row["connected"], row["failed"]) for row in found["source"]["users"]]
    assert (figures, found["source"]["unknown"]) == ([(SPAMMER[0], 30, 0), (INNOCENT[0], 0, 1)], 0)
    assert shown(host, "events", "--src", HOST4)["events"] == [], "the flood never came from there"
    assert len(shown(host, "incidents", "--src", HOST6)["incidents"]) == 1
    assert shown(host, "incidents", "--src", f"::ffff:{HOST4}")["incidents"] == []
    host.stop(signal.SIGKILL)
    again = shown(host, "events", "--src", HOST6)
    assert (again["events"], again["source"]) == (found["events"], found["source"]), "the same without a daemon"
    with sqlite3.connect(f"{host.lab.directory}/state.db") as file:
        rows = file.execute(
            "SELECT port, connected, failed, error FROM outcomes WHERE uid = ? ORDER BY port, failed DESC", INNOCENT[1:]
        )
        assert rows.fetchall() == [
            (25, 5, 0, None),
            (2526, 0, 2, "refused by the other side"),
            (2526, 0, 1, "refused by the other side"),
        ]


def test_every_change_has_who_made_it(host: Host) -> None:
    for words in (
        ("block", SPAMMER[0], "--for", "10m", "--reason", "seen"),
        ("unblock", SPAMMER[0]),
        ("allow", INNOCENT[0], "--for", "1h"),
        ("off",),
        ("on",),
        ("reload",),
    ):
        assert host.cli(*words).returncode == 0
    host.connect(SPAMMER, 40, 400)
    host.stop()
    found = [
        (row.event, row.uid, row.by, row.details.get("who", ""))
        for row in changes(host, "block", "unblock", "allow", "off", "on", "reload")
    ]
    assert found == [
        ("block", WEB, "admin", "root"),
        ("unblock", WEB, "admin", "root"),
        ("allow", INNOCENT[1], "admin", "root"),
        ("off", None, "admin", "root"),
        ("on", None, "admin", "root"),
        ("reload", None, "admin", "root"),
        ("block", WEB, "guard", ""),
    ]


def test_a_restart_forgets_neither_earlier_blocks_nor_who_has_sent(host: Host) -> None:
    host.configure(rules=[RULE | {"block": "2s"}], escalation={"factor": 4, "still_trying": "end"})
    assert host.cli("reload").returncode == 0
    assert host.connect(SPAMMER, 31, 400).refused == 1
    wait_for(lambda: host.events("UNBLOCK"), 6)
    host.stop(signal.SIGKILL)
    with sqlite3.connect(f"{host.lab.directory}/state.db") as file:  # windows may be lost, the memory must not be
        file.execute("DELETE FROM windows")
        assert file.execute("SELECT level FROM escalation WHERE uid = ?", (WEB,)).fetchall() == [(1,)]
        assert file.execute("SELECT port FROM seen WHERE uid = ?", (WEB,)).fetchall() == [(25,)]
    file.close()
    host.start()
    assert host.connect(SPAMMER, 31, 400).refused == 1
    host.stop()
    lengths = [row.until_ns - row.time_ns for row in changes(host, "block") if row.until_ns]
    assert [round(length / 1e9) for length in lengths] == [2, 8]


def shown(host: Host, *words: str) -> dict[str, Any]:
    done = host.cli(*words, "--json")
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_events_and_incidents_say_at_once_what_happened_and_the_same_without_the_daemon(host: Host) -> None:
    host.connect(SPAMMER, 50, 400)
    assert host.cli("unblock", SPAMMER[0]).returncode == 0
    events = shown(host, "events", "--user", SPAMMER[0])["events"]
    assert [event["kind"] for event in events] == ["unblock", "block", "exceeded"], "no second has to pass"
    assert (events[0]["by"], events[0]["who"]) == ("admin", "root")

    def list_lines() -> list[Mapping[str, str]]:
        return [row for row in host.events() if row["EVENT"] in ("EXCEEDED", "BLOCK", "UNBLOCK")]

    wait_for(lambda: len(list_lines()) == 3)
    lines = list_lines()
    for line, event in zip(lines, reversed(events), strict=True):
        for name in {name.lower() for name in line} & event.keys() - {
            "time",
            "event",
            "kind",
            "until",
            "reason",
            "ports",
        }:
            wanted = None if line[name.upper()] == "-" else line[name.upper()]
            assert wanted in (str(event[name]), event[name]), (name, line, event)
    assert shown(host, "events", "--kind", "exceeded", "--port", "587")["events"] == []
    assert len(shown(host, "events", "--kind", "exceeded", "--dst", f"{PEER4}/32")["events"]) == 1
    (incident,) = shown(host, "incidents", "--open")["incidents"]
    assert (incident["user"], incident["over"], incident["mode"]) == (SPAMMER[0], False, "enforce")
    assert host.cli("incidents", "close", incident["id"][:6], "--reason", "site cleaned").returncode == 0
    assert shown(host, "incidents", "--open")["incidents"] == []
    assert shown(host, "incidents")["incidents"][0]["closed"]["by"] == "root"
    assert host.cli("note", SPAMMER[0], "told", "the", "customer").returncode == 0
    before = shown(host, "events")["events"]
    assert (before[0]["kind"], before[0]["reason"]) == ("note", "told the customer")
    host.stop()
    after = shown(host, "events")["events"]
    assert (after[0]["kind"], after[1:]) == ("stop", before)
    assert host.cli("incidents", "close", incident["id"]).returncode == 3


def test_a_reader_that_takes_its_time_delays_no_write(host: Host) -> None:
    host.connect(INNOCENT, 5)
    wait_for(lambda: figures(host, INNOCENT[1]) == (5, 0))
    with sqlite3.connect(f"{host.lab.directory}/state.db", isolation_level=None) as slow:
        slow.execute("BEGIN")
        assert slow.execute("SELECT sum(connects) FROM minutes").fetchone() == (5,)
        host.connect(INNOCENT, 5)
        wait_for(lambda: figures(host, INNOCENT[1]) == (10, 0), 5)
        assert host.cli("block", SPAMMER[0], "--for", "5m").returncode == 0
        assert slow.execute("SELECT sum(connects) FROM minutes").fetchone() == (5,), "it still sees what it saw"
    slow.close()


def test_why_says_whose_fault_it_is_with_and_without_a_daemon(host: Host) -> None:
    done = host.connect(SPAMMER, 50, 400, to=[PEER4, PEER6])
    assert host.connect(INNOCENT, 3, 200, port=2526).errors == {"ECONNREFUSED": 3}
    wait_for(lambda: in_log(host, WEB)[0] == 50)
    wait_for(lambda: is_kept(host, WEB, 50, done.refused) and is_kept(host, INNOCENT[1], 3, 0), 6)
    why = shown(host, "why", SPAMMER[0])
    assert (why["verdict_for_customer"], why["user"], why["standing"]) == ("us", SPAMMER[0], "tenant")
    assert (why["blocks"][0]["rule"], why["rules"][0]["limit"]) == ("burst", 30)
    logged = Counter((row["DST"], row["RESULT"]) for row in host.events("CONNECT") if row["UID"] == str(WEB))
    for place in why["destinations"]:
        passed, refused = logged[place["address"], "allowed"], logged[place["address"], "refused"]
        assert (place["count"], place["refused"], place["connected"]) == (passed + refused, refused, passed)
    assert (why["attempts"]["hour"], why["refused"]["hour"]) == in_log(host, WEB) == (50, done.refused)
    card = host.cli("why", SPAMMER[0]).stdout.splitlines()
    assert card[0].startswith("US: all SMTP ports refused since ")
    assert len(card) < 24
    assert max(map(len, card)) <= 80
    host.lab.lay_over("/etc/hosts", f"{PEER4} mx1.example.co.uk\n{PEER6} mx2.example.co.uk\n")
    named = shown(host, "why", SPAMMER[0], "--names")["destinations"]
    assert {(place["name"], place["provider"]) for place in named} == {
        ("mx1.example.co.uk", "example.co.uk"),
        ("mx2.example.co.uk", "example.co.uk"),
    }
    report = json.loads(host.cli("report", "--names", "--format", "json").stdout)
    assert [(row["provider"], row["addresses"]) for row in report["providers"]] == [("example.co.uk", 2)]
    other = shown(host, "why", f"uid:{INNOCENT[1]}")
    assert other["verdict_for_customer"] == "unknown", "nobody watched most of the last hour"
    assert other["destinations"][0]["last_failure"]["error"] == "refused by the other side"
    assert other["rules"][0]["now"] == 3
    host.stop(signal.SIGKILL)
    after = shown(host, "why", SPAMMER[0])
    assert after["verdict_for_customer"] == "us", "the kernel goes on"
    for key in ("destinations", "attempts", "refused", "incident"):
        assert after[key] == why[key]
    host.start()
    assert host.cli("unblock", SPAMMER[0]).returncode == 0
    again = shown(host, "why", SPAMMER[0])
    assert (again["blocks"], again["changes"][0]["kind"], again["changes"][0]["who"]) == ([], "unblock", "root")
    assert "unblock at" in host.cli("why", SPAMMER[0]).stdout
    assert host.cli("why", "nobody-of-this-host").returncode == 1


def test_a_watched_user_has_half_of_each_limit_until_somebody_says_otherwise(host: Host) -> None:
    calm = {"name": "calm", "count": "connections", "limit": 21, "window": "10m", "action": "warn"}
    slow = {"name": "slow", "ports": [25], "count": "networks", "limit": 40, "window": "24h", "action": "warn"}
    host.configure(rules=[RULE, calm, slow])
    assert host.cli("reload").returncode == 0

    def first_refused() -> int | None:
        assert host.cli("unblock", SPAMMER[0]).returncode == 0
        return host.connect(SPAMMER, 35, 400).first_refused

    assert first_refused() == 30
    (incident,) = shown(host, "incidents", "--open")["incidents"]
    closed = host.cli("incidents", "close", incident["id"], "--watch", "7d", "--reason", "cleaned")
    assert f"Undo: smtpguard incidents unwatch {SPAMMER[0]}" in closed.stdout, closed.stderr
    assert first_refused() == 15, "the kernel's limit"

    def list_calm() -> list[str]:
        return [row["COUNT"] for row in host.events("EXCEEDED") if (row["RULE"], row["LIMIT"]) == ("calm", "10")]

    wait_for(list_calm)
    assert list_calm() == ["11"]
    assert first_refused() == 15
    host.stop(signal.SIGKILL)
    assert host.stderr().count(f"{SPAMMER[0]} is WATCHED until") == 1, "at the first warning"
    host.start()
    assert first_refused() == 15
    assert host.stderr().count("is WATCHED until") <= 1, "and not again"
    wait_for(lambda: shown(host, "why", SPAMMER[0])["destinations"])  # written a second after all is known of them
    why = shown(host, "why", SPAMMER[0])
    assert [rule["limit"] for rule in why["rules"]] == [15, 10, 20]
    assert [rule["limit_by"] for rule in why["rules"]] == ["watch"] * 3
    usual = why["rules"][2]["usual"]
    assert usual.pop("days") in (1, 2), "it may have been midnight"
    assert usual == {"p50": 1, "p95": 1}, "one network"
    assert why["watch"]["reason"] == "cleaned"
    assert "limits are halved until" in host.cli("why", SPAMMER[0]).stdout
    assert f"watched: {SPAMMER[0]}: limits are halved until" in host.cli("status").stdout
    until = why["watch"]["until"][:16].replace("T", " ")
    assert host.cli("exempt", SPAMMER[0]).stdout.endswith(f": tenant; watched until {until}: limits are halved\n")
    assert host.cli("exempt", INNOCENT[0]).stdout.endswith(": tenant\n")
    assert re.search(rf"^{SPAMMER[0]} +{WEB} +{until} +admin +cleaned$", host.cli("blocks").stdout, re.MULTILINE)
    rows = json.loads(host.cli("blocks", "--json").stdout)
    assert {row["kind"] for row in rows} == {"block"}, "a watch is none"
    assert host.cli("allow", SPAMMER[0], "--for", "1h").returncode == 0
    for words in (["why", SPAMMER[0]], ["status"], ["blocks"], ["exempt", SPAMMER[0]]):
        told = host.cli(*words).stdout
        assert "limits are not halved, an allowance counts until" in told, words
        assert "are halved" not in told, words
    assert host.cli("allow", SPAMMER[0], "--end").returncode == 0
    assert host.cli("incidents", "unwatch", SPAMMER[0]).returncode == 0
    assert first_refused() == 30
    assert host.cli("incidents", "close", incident["id"], "--watch", "2s").returncode == 0
    wait_for(lambda: [row.by for row in changes(host, "unwatch")] == ["admin", "time"], 5)
    assert first_refused() == 30
    assert host.cli("incidents", "close", incident["id"], "--watch", "40d").returncode == 1
