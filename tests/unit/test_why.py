"""`why`: whose fault it is, and a card that fits 80x24 whatever it has to say."""

import re
from pathlib import Path
from typing import Any

import pytest

from smtpguard.model import NS
from smtpguard.report.why import build_why
from smtpguard.report.why_card import render_card
from smtpguard.settings import DAY_NS, HOUR_NS, MINUTE_NS
from smtpguard.state import statements
from smtpguard.state.activity import Tally
from smtpguard.state.history import History
from smtpguard.state.rows import ChangeRow, VerdictRow
from smtpguard.state.store import Store
from smtpguard.state.user_history import collect_user, count_usual, find_blind
from tests.support.zone import local_zone

_zone = local_zone("UTC")

NOW_NS = 1_771_418_368 * NS
HOSTILE = b"/home/w/\x1b[31m\xe2\x80\xae\xef\xbc\xa1\n=x.php:41"
RULE = {
    "name": "burst",
    "ports": None,
    "count": "connections",
    "limit": 30,
    "window": 600,
    "action": "block",
    "mode": "enforce",
}
BLOCK = {
    "user": "web01", "uid": 1001, "netns": None, "kind": "block", "ports": [25], "since": NOW_NS / NS - 60,
    "until": NOW_NS / NS + 1740, "by": "guard", "rule": "mx-fanout", "why": "11 networks", "mode": "enforce",
    "suspended": False, "level": 0, "refused": 7,
}  # fmt: skip


def live(**more: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
    return {
        "user": "web01", "uid": 1001, "standing": "tenant", "standing_why": "", "why_dry": "", "mode": "enforce",
        "is_seeing": True, "blocks": [], "rules": [RULE | {"now": 3}],
    } | more  # fmt: skip


def past(**more: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
    return {
        "uid": 1001,
        "time": "2026-02-18T13:39:28+01:00",
        "hour": [14, 0],
        "day": [20, 0],
        "usual": {"10": {"p50": 2, "p95": 9, "days": 14}},
        "destinations": [],
        "scripts": [],
        "own_addresses": [],
        "own_unknown": 0,
        "events": [],
        "incident": None,
        "evidence": {},
        "blind": [],
    } | more


def place(**more: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
    return {
        "address": "203.0.113.9", "name": None, "provider": None, "port": 587, "count": 14, "refused": 0,
        "connected": 2, "failed": 12, "last_failure": {"error": "timed out", "time": "2026-02-18T13:38:00+01:00"},
    } | more  # fmt: skip


@pytest.mark.parametrize(
    ("now", "then", "verdict", "sentence"),
    [
        (live(blocks=[BLOCK]), past(), "us", r"US: port 25 refused since \d\d:\d\d, until \d\d:\d\d, rule mx-fanout"),
        (
            live(blocks=[BLOCK | {"kind": "throttle", "rule": None, "by": "admin"}]),
            past(),
            "us",
            "US: port 25 only slowed down since .* by admin",
        ),
        (
            live(blocks=[BLOCK | {"mode": "dry-run"}]),
            past(),
            "not_us",
            "NOT US: 14 attempts in the last hour, none refused here",
        ),
        (live(blocks=[BLOCK | {"suspended": True}]), past(), "not_us", "NOT US: .*"),
        (live(blocks=[BLOCK | {"kind": "allow"}]), past(hour=[0, 0]), "not_us", "NOT US: no attempt in the last hour"),
        (live(), past(hour=[14, 2]), "us", "US: 2 attempts refused here in the last hour; nothing is refused now"),
        (
            live(),
            past(destinations=[place()], failed_hour=12),
            "not_us",
            "NOT US: 14 attempts in the last hour, none refused here; 12 failed outside: 203.0.113.9:587 timed out",
        ),
        (
            live(),
            past(blind=[["2026-02-18T13:10:00+01:00", "2026-02-18T13:40:00+01:00"]]),
            "unknown",
            "UNKNOWN: blind 13:10 to 13:40; 14 attempts.*",
        ),
        (live(is_seeing=False), past(), "unknown", "UNKNOWN: blind now; .*"),
        (None, past(), "unknown", "UNKNOWN: blind now; .*"),
        (
            None,
            past(blocks=[{**BLOCK, "since": "2026-02-18T13:00:00", "until": "2026-02-18T14:00:00"}]),
            "us",
            "US: port 25 refused since 13:00, until 14:00, rule mx-fanout",
        ),
    ],
)
def test_the_first_line_answers_a_customer_s_call(
    now: dict[str, Any] | None, then: dict[str, Any], verdict: str, sentence: str
) -> None:
    import re

    why = build_why(now, then, None)
    assert why["verdict_for_customer"] == verdict
    assert re.fullmatch(sentence, why["verdict"]), why["verdict"]
    assert render_card(why)[0] == why["verdict"][:80].strip() or render_card(why)[0].startswith(why["verdict"][:77])


def test_the_object_has_what_the_contract_says() -> None:
    why = build_why(live(), past(), None)
    assert {
        "user", "uid", "standing", "account", "blocks", "rules", "incident", "scripts", "destinations", "files",
        "commands", "verdict_for_customer",
    } <= why.keys()  # fmt: skip
    (rule,) = why["rules"]
    assert {"name", "count", "limit", "window", "action", "mode", "now", "usual"} <= rule.keys()
    assert rule["usual"] == {"p50": 2, "p95": 9, "days": 14}
    assert rule["next"] == "passes"
    assert build_why(live(rules=[RULE | {"now": 30}]), past(), None)["rules"][0]["next"] == "block"


def show_rule(blocks: list[dict[str, Any]] | None = None, then: dict[str, Any] | None = None, **more: Any) -> Any:  # noqa: ANN401 - JSON
    return build_why(live(rules=[RULE | more], blocks=blocks or []), then or past(), None)["rules"][0]


def test_what_is_usual_is_said_of_the_rules_whose_figures_it_is() -> None:
    usual = {"p50": 2, "p95": 9, "days": 14}
    assert show_rule(now=3)["usual"] == usual
    assert show_rule(now=0, ports=[25])["usual"] is None, "on which ports is not known"
    assert show_rule(then=past(ports=[25]), now=0, ports=[25])["usual"] == usual, "they went nowhere else"
    assert show_rule(then=past(ports=[25, 587]), now=0, ports=[25])["usual"] is None
    assert show_rule(now=3, count="networks")["usual"] is None
    assert show_rule(now=3, window=7200)["usual"] is None


def test_the_next_attempt_gets_what_is_in_force_else_what_the_rule_says() -> None:
    assert show_rule(now=29)["next"] == "passes"
    assert show_rule(now=30)["next"] == "block"
    assert show_rule([BLOCK], now=0)["next"] == "refused", "the block emptied the counters"
    assert show_rule([BLOCK | {"kind": "throttle"}], now=0)["next"] == "throttled"
    assert show_rule([BLOCK], now=0, ports=[587])["next"] == "passes", "other ports"
    for passing in ({"mode": "dry-run"}, {"suspended": True}, {"kind": "allow"}):
        assert show_rule([BLOCK | passing], now=0)["next"] == "passes"


def test_the_card_never_says_that_a_block_refused_what_others_did() -> None:
    """What the record has of 24 h is not this block's alone; an allowance refused none."""

    def card(**more: Any) -> str:  # noqa: ANN401 - JSON
        then = past(destinations=[place(refused=7, port=25)], usual={"60": {"p50": 4, "p95": 9, "days": 1}})
        return "\n".join(render_card(build_why(live(blocks=[BLOCK | more]), then, None)))

    assert "refused 5; in 24 h 7 to 203.0.113.9" in card(refused=5)
    assert "not known; in 24 h 7 to 203.0.113.9" in card(refused=None)
    assert "refused 0; in 24 h 7 to 203.0.113.9" in card(refused=0), "after a restart it counts anew"
    allowed = card(kind="allow", by="admin", ports=None, rule=None, refused=7, why="-")
    assert re.search(
        r"blocks       allowed to send more until \d\d:\d\d by admin\n             since \d\d:\d\d\n", allowed
    )
    assert "7 to 203.0.113.9" not in allowed
    assert ", suspended" in card(suspended=True)
    for kind, told in (("enforce", "only blocks by hand refuse"), ("dry-run", "nobody is refused")):
        then = live(mode="dry-run", blocks=[BLOCK | {"mode": kind}])
        assert f"dry run: {told}" in "\n".join(render_card(build_why(then, past(), None)))
    assert ", dry run" in card(mode="dry-run")
    assert "usual in 1 h: 4, seldom over 9 (of 1 day)" in card(), "the attack itself, perhaps"


def test_the_card_says_what_an_administrator_asks_at_three() -> None:
    script = {
        "script": "/home/web01/public_html/wp-content/plugins/x/send.php", "line": 41, "count": 65, "attr": "live",
        "owner": 1001, "ctime": "2026-02-18T13:00:00+01:00", "sha256": "ab" * 32,
        "stack": ["send\\x20/home/web01/x/send.php:41", "{main}\\x20/home/web01/index.php:3"],
        "drivers": [{"address": "198.51.100.9", "count": 1}],
    }  # fmt: skip
    unnamed = script | {"script": None, "line": None, "count": 35, "stack": [], "drivers": [], "sha256": None}
    rule = RULE | {"name": "mx-fanout", "now": 0, "ports": [25], "count": "networks", "limit_by": "users[2]"}
    then = past(
        scripts=[script, unnamed], destinations=[place(refused=7, port=25)],
        usual={"60": {"p50": 4, "p95": 9, "days": 3}},
        evidence={"newest": [{"path": "/home/web01/public_html/new.php", "ctime": 1_771_418_000.5, "owner": 1001}]},
    )  # fmt: skip
    why = build_why(live(blocks=[BLOCK], rules=[rule, RULE | {"name": "hourly", "now": 29}]), then, None)
    card = "\n".join(render_card(why))
    for wanted in (
        *(
            "refused 7: 7 to 203.0.113.9",
            "by guard, rule mx-fanout",
            "mx-fanout: 0 of 30 networks in 10 min, block; next refused; by",
        ),
        *("hourly: 29 of 30", "65 by ...", "send.php:41 (live)"),
        *("called by index.php:3, asked by 198.51.100.9", "35 more whose script was not looked at", "owner 1001"),
        *("sha256 abababababababab", "newest code", "public_html/new.php", "usual in 1 h: 4, seldom over 9"),
    ):
        assert wanted in card, (wanted, card)


def test_while_the_guard_is_off_the_first_command_switches_it_on() -> None:
    why = build_why(live(mode="off", blocks=[BLOCK | {"suspended": True}]), past(), None)
    assert why["commands"][:2] == [
        "smtpguard on",
        "smtpguard unblock web01",
    ]


def test_a_time_of_another_day_has_its_date() -> None:
    why = build_why(live(blocks=[BLOCK | {"until": NOW_NS / NS + 86_400}]), past(), None)
    assert "until 02-19 1" in why["verdict"]


def test_it_says_whose_account_it_is() -> None:
    owned = {
        "domain": "shop.example", "domains": ["shop.example", "blog.example"], "reseller": "res1",
        "package": "Business", "contact": "a@shop.example",
    }  # fmt: skip
    why = build_why(live(account=owned), past(), None)
    assert why["account"] == owned
    told = "shop.example and 1 more; package Business; reseller res1; contact a@shop.example"
    assert render_card(why, width=120)[2].split(maxsplit=1) == ["customer", told]
    assert "customer" not in "\n".join(render_card(build_why(live(account=None), past(), None)))


def test_it_works_for_who_has_done_nothing_and_for_who_is_gone() -> None:
    card = "\n".join(render_card(build_why(live(), past(), None)))
    assert "nothing is in force; at 3 of 30 (burst)" in card
    gone = build_why(None, past(), "old-shop", is_past=True)
    assert gone["user"] == "old-shop"
    assert gone["verdict_for_customer"] == "not_us"
    assert "not known: no guard is asked" in "\n".join(render_card(gone))


def test_the_card_fits_whatever_it_has_to_say_and_drives_no_terminal(tmp_path: Path) -> None:
    tally = Tally()
    for n in range(400):
        tally.add_connect(
            1001,
            wall_ns=NOW_NS - n * NS,
            address=n.to_bytes(16, "big"),
            port=25,
            script=HOSTILE * (1 + n % 3),
            refused=n % 2 == 0,
        )
        tally.add_outcome(
            1001, wall_ns=NOW_NS, address=n.to_bytes(16, "big"), port=25, own=None, error="refused by the other side"
        )
    store = Store.open(str(tmp_path / "s.db"), boot_id="b", wall_ns=NOW_NS, max_bytes=1 << 26)
    note = ChangeRow(
        time_ns=NOW_NS,
        uid=1001,
        name="web01",
        event="note",
        by="admin",
        reason="\x1b[2J\u202e" * 99,
        details={"who": "alice\n"},
    )
    store.run([*tally.take(), statements.add(note)], durable=False)
    store.close()
    with History(str(tmp_path / "s.db")) as history:
        then = collect_user(history, uid=1001, name=None, now_ns=NOW_NS)
    hostile = HOSTILE.decode()
    owned = {
        "domain": hostile, "domains": [hostile] * 100, "reseller": hostile, "package": "\x1b[2J", "contact": "a@b\nc",
    }  # fmt: skip
    now = live(account=owned, blocks=[BLOCK] * 9, rules=[RULE | {"name": f"r{n}" * 9, "now": n} for n in range(1, 40)])
    lines = render_card(build_why(now, then, None))
    assert len(lines) <= 23
    for line in lines:
        assert len(line) <= 80
        assert line.isascii()
        assert line.isprintable()
    assert "smtpguard unblock web01" in "\n".join(lines)


def verdict(**evidence: Any) -> VerdictRow:  # noqa: ANN401 - JSON
    return VerdictRow(
        time_ns=NOW_NS - NS, uid=1001, netns=None, name="web01", rule="burst", count=31, limit=30, window_ns=600 * NS,
        action="block", until_ns=NOW_NS + 1800 * NS, mode="enforce",
        evidence={"connect": {"port": 25, "address": "192.0.2.1", "rdns": "mx.example.org"}} | evidence,
    )  # fmt: skip


def test_scripts_have_their_evidence_and_destinations_their_outcome(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "s.db"), boot_id="b", wall_ns=NOW_NS, max_bytes=1 << 26)
    tally = Tally()
    for n in range(60):
        tally.add_connect(
            1001,
            wall_ns=NOW_NS - n * MINUTE_NS,
            address=b"\xc0\0\2\1",
            port=25,
            script=b"/a/send.php:41",
            refused=n < 20,
        )
    tally.add_outcome(1001, wall_ns=NOW_NS, address=b"\xc0\0\2\1", port=25, own=None, error=None)
    tally.add_outcome(1001, wall_ns=NOW_NS, address=b"\xc0\0\2\1", port=25, own=None, error="timed out")
    evidence = {
        "script": "/a/send.php:41", "stack": ["/a/send.php:41", "/a/index.php:3"], "attr": "live",
        "client": "198.51.100.9",
        "files": [{"path": "/a/send.php", "owner": 1001, "ctime": 1_771_000_000.5, "sha256": "ab" * 32}],
        "newest": [{"path": "/a/new.php"}],
    }  # fmt: skip
    store.run(
        [*tally.take(), statements.add(verdict(**evidence)), statements.put_watched(NOW_NS - 2 * HOUR_NS, NOW_NS)],
        durable=False,
    )
    store.close()
    with History(str(tmp_path / "s.db")) as history:
        why = build_why(live(), collect_user(history, uid=1001, name=None, now_ns=NOW_NS), None)
        before = collect_user(history, uid=1001, name=None, now_ns=NOW_NS - 30 * MINUTE_NS)
        gone = collect_user(history, uid=None, name="web01", now_ns=NOW_NS)
    (script,) = why["scripts"]
    assert (script["script"], script["line"], script["count"]) == ("/a/send.php", 41, 60)
    assert script["stack"] == evidence["stack"]
    assert (script["owner"], script["sha256"], script["drivers"]) == (
        1001,
        "ab" * 32,
        [{"address": "198.51.100.9", "count": 1}],
    )
    (target,) = why["destinations"]
    assert (target["name"], target["connected"], target["failed"]) == ("mx.example.org", 1, 1)
    assert target["last_failure"]["error"] == "timed out"
    assert why["files"] == [{"path": "/a/new.php"}]
    assert (why["attempts"]["hour"], why["refused"]["hour"]) == (60, 20)
    assert before["hour"] == [30, 0], "as it was then"
    assert gone["uid"] == 1001
    assert "send.php:41" in "\n".join(render_card(why))


def test_times_without_a_watch_are_blind() -> None:
    def spans(*minutes: tuple[float, float]) -> list[list[str]]:
        return find_blind([(round(NOW_NS + a * MINUTE_NS), round(NOW_NS + b * MINUTE_NS)) for a, b in minutes], NOW_NS)

    assert spans((-90, 0)) == []
    assert spans((-90, -0.2)) == [], "a span is written every ten seconds"
    assert len(spans()) == 1
    assert len(spans((-90, -50), (-20, 0))) == 1
    assert len(spans((-50, -40), (-30, -20))) == 3


def test_what_is_usual_is_the_median_and_the_95th_percentile_of_windows() -> None:
    assert count_usual([], 10) is None
    minutes = [(n, 1) for n in range(100)]
    assert count_usual(minutes, 10) == {"p50": 10, "p95": 10, "days": 1}
    assert count_usual([(0, 5), (1440, 7), (1441, 1)], 10) == {"p50": 7, "p95": 8, "days": 2}
    assert DAY_NS == 1440 * MINUTE_NS
