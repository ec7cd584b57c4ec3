"""Who is told of a customer's block, when, where, and who is not: by an injected clock; what a kill leaves."""

import json
import os
import sqlite3
from collections import Counter
from collections.abc import Iterator
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from pathlib import Path
from typing import Any

import pytest

from smtpguard.daemon.outlet.frames import HelperSettings, Up
from smtpguard.errors import GuardError, NoDaemonError
from smtpguard.hooks import Task
from smtpguard.model import NS
from smtpguard.notify import customer_sender, customers_duty
from smtpguard.notify.contact_address import find_unfit, fold_address
from smtpguard.notify.customer_book import MAX_WAITING
from smtpguard.notify.customer_mail import render_customer_mail
from smtpguard.notify.customer_sender import PER_HOUR, PER_MAILBOX_A_DAY, PER_USER_A_DAY, CustomerSender
from smtpguard.notify.customers_duty import CustomersDuty
from smtpguard.notify.delivery import DeliveryError
from smtpguard.notify.mail_server import MailDeferredError, MailRefusedError, MailUncertainError
from smtpguard.report.customer_text import CustomerText, write_customer_text
from smtpguard.report.why import build_why
from smtpguard.settings.notify import CustomerNotices, NotifySettings
from tests.unit.test_notification import TIME, begins
from tests.unit.test_why import BLOCK, live, past

DAY_S = 86_400.0
NONE = Path("/nonexistent")
"""No files of an administrator."""
NOTICE = {"template": "default", "language": "en", "reseller_contact": None}
ACCOUNT = {
    "domain": "shop.example", "domains": ["shop.example"], "reseller": None, "package": None,
    "contact": "owner@shop.example", "language": None,
}  # fmt: skip


class Daemon:
    """What the daemon answers."""

    def __init__(self) -> None:
        self.status: dict[str, Any] = {"mode": "enforce", "breaker_tripped": False, "enforcing_since": 0.0}
        self.changes: list[dict[str, Any]] = []
        self.has_more = False
        self.why: dict[str, Any] = {}
        self.past: dict[str, Any] = {}
        self.is_away = False
        self.told: list[dict[str, Any]] = []
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def ask(self, socket_path: str, verb: str, timeout_s: float = 5, **args: Any) -> dict[str, Any]:  # noqa: ANN401
        assert (socket_path, timeout_s > 0) == ("/x/control.sock", True)
        self.asked.append((verb, args))
        if self.is_away:
            raise NoDaemonError("no daemon answers")
        if verb == "status":
            return {"status": self.status}
        if verb == "events":
            return {"items": self.changes, "has_more": self.has_more}
        if verb == "told":
            self.told.append(args)
            return {"text": ""}
        uid = int(args["user"].removeprefix("uid:"))
        who = {"uid": uid, "user": f"web{uid - 1000:02}", "account": ACCOUNT, "notice": NOTICE}
        answer = live(blocks=[BLOCK | {"uid": uid}]) | who | self.why
        return {"live": answer, "past": past(hour=[20, 7]) | self.past, "name": None, "standing": answer["standing"]}


class Bench:
    """The duty, its thread stood in for by `run`."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, **wanted: Any) -> None:  # noqa: ANN401
        self.folder = folder
        self.now_s = 1_795_000_000.0
        self.daemon = Daemon()
        self.mails: list[EmailMessage] = []
        self.answer: Exception | None = None
        self.answers_late = False
        self.fails_for: str | None = None
        self.killed_in = ""
        self.said: list[tuple[Up, Any]] = []
        self.wanted: dict[str, Any] = {"enabled": True, "sender": "support@hoster.example"} | wanted
        monkeypatch.setattr(customers_duty, "start_lasting", lambda *_: None)
        self.duty = CustomersDuty(self.say, lambda: None)
        monkeypatch.setattr(customer_sender, "hand_over", self.hand_over)
        self.begin()

    def begin(self, **more: Any) -> None:  # noqa: ANN401
        """The process is started anew."""
        self.close()
        self.duty = CustomersDuty(self.say, lambda: None, wall=lambda: self.now_s)
        self.configure(**more)

    def close(self) -> None:
        if self.duty._book is not None:
            self.duty._book.close()

    def say(self, kind: Up, content: object = None) -> None:
        self.said.append((kind, content))

    def configure(self, **more: Any) -> None:  # noqa: ANN401
        notify = NotifySettings(customers=CustomerNotices(**(self.wanted | more)))
        self.duty.configure(
            HelperSettings(
                state_path=str(self.folder / "state.db"), control_socket="/x/control.sock", values={"notify": notify}
            )
        )
        sender = self.duty._sender
        if sender is not None:
            sender._ask_daemon = self.daemon.ask
            sender._own_files = NONE

    @property
    def sender(self) -> CustomerSender:
        assert self.duty._sender is not None
        return self.duty._sender

    def hand_over(self, mail: EmailMessage, *, server: str, sender: str, to: str, begin: Task) -> str:
        assert (server, sender) == ("127.0.0.1:25", "support@hoster.example")
        if self.answers_late:
            begin()
        if isinstance(self.answer, DeliveryError) and (self.fails_for is None or to == self.fails_for):
            raise self.answer
        if isinstance(self.answer, MailRefusedError | MailDeferredError):
            raise self.answer
        if not self.answers_late:
            begin()
        if self.answer is not None and self.fails_for is None:
            raise self.answer
        assert mail["To"] == to
        self.mails.append(message_from_bytes(bytes(mail), policy=default))
        if self.killed_in:
            raise KeyboardInterrupt
        return "the server took it"

    def block(self, incident: str = "a", uid: int = 1001, **more: Any) -> None:  # noqa: ANN401
        since = _iso(self.now_s)
        occasion = begins(incident) | {
            "uid": uid, "user": f"web{uid - 1000:02}", "time": since, "blocks": [{"since": since}],
        } | more  # fmt: skip
        self.duty.take("occasion", occasion)

    def run(self, seconds: float = 0.0, most: int = 2000) -> list[str]:
        """Let time go by; whom mails went to meanwhile."""
        end_s, count = self.now_s + seconds, len(self.mails)
        for _ in range(most):
            wait_s = self.sender.step()
            if wait_s > 0 and self.now_s + wait_s > end_s:
                break
            self.now_s += wait_s
        else:
            raise AssertionError("it never comes to rest")
        self.now_s = end_s
        return [str(mail["To"]) for mail in self.mails[count:]]

    def last(self) -> str:
        return str(self.duty.report()["text"])


def _iso(time_s: float) -> str:
    from smtpguard.logline import render_time

    return render_time(round(time_s * NS))


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    bench = Bench(tmp_path, monkeypatch)
    yield bench
    bench.close()


def test_a_block_is_told_ten_minutes_later_once_an_incident_and_noted(bench: Bench) -> None:
    bench.block()
    assert bench.run(599) == []
    assert bench.run(2) == ["owner@shop.example"]
    (mail,) = bench.mails
    assert mail["From"] == "support@hoster.example"
    assert mail["Subject"] == "Mail from shop.example is stopped"
    assert mail["Auto-Submitted"] == "auto-generated"
    assert bench.daemon.told == [
        {"user": "uid:1001", "to": "owner@shop.example", "whom": "customer", "result": "sent", "incident": "a"}
    ]
    bench.block()
    assert bench.run(3600) == [], "the same incident"
    bench.block("b")
    assert bench.run(601) == ["owner@shop.example"]
    assert bench.duty.totals == Counter({("customer", "customers", "sent"): 2})
    assert "web01 customer told at owner@shop.example" in bench.last()


def test_what_is_sent_is_what_why_customer_shows(bench: Bench) -> None:
    bench.daemon.why = {"account": ACCOUNT | {"language": "de"}}
    bench.block()
    bench.run(601)
    answer = bench.daemon.ask("/x/control.sock", "why", user="uid:1001")
    why = build_why(answer["live"], answer["past"], None, standing="tenant")
    assert (
        bench.mails[0].get_content().replace("\r\n", "\n")
        == write_customer_text(why, os.uname().nodename, own_files=NONE).body
    )
    assert "versendet" in bench.mails[0].get_content()
    assert bench.mails[0]["Subject"] == "E-Mails von shop.example werden aufgehalten"


@pytest.mark.parametrize(
    "occasion",
    [
        begins("a", "throttle"), begins("a", "warn"), begins("a", "block", "dry-run"),
        {"id": "x", "kind": "incident-over", "key": "a", "user": "web01", "uid": 1001, "time": TIME},
        begins("a") | {"user": "uid:1001"}, begins("a") | {"uid": None},
    ],
)  # fmt: skip
def test_only_blocks_of_accounts_that_are_really_refused(bench: Bench, occasion: dict[str, Any]) -> None:
    bench.duty.take("occasion", occasion)
    assert bench.run(3600) == []
    assert bench.duty.report()["waiting"] == 0


def change(kind: str, by: str, until: str | None = None) -> dict[str, Any]:
    return {"time": "2026-11-28T20:25:00+01:00", "kind": kind, "by": by, "until": until, "who": None}


@pytest.mark.parametrize(
    ("changes", "is_told"),
    [
        ([change("unblock", "admin")], False),
        ([change("unblock", "exempt")], False),
        ([change("allow", "admin", "2026-11-29T20:25:00+01:00")], False),
        ([change("unblock", "time"), change("unblock", "admin")], False),
        ([change("unblock", "time")], True),
        ([change("unblock", "fail2ban:smtp")], True),
        ([change("allow", "admin", "2026-11-28T20:25:00+01:00")], True),  # an end of one
    ],
)
def test_a_person_s_word_cancels_it_and_time_does_not(
    bench: Bench, changes: list[dict[str, Any]], is_told: bool
) -> None:
    bench.block()
    begun_s = bench.now_s
    bench.run(300)
    bench.daemon.changes = changes
    assert bool(bench.run(400)) is is_told
    (asked,) = [args for verb, args in bench.daemon.asked if verb == "events"]
    assert asked == {
        "user": "uid:1001",
        "kinds": ["unblock", "allow"],
        "since_ns": pytest.approx(begun_s * NS, abs=2000),
    }
    if not is_told:
        bench.daemon.changes = []
        bench.block()
        assert bench.run(2 * DAY_S) == [], "it is not waiting any more"
        assert "by" in bench.last()


def test_changes_that_are_more_than_can_be_shown_are_no_yes(bench: Bench) -> None:
    bench.daemon.has_more = True
    bench.block()
    assert bench.run(3600) == []


def test_a_block_that_has_ended_is_told_if_anything_was_refused(bench: Bench) -> None:
    bench.daemon.why = {"blocks": []}
    bench.block()
    assert bench.run(601) == ["owner@shop.example"]
    assert "may be sent again" in bench.mails[0].get_content()
    bench.daemon.past = {"hour": [20, 0]}
    bench.block("b")
    assert bench.run(601) == []
    assert "web01 not told: nothing was refused" in bench.last()
    bench.daemon.past = {"hour": [20, 0], "blind": [["2026-02-18T13:10:00+01:00", "2026-02-18T13:40:00+01:00"]]}
    bench.block("c")
    assert bench.run(601) == [], "we can't say is no message"


@pytest.mark.parametrize(
    ("status", "told"),
    [
        ({"breaker_tripped": True}, "the safety brake holds"),
        ({"mode": "dry-run"}, "dry run"),
        ({"mode": "off"}, "the guard is off"),
        ({"enforcing_since": None}, "enforcement was in its first 7 days"),
    ],
)
def test_asked_at_the_moment_of_telling(bench: Bench, status: dict[str, Any], told: str) -> None:
    bench.block()
    bench.run(599)
    bench.daemon.status |= status
    assert bench.run(3600) == []
    assert f"web01 not told: {told}" in bench.last()


def test_none_in_the_first_seven_days(bench: Bench) -> None:
    bench.daemon.status["enforcing_since"] = bench.now_s - 7 * DAY_S + 60
    bench.block("a")
    assert bench.run(3600) == [], "it began on the seventh day"
    bench.block("b")
    assert bench.run(601) == ["owner@shop.example"]


def test_the_brake_has_nobody_told_who_waits_whether_or_not_it_lets_go(bench: Bench) -> None:
    bench.block()
    brake = {"id": "brake-1", "kind": "breaker", "brake": {"tripped": True, "mode": "dry-run"}}
    bench.duty.take("occasion", brake)
    assert bench.duty.report()["waiting"] == 1
    bench.duty.take("occasion", brake | {"brake": {"tripped": True, "mode": "enforce"}})
    assert bench.run(3600) == []
    assert "the safety brake took hold" in bench.last()


def test_ten_an_hour_and_the_others_later(bench: Bench) -> None:
    for number in range(25):
        account = ACCOUNT | {"contact": f"owner{number}@shop.example"}
        bench.daemon.why = {"account": account}
        bench.block(f"i{number}", uid=1001 + number)
    contacts = iter(range(25))
    usual = bench.daemon.ask

    def ask(socket_path: str, verb: str, timeout_s: float = 5, **args: Any) -> dict[str, Any]:  # noqa: ANN401
        if verb == "why":
            bench.daemon.why = {"account": ACCOUNT | {"contact": f"owner{next(contacts)}@shop.example"}}
        return usual(socket_path, verb, timeout_s, **args)

    bench.sender._ask_daemon = ask
    assert len(bench.run(601)) == PER_HOUR
    assert bench.run(3500) == []
    assert len(bench.run(200)) == PER_HOUR
    assert len(bench.run(3601)) == 5
    assert [verb for verb, _ in bench.daemon.asked].count("why") == 25, "nobody is asked while there is no room"


def test_a_customer_three_times_a_day_whatever_address_and_a_mailbox_five_times(bench: Bench) -> None:
    for number in range(6):
        bench.daemon.why = {"account": ACCOUNT | {"contact": f"other{number}@victim.example"}}
        bench.block(f"i{number}")
        bench.run(3601)
    assert len(bench.mails) == PER_USER_A_DAY
    for number in range(8):
        bench.daemon.why = {"account": ACCOUNT | {"contact": f"Boss+{number}@Victim.example"}}
        bench.block(f"j{number}", uid=2000 + number)
        bench.run(3601)
    assert len(bench.mails) == PER_USER_A_DAY + PER_MAILBOX_A_DAY
    assert "5 mails in a day went there already" in bench.last()
    bench.run(DAY_S)
    bench.block("k", uid=2020)
    assert len(bench.run(601)) == 1


def test_who_names_a_mailbox_of_others_keeps_nobody_from_being_told_there(bench: Bench) -> None:
    evil = {"domain": "evil.example", "domains": ["evil.example"], "contact": "Owner+x@shop.example"}
    for number in range(8):
        bench.daemon.why = {"account": ACCOUNT | evil}
        bench.block(f"j{number}", uid=2000 + number)
        bench.run(3601)
    assert len(bench.mails) == PER_MAILBOX_A_DAY
    bench.daemon.why = {"account": ACCOUNT | {"contact": "owner@shop.example"}}
    bench.block("victim")
    assert len(bench.run(601)) == 1
    bench.daemon.why = RESOLD | {"notice": NOTICE | {"reseller_contact": "owner@shop.example"}}
    bench.block("resold", uid=2100)
    assert len(bench.run(601)) == 1, "a reseller's mailbox is not a customer's"


RESOLD = {"account": ACCOUNT | {"reseller": "res1"}, "notice": NOTICE | {"reseller_contact": "desk@reseller.example"}}


@pytest.mark.parametrize(
    ("why", "also", "told"),
    [
        (RESOLD, (), ["desk@reseller.example"]),
        (RESOLD, ("customer",), ["desk@reseller.example", "owner@shop.example"]),
        ({}, ("customer",), ["owner@shop.example"]),
        (RESOLD | {"notice": NOTICE}, (), []),  # never the customer in their place
        (RESOLD | {"notice": NOTICE}, ("customer",), ["owner@shop.example"]),
        (RESOLD | {"notice": NOTICE | {"reseller_contact": ACCOUNT["contact"]}}, ("customer",), ["owner@shop.example"]),
        ({"account": None}, (), []),
        ({"user": "web02"}, (), []),
        ({"standing": "shared"}, (), []),
        ({"standing": "exempt"}, (), []),
    ],
)
def test_who_is_told(bench: Bench, why: dict[str, Any], also: tuple[str, ...], told: list[str]) -> None:
    bench.wanted["also"] = also
    bench.configure()
    bench.daemon.why = why
    bench.block()
    assert bench.run(601) == told
    assert bench.duty.report()["waiting"] == 0
    assert [row["to"] for row in bench.daemon.told] == told
    assert bench.run(DAY_S) == []
    for mail in bench.mails:
        text = mail.as_string()
        assert not any(word in text for word in ("203.0.113", "/home", "web02", "mx-fanout", "res1"))


def test_the_language_of_the_panel_else_the_configured_one(bench: Bench) -> None:
    for incident, theirs, configured, wanted in (
        ("a", "de", "en", "wieder"), ("b", None, "de", "wieder"), ("c", "xx", "de", "wieder"),
        ("d", "en", "de", "stopped"), ("e", "xx", "yy", "stopped"),
    ):  # fmt: skip
        bench.daemon.why = {"account": ACCOUNT | {"language": theirs}, "notice": NOTICE | {"language": configured}}
        bench.block(incident, uid=1001 + ord(incident))
        assert bench.run(601), incident
        assert wanted in bench.mails[-1].get_content(), incident


UNFIT = [
    None, "", "owner", "@x.example", "owner@", "owner@localhost", "root@shop.example", "Postmaster@shop.example",
    "root+x@shop.example", "a@shop.example, b@shop.example", "a@b@shop.example", "|/bin/sh@shop.example",
    "a!b@shop.example", "a%b@shop.example", '"a b"@shop.example', "a..b@shop.example", ".a@shop.example",
    "a.@shop.example", "-f@shop.example", "a@shop.example\nBcc: b@x.example", "a@shop.example\r\nBcc: b@x.example",
    "a\x00@shop.example", "ä@shop.example", "a@shöp.example", "a@-shop.example", "a@shop-.example", "a@[127.0.0.1]",
    "a@127.0.0.1", "a@web1.hoster.example", "a@WEB1.hoster.example", "a@mail.localhost", "a@x.local",
    "/etc/passwd@shop.example", ":include:x@shop.example", "a@shop.example ", " a@shop.example", "a@shop..example",
    "a" * 65 + "@shop.example", "a@" + "x" * 64 + ".example", "a@" + "x." * 130 + "example", "<a@shop.example>",
    "a@shop.example>", "a(b)@shop.example", "a@shop.example.", "=?utf8?q?x?=@shop.example", "a@shop_x.example",
]  # fmt: skip


@pytest.mark.parametrize("address", UNFIT, ids=range(len(UNFIT)))
def test_a_hostile_contact_is_unfit(address: str | None) -> None:
    assert find_unfit(address, "web1.hoster.example") is not None


@pytest.mark.parametrize("address", [None, "|/bin/sh@shop.example", "a@shop.example\r\nBcc: b@x.example"])
def test_a_hostile_contact_is_never_written_to_and_said(bench: Bench, address: str | None) -> None:
    bench.daemon.why = {"account": ACCOUNT | {"contact": address}}
    bench.block()
    assert bench.run(601) == []
    assert "web01 customer not told: " in bench.last()


@pytest.mark.parametrize(
    "address", ["owner@shop.example", "o.w-n_e+r1@a-b.co.example", "1@2x.example", "Owner@SHOP.example"]
)
def test_an_ordinary_contact_is(address: str) -> None:
    assert find_unfit(address, "web1.hoster.example") is None
    assert fold_address("Own+er@SHOP.example") == "own@shop.example"
    assert fold_address("o.w.n+x@mail.example") == "own@mail.example"  # large providers pass dots over


def test_what_a_tenant_is_called_can_be_no_header_and_no_second_mail() -> None:
    hostile = "x\r\nBcc: b@x.example\r\n\r\n=?utf8?q?=0AX:y?= =?utf8?b?w6n+?= \udcff\u202e"
    text = CustomerText(state="refused", subject=" ".join(hostile.split()), body=hostile)
    mail = render_customer_mail(text, sender="s@h.example", to="o@x.example", name="a\nb", made_s=1.0)
    read = message_from_bytes(bytes(mail), policy=default)
    assert sorted(read.keys()) == sorted(
        ["From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted", "Content-Type", "MIME-Version",
         "Content-Transfer-Encoding"]
    )  # fmt: skip
    assert bytes(mail).isascii()
    assert all(len(line) <= 998 for line in bytes(mail).splitlines())


def test_a_kill_loses_none_and_sends_none_twice(bench: Bench) -> None:
    bench.block()
    bench.run(300)
    bench.begin()
    assert bench.run(301) == ["owner@shop.example"], "it waited in the file"
    bench.begin()
    assert bench.run(3600) == []
    bench.block("b")
    bench.killed_in = "data"
    with pytest.raises(KeyboardInterrupt):
        bench.run(601)
    assert len(bench.mails) == 2
    bench.killed_in = ""
    bench.begin()
    assert bench.run(DAY_S) == [], "it may have been taken"
    assert bench.daemon.told[-1]["result"] == "perhaps"
    assert "web01 customer perhaps" in bench.last()


def test_what_the_daemon_could_not_keep_is_told_to_it_again_once(bench: Bench) -> None:
    bench.block()
    bench.run(599)
    usual = bench.daemon.ask

    def ask(socket_path: str, verb: str, timeout_s: float = 5, **args: Any) -> dict[str, Any]:  # noqa: ANN401
        if verb == "told":
            raise GuardError("the state is locked")
        return usual(socket_path, verb, timeout_s, **args)

    bench.sender._ask_daemon = ask
    assert bench.run(2) == ["owner@shop.example"]
    bench.begin()
    bench.run(DAY_S / 2)
    assert len(bench.daemon.told) == 1
    assert len(bench.mails) == 1


@pytest.mark.parametrize("what", ["daemon", "server"])
def test_who_does_not_answer_is_asked_again_for_a_day(bench: Bench, what: str) -> None:
    bench.daemon.is_away = what == "daemon"
    bench.answer = DeliveryError("refused") if what == "server" else None
    bench.block()
    bench.run(3600)
    assert bench.duty.report()["troubles"][0].startswith("customers can't be told: ")
    bench.daemon.is_away, bench.answer = False, None
    assert bench.run(3600) == ["owner@shop.example"]
    assert bench.duty.report()["troubles"] == []
    bench.daemon.is_away = what == "daemon"
    bench.answer = DeliveryError("refused") if what == "server" else None
    bench.block("b")
    bench.run(2 * DAY_S)
    bench.daemon.is_away, bench.answer = False, None
    assert bench.run(2 * DAY_S) == [], "given up"


def test_a_daemon_that_answers_otherwise_is_asked_again(bench: Bench) -> None:
    """As one of before an update. Nothing said so but a traceback in the log, every half minute."""
    usual = bench.daemon.ask
    bench.sender._ask_daemon = lambda *_, **__: {}
    bench.block()
    bench.run(601)
    assert bench.duty.report()["troubles"] == [
        "customers can't be told: the guard's answer can't be read: KeyError: 'status'; tried again"
    ]
    bench.sender._ask_daemon = usual
    assert bench.run(3600) == ["owner@shop.example"]
    assert bench.duty.report()["troubles"] == []


@pytest.mark.parametrize(
    ("answer", "told", "noted"),
    [
        (MailRefusedError("550 no such user"), "customer not told: 550", []),
        (MailUncertainError("cut"), "customer perhaps told", ["perhaps"]),
    ],
)  # fmt: skip
def test_a_refusal_and_an_answer_that_never_came_are_the_last_word(
    bench: Bench, answer: Exception, told: str, noted: list[str]
) -> None:
    bench.answer = answer
    bench.block()
    bench.run(601)
    bench.answer = None
    assert bench.run(DAY_S) == []
    assert f"web01 {told}" in bench.last()
    assert [row["result"] for row in bench.daemon.told] == noted


def test_one_that_fails_holds_up_no_other_recipient_for_good(bench: Bench) -> None:
    bench.wanted["also"] = ("customer",)
    bench.configure()
    bench.daemon.why = RESOLD
    bench.answer = MailRefusedError("550")
    bench.block()
    bench.run(601)
    bench.answer = None
    bench.daemon.why = RESOLD | {"notice": NOTICE | {"reseller_contact": "root@x.example"}}
    bench.block("b")
    assert bench.run(601) == ["owner@shop.example"]
    assert "reseller not told: the address is of who runs a host, customer told at owner@shop.example" in bench.last()


def test_a_server_that_says_no_for_now_after_the_text_is_tried_again(bench: Bench) -> None:
    bench.answer, bench.answers_late = DeliveryError("451"), True
    bench.block()
    assert bench.run(700) == []
    bench.answer = None
    assert bench.run(60) == ["owner@shop.example"]


def test_an_address_that_is_not_taken_for_now_is_no_alarm(bench: Bench) -> None:
    bench.wanted["also"] = ("customer",)
    bench.configure()
    bench.daemon.why = RESOLD
    bench.answer = MailDeferredError("451 greylisted")
    bench.block()
    bench.run(3600)
    assert bench.duty.report()["troubles"] == []
    assert bench.duty.totals["customer", "customers", "failed"] == 2 * 2
    bench.answer = None
    assert bench.run(1800) == ["desk@reseller.example", "owner@shop.example"]
    bench.answer = MailDeferredError("451 greylisted")
    bench.block("b")
    bench.run(2 * DAY_S)
    assert "it is too old" in bench.last()


def test_while_one_recipient_waits_the_other_is_not_written_to_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.wanted["also"] = ("customer",)
    bench.configure()
    bench.daemon.why = RESOLD
    bench.answer, bench.fails_for = DeliveryError("451"), "owner@shop.example"
    bench.block()
    assert bench.run(700) == ["desk@reseller.example"]
    bench.answer = None
    assert bench.run(60) == ["owner@shop.example"]
    bench.answer, bench.fails_for = MailRefusedError("550"), None
    bench.block("b")
    bench.run(500)
    usual, tried = bench.hand_over, list[str]()

    def hand_over(mail: EmailMessage, *, server: str, sender: str, to: str, begin: Task) -> str:
        tried.append(to)
        if to.startswith("owner") and len(tried) < 4:
            raise DeliveryError("451")
        return usual(mail, server=server, sender=sender, to=to, begin=begin)

    monkeypatch.setattr(customer_sender, "hand_over", hand_over)
    bench.run(200)
    assert tried.count("desk@reseller.example") == 1, "it was refused for good"
    assert tried.count("owner@shop.example") == 3


def test_what_is_a_day_old_is_told_nobody(bench: Bench) -> None:
    bench.block()
    bench.now_s += 1.5 * DAY_S
    bench.begin()
    assert bench.run(DAY_S) == []
    assert "web01 not told: it is too old" in bench.last()


def test_switched_off_nobody_who_waits_is_told_even_after_a_restart(bench: Bench) -> None:
    bench.block()
    bench.begin(enabled=False)
    bench.configure()
    assert bench.run(DAY_S) == []


def test_a_clock_that_was_set_back_leaves_nobody_waiting_for_ever(bench: Bench) -> None:
    bench.block()
    bench.now_s -= 365 * DAY_S
    bench.daemon.status["enforcing_since"] = bench.now_s - 9 * DAY_S
    assert bench.run(DAY_S) == ["owner@shop.example"]


def test_mails_of_a_time_that_is_still_to_come_are_no_reason_to_tell_nobody(bench: Bench) -> None:
    bench.now_s += 365 * DAY_S
    for number in range(PER_HOUR):
        bench.block(f"i{number}", uid=1001 + number)
        bench.daemon.why = {"account": ACCOUNT | {"contact": f"owner{number}@shop.example"}}
        assert len(bench.run(601)) == 1
    bench.now_s -= 365 * DAY_S
    bench.daemon.status["enforcing_since"] = bench.now_s - 9 * DAY_S
    bench.block("now", uid=1002)
    assert bench.run(3700) == [f"owner{PER_HOUR - 1}@shop.example"]
    assert bench.daemon.told[-1]["incident"] == "now"


def test_the_daemon_hears_that_it_was_taken_where_nobody_else_says_so(bench: Bench) -> None:
    bench.block()
    assert bench.said == [("took", {"id": "a-block-enforce"})]


def test_letters_are_bounded_one_a_user(bench: Bench) -> None:
    for number in range(MAX_WAITING + 5):
        bench.block(f"i{number}", uid=10_000 + number)
        bench.block(f"j{number}", uid=10_000 + number)
    report = bench.duty.report()
    assert report["waiting"] == MAX_WAITING
    assert "11 dropped" in report["text"]


def test_who_has_the_uid_of_somebody_who_waits_is_told_all_the_same(bench: Bench) -> None:
    """An account is removed while its letter waits, and its number given to a new customer, who is hacked at once."""
    bench.block("a", user="old01")
    bench.run(300)
    bench.block("b")
    assert bench.run(301) == []
    assert "old01 not told: the uid is another account's now" in bench.last()
    assert bench.run(300) == ["owner@shop.example"]
    assert "web01 customer told" in bench.last()


def test_the_file_is_for_root_alone_and_old_rows_go(bench: Bench) -> None:
    bench.block()
    bench.run(601)
    path = bench.folder / "customers-state.db"
    assert path.stat().st_mode & 0o777 == 0o600
    bench.run(41 * DAY_S)
    assert bench.duty._book is not None
    count = "SELECT (SELECT count(*) FROM letters) + (SELECT count(*) FROM mails)"
    assert bench.duty._book._connection.execute(count).fetchone() == (0,)


def test_a_full_disk_is_said_and_ends_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    book = bench.duty._book
    assert book is not None

    def fail(_: object) -> bool:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(book, "add", fail)
    bench.block()
    assert bench.duty.report()["troubles"] == ["a customer may not be told: database or disk is full"]
    json.dumps(bench.duty.report())
