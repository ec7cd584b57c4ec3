"""The history as `events` and `incidents` ask for it: filters, order, what there is more of, and how it is told."""

import ipaddress
import json
import re
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from smtpguard.cli import main
from smtpguard.cli.csv_output import escape_cell
from smtpguard.cli.events import COLUMNS, describe_event
from smtpguard.cli.past_source import PastSource
from smtpguard.model import NS, Mode
from smtpguard.policy.incidents import GAP_NS
from smtpguard.settings import HOUR_NS, MINUTE_NS
from smtpguard.state import statements
from smtpguard.state.event_query import EventQuery, parse_own, show_event, show_incident
from smtpguard.state.history import History
from smtpguard.state.incident_row import IncidentRow
from smtpguard.state.own_history import count_unplaced, find_source
from smtpguard.state.rows import ChangeRow, VerdictRow
from smtpguard.state.span import Span
from smtpguard.state.store import Store
from tests.support.zone import local_zone

_zone = local_zone("UTC")

NOW_NS = 1_771_418_368 * NS
HOSTILE = "\x1b[2J\u202e=cmd|' /C calc'!A0\n\uff21"


def verdict(number: int, **more: Any) -> VerdictRow:  # noqa: ANN401 - evidence
    attempt = {"port": 25, "address": "192.0.2.1", "script": "/home/web01/a.php:3", "sensor": "bpf"} | more
    return VerdictRow(
        time_ns=NOW_NS + number, uid=1001, netns=None, name="web01", rule=more.get("rule", "burst"), count=31, limit=30,
        window_ns=600 * NS, action="block", until_ns=NOW_NS + number + 1800 * NS, mode=more.get("mode", "enforce"),
        evidence={"connect": attempt, "files": [{"sha256": "ab12"}]},
    )  # fmt: skip


def change(number: int, event: str, mode: Mode = "enforce", **details: Any) -> ChangeRow:  # noqa: ANN401 - JSON
    return ChangeRow(
        time_ns=NOW_NS + number, uid=1001, name="web01", event=event, by="admin", reason=HOSTILE,
        details={"mode": mode, "who": "alice"} | details,
    )  # fmt: skip


def incident(number: int, *, is_over: bool = False) -> IncidentRow:
    return IncidentRow(
        uid=1000 + number, netns=None, name=f"web{number}", first_ns=NOW_NS, last_ns=NOW_NS + number, verdicts=1,
        connects=5, refused=2, peak_per_minute=5, destinations=1, rules=("burst",), mode="enforce", is_over=is_over,
        tops={"scripts": [("/a.php", 5)], "destinations": [("192.0.2.1", 5)]},
    )  # fmt: skip


@pytest.fixture
def path(tmp_path: Path) -> str:
    store = Store.open(str(tmp_path / "state.db"), boot_id="b", wall_ns=NOW_NS, max_bytes=1 << 26)
    rows: list[VerdictRow | ChangeRow] = [
        verdict(1),
        change(2, "block", block_kind="block", ports=[25], rule="burst"),
        verdict(3, address="2001:db8::1", port=587, script=None, rule="fanout", mode="dry-run"),
        change(4, "unblock", block_kind="block", ports=None, rule="burst"),
        change(5, "note"),
    ]
    store.run([*map(statements.add, rows), *(statements.put(incident(n), "") for n in (1, 2, 3))], durable=False)
    store.run([statements.add(change(6, "close", incident=incident(2).id))], durable=False)
    store.close()
    return str(tmp_path / "state.db")


def add_own(path: str, uid: int, address: bytes, first: int, last: int, connected: int = 1) -> None:
    """Connections from an own address, from and to so many nanoseconds after now."""
    first_ns, last_ns = NOW_NS + first, NOW_NS + last
    store = Store.open(path, boot_id="b", wall_ns=NOW_NS, max_bytes=1 << 26)
    row = statements.add_own_address(
        last_ns // HOUR_NS, uid, address, connected=connected, failed=1, first_ns=first_ns, last_ns=last_ns
    )
    store.run([row], durable=False)
    store.close()


@pytest.mark.parametrize(
    ("uid", "first", "last", "events", "incidents"),
    [
        (1001, 0, 6, [6, 5, 4, 3, 2, 1], [1]),
        (1001, -HOUR_NS + 3, -HOUR_NS + 3, [3, 2, 1], [1]),
        (1001, HOUR_NS + 5, HOUR_NS + 9, [6, 5], []),
        (1001, 2 * HOUR_NS, 2 * HOUR_NS, [], []),
        (1002, 0, 6, [], [2]),
    ],
)
def test_an_event_is_of_an_own_address_that_its_user_sent_from_then(
    path: str, uid: int, first: int, last: int, events: list[int], incidents: list[int]
) -> None:
    add_own(path, uid, b"\xc6\x33\x64\x07", first, last)
    add_own(path, uid, b"\xc6\x33\x64\x08", -9 * HOUR_NS, 9 * HOUR_NS)
    src = parse_own("198.51.100.7")
    assert found(path, src=src) == (events, False)
    with History(path) as history:
        rows, _ = history.find_incidents(EventQuery(span=Span(), src=src), is_open=False)
    assert [row.last_ns - NOW_NS for row, _ in rows] == incidents


def test_who_sent_from_an_own_address_the_busiest_first(path: str) -> None:
    query = EventQuery(span=Span(), src=parse_own("::ffff:198.51.100.7"))
    assert query.src is not None
    for uid, connected in ((1001, 3), (1002, 8), (1001, 2)):
        add_own(path, uid, query.src, 1, 2, connected)
    with History(path) as history:
        source = find_source(history, query)
        assert find_source(history, EventQuery(span=Span())) is None
    assert source is not None
    assert (source["address"], source["unknown"]) == ("198.51.100.7", 0)
    assert [(row["uid"], row["connected"], row["failed"]) for row in source["users"]] == [(1002, 8, 1), (1001, 5, 2)]


def test_attempts_without_an_own_address_are_counted_user_by_user(path: str) -> None:
    add_own(path, 1001, b"\1\2\3\4", 0, 1, 9)
    store = Store.open(path, boot_id="b", wall_ns=NOW_NS, max_bytes=1 << 26)
    minute = NOW_NS // MINUTE_NS
    for uid, connects, refused in ((1001, 7, 3), (1002, 20, 5)):
        row = statements.add_minute(minute, uid, connects=connects, refused=refused, messages=0, recipients=0)
        store.run([row], durable=False)
    store.close()
    with History(path) as history:
        assert count_unplaced(history, Span()) == 15, "what one user's say too much is not taken off another's"
        assert count_unplaced(history, Span(uid=1001)) == 0
        assert count_unplaced(history, Span(since_ns=NOW_NS + HOUR_NS)) == 0


def found(path: str, limit: int = 100, **query: Any) -> tuple[list[int], bool]:  # noqa: ANN401 - EventQuery's
    with History(path) as history:
        rows, more = history.find_events(EventQuery(span=Span(limit=limit), **query))
    return [row.time_ns - NOW_NS for row in rows], more


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, [6, 5, 4, 3, 2, 1]),
        ({"kinds": frozenset({"exceeded"})}, [3, 1]),
        ({"kinds": frozenset({"exceeded", "note"})}, [5, 3, 1]),
        ({"kinds": frozenset({"unblock"})}, [4]),
        ({"mode": "dry-run"}, [3]),
        ({"rule": "burst"}, [4, 2, 1]),
        ({"rule": "fanout"}, [3]),
        ({"port": 25}, [4, 2, 1]),
        ({"port": 587}, [4, 3]),
        ({"networks": (ipaddress.ip_network("192.0.2.0/24"),)}, [1]),
        ({"networks": (ipaddress.ip_network("2001:db8::/32"), ipaddress.ip_network("10.0.0.0/8"))}, [3]),
        ({"script": "a.php"}, [1]),
        ({"sha256": "ab"}, [3, 1]),
        ({"sha256": "b1"}, []),
    ],
)
def test_filters_leave_what_was_asked_for_the_newest_first(
    path: str, query: dict[str, Any], expected: list[int]
) -> None:
    assert found(path, **query) == (expected, False)


def test_it_is_said_whether_there_is_more(path: str) -> None:
    assert found(path, 6) == ([6, 5, 4, 3, 2, 1], False)
    assert found(path, 5) == ([6, 5, 4, 3, 2], True)
    assert found(path, 1, kinds=frozenset({"note"})) == ([5], False)


def test_an_account_that_is_gone_is_found_by_its_name(path: str) -> None:
    with History(path) as history:
        rows, _ = history.find_events(EventQuery(span=Span(name="web01")))
        assert len(rows) == 6
        assert history.find_events(EventQuery(span=Span(name="web02"))) == ([], False)
        assert history.find_events(EventQuery(span=Span(uid=1002))) == ([], False)


def test_an_event_has_the_fields_of_the_log_s_line() -> None:
    shown = show_event(verdict(1))
    assert {
        "kind": "exceeded",
        "user": "web01",
        "count": 31,
        "window": 600,
        "block": 1800,
        "dst": "192.0.2.1",
    }.items() <= shown.items()
    shown = show_event(change(2, "block", kind="not the event", block_kind="throttle", ports=[25]))
    assert (shown["kind"], shown["block_kind"], shown["who"], shown["by"]) == ("block", "throttle", "alice", "admin")


def test_incidents_are_open_until_somebody_closes_them(path: str) -> None:
    with History(path) as history:
        rows, more = history.find_incidents(EventQuery(span=Span(limit=2)), is_open=False)
        assert ([row.uid for row, _ in rows], more) == ([1003, 1002], True)
        rows, _ = history.find_incidents(EventQuery(span=Span()), is_open=True)
    assert [row.uid for row, _ in rows] == [1003, 1001]
    closed = show_incident(incident(2), change(6, "close"), NOW_NS)["closed"]
    assert (closed["by"], closed["reason"]) == ("alice", HOSTILE)
    assert show_incident(incident(1), None, NOW_NS + GAP_NS)["over"] is False
    assert show_incident(incident(1), None, NOW_NS + GAP_NS + 2)["over"] is True
    assert show_incident(incident(1, is_over=True), None, NOW_NS)["over"] is True


def run(path: str, *words: str, code: int = 0) -> str:
    config = Path(path).with_name("c.yaml")
    directory = Path(path).parent
    config.write_text(
        json.dumps({"version": 1, "state": {"path": path}, "control": {"socket": f"{directory}/none.sock"}}), "utf-8"
    )
    result = CliRunner().invoke(main, [words[0], "--config", str(config), *words[1:]])
    assert result.exit_code == code, result.output
    return result.stdout if not code else result.stderr


def test_without_a_daemon_the_file_is_read(path: str) -> None:
    answer = json.loads(run(path, "events", "--json", "--rows", "2"))
    assert [event["kind"] for event in answer["events"]] == ["close", "note"]
    assert answer["more"] is True
    answer = json.loads(run(path, "incidents", "--json", "--open"))
    assert [row["user"] for row in answer["incidents"]] == ["web3", "web1"]
    assert {"id", "first", "last", "rules", "scripts", "destinations", "over"} <= answer["incidents"][0].keys()
    assert "FIRST" in run(path, "incidents")
    times = ("--since", "2026-02-18 00:00", "--until", "2026-02-19")
    assert len(json.loads(run(path, "events", "--json", *times))["events"]) == 6


@pytest.mark.parametrize("command", ["events", "incidents", "why"])
def test_a_name_that_no_account_has_and_none_had_is_told_and_fails(path: str, command: str) -> None:
    words = ["why", "shpo"] if command == "why" else [command, "--user", "shpo"]
    told = run(path, *words, code=1)
    assert told.splitlines()[-1] == (
        'smtpguard: No account "shpo" on this host, and none in the history (give a login name, or uid:N)'
    )
    if command != "why":
        nothing = {"events": "Nothing of that kind has happened.\n", "incidents": "There are no such incidents.\n"}
        # No account here, and in the history: the answer is that nothing happened then.
        assert run(path, command, "--user", "web1", "--since", "2030-01-01") == nothing[command]
        assert "web" in run(path, command, "--user", "web01" if command == "events" else "web1")
        assert run(path, command, "--user", "web1" if command == "events" else "web01") == nothing[command]


def test_pages_hold_each_row_once(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smtpguard.cli.history_options.PAGE", 2)
    for rows, more in ((5, True), (6, False), (7, False)):
        answer = json.loads(run(path, "events", "--json", "--rows", str(rows)))
        assert (len(answer["events"]), answer["more"]) == (min(rows, 6), more)
        assert len({json.dumps(event) for event in answer["events"]}) == len(answer["events"])


def test_hostile_text_drives_no_terminal_and_is_no_formula(path: str) -> None:
    for words in ((), ("--csv",), ("--json",)):
        text = run(path, "events", *words)
        assert text.isascii()
        assert "\x1b" not in text
    lines = run(path, "events", "--csv").splitlines()
    assert lines[0] == ",".join(COLUMNS)
    assert len(lines) == 7
    for value in ("=1+1", "+1", "-1", "@x", "\t=1", "\r=1", "\n=1", " =1"):
        assert escape_cell(value)[:1] not in ("=", "+", "-", "@", "\t", "\r", "\n", " "), value
    assert "\n" not in describe_event(show_event(change(1, "note")))


def test_the_end_of_an_incident_names_it() -> None:
    told = describe_event(show_event(change(6, "close", incident="51bbdc18")))
    assert told.startswith("incident 51bbdc18, by alice, ")


def test_who_is_in_a_container_is_not_named_as_an_account_here() -> None:
    contained = replace(incident(1), netns=4026532000, name=None)
    assert show_incident(contained, None, NOW_NS)["user"] == f"uid:{contained.uid}@container"
    assert show_event(replace(verdict(1), netns=4026532000, name=None))["user"].endswith("@container")


@pytest.mark.parametrize(
    ("command", "sql"),
    [
        ("events", "UPDATE verdicts SET rule = 'text'"),
        ("events", "UPDATE changes SET details = '{'"),
        ("events", "UPDATE changes SET by = 5"),
        ("incidents", "UPDATE incidents SET rules = '5'"),
        ("incidents", "UPDATE incidents SET netns = 'x'"),
        # Rows that are not read before a report or a card is made of them.
        ("report", "INSERT INTO minutes VALUES (x'78', 1001, 3, 0, 0, 0)"),  # 60 GB, if it were multiplied
        ("report", "INSERT INTO losses VALUES (x'78', 'bpf: lost', 3, 0)"),
        ("report --since 2020-01-01", "UPDATE changes SET details = '{\"ports\": 5}', event = 'block'"),
        ("report --since 2020-01-01", "INSERT INTO own_addresses VALUES (480000, 1001, 'words', 3, 0, 1, 1)"),
        ("report --since 2020-01-01 --format html", "INSERT INTO watched VALUES (1771419000000000000, 'x')"),
        ("why uid:1001", "UPDATE verdicts SET evidence = '{\"connect\": 5}'"),
        ("why uid:1001 --json", 'UPDATE verdicts SET evidence = \'{"newest": [{"ctime": "x"}]}\''),
        ("why uid:1001", 'UPDATE verdicts SET evidence = \'{"newest": [{"ctime": 1e17}]}\''),
        ("events", "UPDATE changes SET details = replace(hex(zeroblob(2500)), '0', '[')"),
    ],
)
def test_a_file_whose_rows_are_of_another_kind_is_an_error_and_no_traceback(path: str, command: str, sql: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(sql)
        connection.commit()
    told = run(path, *command.split(), code=1)
    assert f"smtpguard: {path}: holds what no smtpguard has written, or smtpguard reads it wrong: " in told
    assert re.search(
        r"wrong: (Type|Value|Attribute|JSONDecode|AddressValue|Recursion|O\w+)Error: .* \(\w+\.py:\d+\)", told
    )
    assert "Traceback" not in told
    assert "ignored" not in told
    assert "move" not in told, "a mistake of smtpguard's own would lose blocks and history"


def test_too_little_memory_is_no_fault_of_the_file(path: str) -> None:
    def read(_history: History) -> dict[str, Any]:
        raise MemoryError

    run(path, "events")
    source = PastSource(str(Path(path).with_name("c.yaml")), None)
    with pytest.raises(MemoryError):
        source.ask("events", read)
