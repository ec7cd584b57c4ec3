"""`why` about the past: what was in force at a moment, and whose a uid was."""

from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from smtpguard.cli.history_options import find_uid
from smtpguard.daemon.serve.history_command import find_past
from smtpguard.errors import GuardError
from smtpguard.model import NS
from smtpguard.report.why import build_why
from smtpguard.settings import DAY_NS, HOUR_NS, MINUTE_NS
from smtpguard.state import statements
from smtpguard.state.activity import Tally
from smtpguard.state.history import History
from smtpguard.state.holders import find_tenure
from smtpguard.state.past_blocks import find_past_blocks
from smtpguard.state.rows import ChangeRow
from smtpguard.state.store import Store
from smtpguard.state.user_history import collect_user

NOW_NS = 1_771_418_368 * NS
T0 = NOW_NS - DAY_NS


def change(event: str, minute: int, until: int | None = None, *, name: str = "web01", **details: Any) -> ChangeRow:  # noqa: ANN401 - JSON
    uid = None if event in ("off", "on") else 1001
    return ChangeRow(
        time_ns=T0 + minute * MINUTE_NS, uid=uid, name=None if uid is None else name, event=event, by="guard",
        until_ns=None if until is None else T0 + until * MINUTE_NS, reason="11 networks",
        details={"source": "guard", "mode": "enforce", "block_kind": "block", "rule": "r", "ports": [25]} | details
        if event in ("block", "extended", "unblock") else details,
    )  # fmt: skip


def held(minute: int, *rows: ChangeRow) -> list[tuple[str, str, bool]]:
    at_ns = T0 + minute * MINUTE_NS
    found = find_past_blocks([row for row in rows if row.time_ns <= at_ns], at_ns)
    return [(row["kind"], row["since"][14:16], row["suspended"]) for row in found]


def test_blocks_of_then_are_those_begun_and_not_ended() -> None:
    since = find_past_blocks([change("block", 0, 9)], T0)[0]["since"][14:16]
    rows = [change("block", 0, 10), change("extended", 8, 20), change("unblock", 30), change("block", 31, 90)]
    assert held(-1, *rows) == []
    assert held(5, *rows) == [("block", since, False)]
    assert held(15, *rows) == [("block", since, False)], "extended"
    assert held(25, *rows) == []
    assert len(held(40, *rows)) == 1
    assert held(40, *rows, change("unblock", 35)) == []
    assert len(held(40, *rows, change("unblock", 35, ports=[587]))) == 1, "another block's end"
    assert held(5, change("block", 0, 10, block_kind="throttle"), change("off", 1, 9)) == [("throttle", since, True)]
    assert held(5, change("block", 0, 10), change("off", 1), change("on", 2)) == [("block", since, False)]
    assert held(5, change("block", 0, 10), change("off", 1)) == [("block", since, True)], "for ever"
    assert [kind for kind, _, _ in held(5, change("allow", 0, 10))] == ["allow"]
    assert held(5, change("allow", 0, 10), change("allow", 3, 3)) == [], "ended"


def make_store(path: Path) -> Store:
    return Store.open(str(path / "s.db"), boot_id="b", wall_ns=NOW_NS, max_bytes=1 << 26)


def look(path: Path, **more: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
    with History(str(path / "s.db")) as history:
        return collect_user(history, **({"uid": 1001, "name": None, "now_ns": NOW_NS} | more))


def test_why_of_a_day_past_says_what_was_refused_then(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    store.run([statements.add(row) for row in (change("block", 0, 30), change("unblock", 20))], durable=False)
    store.close()
    then = look(tmp_path, now_ns=T0 + 10 * MINUTE_NS, is_past=True)
    why = build_why(None, then, "web01", is_past=True)
    assert why["verdict_for_customer"] == "us"
    assert why["verdict"].startswith("US: port 25 refused since ")
    assert look(tmp_path, now_ns=T0 + 25 * MINUTE_NS, is_past=True)["blocks"] == []


def test_what_a_uid_did_as_another_account_is_nobody_s_else_to_see(tmp_path: Path) -> None:
    """A panel gives numbers away again: the new customer is told nothing of the old one, nor the other way."""
    store = make_store(tmp_path)
    given_ns = NOW_NS - 5 * HOUR_NS
    minutes = round((given_ns - T0) / MINUTE_NS)
    tally = Tally()
    for hours, address in ((9, b"\x0a\0\0\1"), (1, b"\x0a\0\0\2")):
        tally.add_connect(
            1001,
            wall_ns=NOW_NS - hours * HOUR_NS,
            address=address,
            port=25,
            script=b"/home/%d.php" % hours,
            refused=False,
        )
        tally.add_outcome(1001, wall_ns=NOW_NS - hours * HOUR_NS, address=address, port=25, own=None, error="timed out")
    rows = [
        change("note", minutes - 300, name="old", who="root"), change("block", minutes, minutes + 9, name="old"),
        change("note", minutes + 120, name="new", who="root"),
    ]  # fmt: skip
    store.run([*tally.take(), *map(statements.add, rows)], durable=False)
    store.close()
    new = look(tmp_path, names=("new",))
    assert (new["day"], [row["address"] for row in new["destinations"]]) == ([1, 0], ["10.0.0.2"])
    assert [row["script"] for row in new["scripts"]] == ["/home/1.php"]
    assert [event["user"] for event in new["events"]] == ["new"]
    old = look(tmp_path, uid=None, name="old")
    assert (old["uid"], old["day"], [row["address"] for row in old["destinations"]]) == (1001, [1, 0], ["10.0.0.1"])
    assert {event["user"] for event in old["events"]} == {"old"}
    both = look(tmp_path)
    assert both["day"] == [2, 0], "whose name is not known sees the number's"


def test_tenure_is_what_events_tell() -> None:
    rows = [change("note", n, name=name) for n, name in ((9, "new"), (7, "new"), (5, "old"), (3, "old"), (1, "older"))]

    def at(minute: int) -> int:
        return T0 + minute * MINUTE_NS

    assert find_tenure(rows, ["new"], is_living=True) == (at(5), None)
    assert find_tenure(rows[2:], ["new"], is_living=True) == (at(5), None), "before it did anything"
    assert find_tenure(rows, ["old"], is_living=False) == (at(1), at(7))
    assert find_tenure(rows, [], is_living=True) == (0, None)
    assert find_tenure([], ["new"], is_living=True) == (0, None)


def test_a_name_is_found_as_the_log_writes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"corp user": 61_001}
    monkeypatch.setattr("pwd.getpwnam", lambda name: Mock(pw_uid=known[name]))
    assert find_uid("corp%20user") == (61_001, None)
    assert find_uid("gone%20user") == (None, "gone user")
    assert find_uid("100%") == (None, "100%")
    assert (find_uid("uid:7"), find_uid("0007"), find_uid("")) == ((7, None), (7, None), (None, None))
    accounts = Mock(lookup=Mock(by_person=Mock(side_effect=GuardError("no such account"))))
    assert find_past(accounts, "gone%20user") == (None, "gone user")


def test_ports_of_the_last_14_days_are_known_without_reading_all_places(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    tally = Tally()
    for days, port in ((20, 465), (10, 587), (0, 25)):
        when_ns = NOW_NS - days * DAY_NS
        tally.add_connect(1001, wall_ns=when_ns, address=bytes(4), port=port, script=None, refused=False)
    tally.add_connect(1001, wall_ns=NOW_NS, address=bytes(4), port=2525, script=None, refused=False, is_counted=False)
    store.run(tally.take(), durable=False)
    store.close()
    assert look(tmp_path)["ports"] == [25, 587, 2525]
