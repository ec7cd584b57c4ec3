"""`why --ticket` and `why --customer`: what they say, and what a customer is never told."""

import re
from pathlib import Path
from typing import Any

import pytest

from smtpguard.errors import GuardError
from smtpguard.report.templates import list_languages, render_template
from smtpguard.report.why import build_why
from smtpguard.report.why_texts import CUSTOMER, TICKET, build_customer, build_ticket
from tests.support.zone import local_zone
from tests.unit.test_why import BLOCK, RULE, live, past, place

_zone = local_zone("UTC")

NONE = Path("/nonexistent")
"""No files of an administrator."""
PATH = "/home/web01/public_html/wp-content/plugins/x/send.php"
SCRIPT = {
    "script": PATH, "line": 41, "stack": [f"{PATH}:41", "/home/web01/public_html/index.php:3"], "count": 341,
    "attr": "live", "owner": 1001, "ctime": "2026-02-18T13:00:00+01:00", "sha256": "ab" * 32,
    "drivers": [{"address": "198.51.100.9", "count": 1}],
}  # fmt: skip
INCIDENT = {
    "id": "1f3a9c2b", "first": "2026-02-18T13:30:00+01:00", "last": "2026-02-18T13:39:00+01:00", "mode": "enforce",
    "rules": ["mx-fanout"], "verdicts": 3, "connects": 341, "refused": 20, "peak_per_minute": 99, "over": False,
    "closed": None,
}  # fmt: skip
NOTE = {"time": "2026-02-18T13:38:00+01:00", "kind": "note", "user": "web01", "uid": 1001, "by": "admin",
        "who": "alice", "reason": "told \x1b[31mthe other\ncustomer web02", "until": None}  # fmt: skip
CHANGE = {"time": "2026-02-18T13:39:00+01:00", "kind": "unblock", "user": "web01", "uid": 1001, "by": "admin",
          "who": "root", "reason": "cleaned", "until": None}  # fmt: skip
FILE = {"path": "/home/web01/public_html/new.php", "owner": 1001, "mode": "644", "size": 12, "ctime": 1_771_000_000.5,
        "mtime": 1.0, "sha256": "cd" * 32}  # fmt: skip

OWN = {"address": "192.0.2.7", "connected": 7, "failed": 1, "first": "2026-02-18T13:00:00+01:00",
       "last": "2026-02-18T14:00:00+01:00"}  # fmt: skip
WATCH = {
    "uid": 1001,
    "since": "2026-02-18T13:00:00+01:00",
    "until": "2026-02-25T13:00:00+01:00",
    "by": "admin",
    "reason": "was hacked",
}
BLIND = [["2026-02-18T13:10:00+01:00", "2026-02-18T13:40:00+01:00"]]


def full(**more: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
    then = past(
        hour=[341, 20], scripts=[SCRIPT], incident=INCIDENT, events=[NOTE, CHANGE], evidence={"newest": [FILE]},
        destinations=[place(name="mx.example.org", refused=20)], own_addresses=[OWN], own_unknown=3, blind=BLIND,
        lost=11,
    )  # fmt: skip
    return build_why(live(blocks=[BLOCK], rules=[RULE | {"now": 30}], watch=WATCH), then, None) | more


def customer(why: dict[str, Any], language: str = "en") -> str:
    return render_template("customer.txt", build_customer(why, "host.example.net"), language=language, own_files=NONE)


def test_a_ticket_has_all_of_it_and_no_control_character() -> None:
    for language in list_languages(NONE):
        text = render_template(
            "ticket.txt", build_ticket(full(), "host.example.net"), language=language, own_files=NONE
        )
        lines = text.splitlines()
        assert lines[0].startswith("US: port 25 refused since ")
        for wanted in (
            *("web01", "1001", "host.example.net", "tenant", "mx-fanout", "1f3a9c2b", f"{PATH}:41", "ab" * 32),
            *("index.php:3", "198.51.100.9", "new.php", "2026-02-13 ", "203.0.113.9", "timed out"),
            *(
                "burst: 30 ",
                "smtpguard unblock web01",
                "192.0.2.7: ",
                "was hacked",
                "2026-02-25",
                "2026-02-18 13:10",
                r"\x1b[31mthe other\x0acustomer",
                "alice",
                "cleaned",
                "root",
            ),
        ):
            assert wanted in text, (language, wanted, text)
        assert all(line.isprintable() for line in lines)
        assert "None" not in text
        assert "\n\n\n" not in text


def test_a_ticket_is_written_for_who_did_nothing_and_for_who_is_gone() -> None:
    for why in (build_why(live(), past(), None), build_why(None, past(), "old-shop", is_past=True)):
        text = render_template("ticket.txt", build_ticket(why, "h"), own_files=NONE)
        assert text.startswith("NOT US: ")
        assert "In force\n  nothing\n" in text
        assert "smtpguard events --user" in text


ALLOWED = live(blocks=[BLOCK | {"kind": "allow"}])
FAILED = build_why(live(), past(destinations=[place()], failed_hour=12), None)


@pytest.mark.parametrize(
    ("why", "en", "de"),
    [
        (full(), "has been stopped on our server", "hält"),
        (build_why(live(blocks=[BLOCK | {"kind": "throttle"}]), past(), None), "has been slowed down", "bremst"),
        (build_why(live(), past(hour=[14, 2]), None), "may be sent again. In the last hour", "wieder versendet"),
        (build_why(live(), past(), None), "stopped no mail of web01", "keine E-Mail von web01 aufgehalten"),
        (build_why(ALLOWED, past(), None), "stopped no mail of web01", "keine E-Mail von web01 aufgehalten"),
        (build_why(live(blocks=[BLOCK | {"mode": "dry-run"}]), past(), None), "stopped no mail", "keine E-Mail"),
        (FAILED, "203.0.113.9, port 587", ", Port 587"),
        (build_why(live(), past(blind=BLIND), None), "We can't say yet", "Wir können noch nicht sagen"),
    ],
)  # fmt: skip
def test_a_customer_is_told_what_holds(why: dict[str, Any], en: str, de: str) -> None:
    assert en in customer(why)
    assert de in customer(why, "de")
    for language in ("en", "de"):
        text = customer(why, language)
        assert text.endswith("\nhost.example.net, 2026-02-18 13:39\n")
        is_stopped = build_customer(why, "h")["state"] in ("refused", "was_refused")
        assert not is_stopped or re.search("may be\\s+lost|verloren\\s+sein", text), "no queue keeps a site's own mail"
        assert "None" not in text
        assert "\n\n\n" not in text
        of_domain = customer(why | {"account": {"domain": "bakery-on-the-hill.example"}}, language)
        assert max(map(len, of_domain.splitlines())) <= 80


def test_a_block_by_a_person_blames_no_flood() -> None:
    why = build_why(live(blocks=[BLOCK | {"rule": None, "by": "admin", "why": "see web02"}]), past(), None)
    assert "Far more" not in customer(why)
    assert "web02" not in customer(why)
    over = build_why(live(), past(hour=[14, 2]), None)
    assert "because far more" in customer(over)
    over |= {"changes": [{"kind": "unblock", "by": "admin"}, {"kind": "block", "by": "admin"}]}
    for language, words in (("en", "because far more"), ("de", "weil weit")):
        assert words not in customer(over, language)
        assert "2 " in customer(over, language)


def test_a_customer_is_told_no_path_no_jargon_and_nobody_else_s_data() -> None:
    for language in ("en", "de"):
        text = customer(full(), language)
        for never in (
            "/home",
            ".php",
            "web02",
            "mx-fanout",
            "1001",
            "198.51.100",
            "sha256",
            "smtpguard",
            "uid",
            "alice",
        ):
            assert never not in text, (language, never)
    flat = build_customer(full(), "h")
    assert flat.keys() == CUSTOMER.keys()
    assert not [value for value in flat.values() if isinstance(value, str) and "/" in value]


def test_a_ticket_tells_what_is_usual_in_an_hour() -> None:
    why = build_why(live(), past(usual={"60": {"p50": 3, "p95": 17, "days": 9}}), None)
    for language, wanted in (
        ("en", "usual in 1 h: 3, seldom over 17 (of 9 days)"),
        ("de", "üblich in 1 h: 3, selten über 17"),
    ):
        text = render_template("ticket.txt", build_ticket(why, "h"), language=language, own_files=NONE)
        assert wanted in text
        assert "\n\n\n" not in text


def test_there_is_no_customer_s_text_where_it_is_not_known_whose_account_it_is() -> None:
    for why in (build_why(None, past(), "www-data"), build_why(None, past(), "www-data", standing="shared")):
        with pytest.raises(GuardError, match="may concern other customers"):
            build_customer(why, "h")
    assert build_customer(build_why(None, past(), "web01", is_past=True, standing="tenant"), "h")["state"] == "free"


@pytest.mark.parametrize("standing", ["shared", "exempt", "root", "mta", "container"])
def test_there_is_no_customer_s_text_about_an_account_of_many(standing: str) -> None:
    with pytest.raises(GuardError, match="may concern other customers"):
        build_customer(build_why(live(user="www-data", standing=standing), past(), None), "h")


def test_what_a_ticket_may_use_is_there() -> None:
    """A name that is offered and never there would be found by a customer's administrator only."""
    ticket = build_ticket(full(account={"domain": "a.example"}), "h")
    why = full() | {"host": "h"}
    assert TICKET.keys() == why.keys(), "all of it, as docs/commands.md says"
    assert ticket["own_addresses"] == [OWN]
    assert ticket["scripts"][0]["sha256"] == "ab" * 32
    assert ticket["account"]["reseller"] is None
