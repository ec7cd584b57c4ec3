"""The daemon's half of block lists: what the process says is checked, and who sent most is added to what is told."""

import json
from collections.abc import Mapping
from typing import Any
from unittest.mock import Mock

import jsonschema
import pytest

from smtpguard.cli.block_lists import find_listed_warning, render_listed
from smtpguard.cli.status_check import check_status
from smtpguard.control.answer import Later
from smtpguard.daemon.outlet.listed_report import MAX_NEWS, parse_listed
from smtpguard.daemon.serve.listings import AGAIN_NS, BEFORE_NS, LONGEST_NS, Listings
from smtpguard.doctor.block_lists import check_block_lists
from smtpguard.doctor.finding import ExaminedHost, Finding
from smtpguard.errors import StateError
from smtpguard.model import NS
from smtpguard.notify.body import render_body
from smtpguard.notify.texts import render_text
from smtpguard.resources import read_resource
from smtpguard.settings import Settings
from smtpguard.settings.listed import ListedSettings
from smtpguard.state.desk import HistoryQuestion
from smtpguard.text import parse_address
from tests.unit.test_status_check import status

SCHEMA = jsonschema.Draft202012Validator(json.loads(read_resource("config", "notification.schema.json")))
TIME = "2026-11-29T14:05:00.000000+01:00"
V4 = "203.0.113.5"
ENTRY = {"zone": "zen.example", "codes": ["127.0.0.4"], "reason": r"see https://x/?\x22", "since": TIME}
NEWS = {"id": f"listed-{V4}-1795000000", "address": V4, "holds": True, "zones": [ENTRY]}
SHOWN = {
    "asked": TIME,
    "zones": 2,
    "addresses": [V4],
    "listings": [{"address": V4, **ENTRY}],
    "count": 1,
    "not_asked": [{"zone": "bl.example", "why": "192.0.2.2 does not answer"}],
    "why": None,
}
EVERYBODY = ["user", "domain", "script"]


def test_what_has_its_form_comes_through_unchanged() -> None:
    found = parse_listed({"news": [NEWS], "shown": SHOWN})
    assert found.shown == SHOWN
    (news,) = found.news
    assert (news.id, news.address, news.holds, list(news.zones)) == (NEWS["id"], V4, True, [ENTRY])


@pytest.mark.parametrize("content", [None, [], "x", {"news": 5, "shown": [1]}, {"news": [None, "x", {}, []]}])
def test_what_is_nothing_is_nothing(content: object) -> None:
    found = parse_listed(content)
    assert (found.news, found.shown) == ((), {})


@pytest.mark.parametrize(
    "change",
    [
        {"id": 5}, {"id": "x" * 999}, {"id": "listed-\n"}, {"address": "x"}, {"address": 5}, {"zones": []},
        {"zones": "x"},
        {"zones": [{**ENTRY, "zone": "a b"}]}, {"zones": [{**ENTRY, "since": None}]}, {"zones": [7]},
    ],
)  # fmt: skip
def test_news_without_its_form_are_left_out(change: dict[str, Any]) -> None:
    assert parse_listed({"news": [NEWS | change]}).news == ()


def test_what_strangers_write_is_escaped_and_bounded() -> None:
    codes = ["127.0.0.2", "x", 5] * 100
    evil = ENTRY | {"reason": 'a\n"\x1b[2J' + "b" * 5000, "codes": codes, "more": 1}
    (news,) = parse_listed({"news": [NEWS | {"zones": [evil] * 200}] * 1}).news
    assert len(news.zones) == 64
    assert news.zones[0]["reason"].startswith(r"a\x0a\x22\x1b[2Jb")
    assert len(news.zones[0]["reason"]) < 1100
    assert set(news.zones[0]) == set(ENTRY)
    assert news.zones[0]["codes"] == ["127.0.0.2"] * 6
    assert len(parse_listed({"news": [NEWS] * 999}).news) == MAX_NEWS
    shown = parse_listed({"shown": {"count": -1, "zones": True, "asked": 5, "listings": [[], {"address": V4}]}}).shown
    assert shown == {
        "asked": None, "zones": 0, "addresses": [], "listings": [], "count": 0, "not_asked": [], "why": None,
    }  # fmt: skip


class Bench:
    """The chore, a history of the test's own, and what was told."""

    def __init__(self) -> None:
        self.now_ns = 10 * NS
        self.messenger = Mock(report={})
        self.looks: list[tuple[HistoryQuestion, Later]] = []
        wall = Mock(to_wall_ns=lambda ns: 1_795_000_000 * NS + ns)
        account = Mock()
        account.name = "web01"
        self.listings = Listings(self.messenger, self.ask, Mock(return_value=account), wall, lambda: self.now_ns)

    def ask(self, look: HistoryQuestion) -> Later:
        later = Later()
        self.looks.append((look, later))
        return later

    def report(self, *news: Mapping[str, Any]) -> None:
        self.messenger.report = {"listed": {"news": list(news), "shown": SHOWN}}

    def turn(self, seconds: int = 1) -> list[dict[str, Any]]:
        """A second passes; what was told in it."""
        self.now_ns += seconds * NS
        self.messenger.tell.reset_mock()
        self.listings.on_time(self.now_ns)
        found = [call.args[0] for call in self.messenger.tell.call_args_list]
        for occasion in found:
            SCHEMA.validate(json.loads(render_body(occasion, host="web1", share=EVERYBODY)))
        return found

    def answer(self, own: list[tuple[int, int, int]], everybody: list[tuple[int, int, int]], unknown: int = 0) -> None:
        """The history answers: uid, connected, failed from that address; uid, attempts, refused of all."""
        ((look, later),) = self.looks
        self.looks.clear()

        def select(sql: str, *parameters: object) -> list[tuple[Any, ...]]:
            if "ifnull" in sql:
                return [(unknown,)]
            assert parameters[-2:] == (parse_address(V4), 10)
            return [(uid, parse_address(V4), connected, failed, 1, 2) for uid, connected, failed in own]

        totals = [Mock(key=uid, connects=connects, refused=refused) for uid, connects, refused in everybody]
        history = Mock(select=select, top_users=lambda span: totals[: span.limit])
        later.resolve(look(history))


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_whoever_only_was_refused_pushes_nobody_out_who_has_sent(bench: Bench) -> None:
    bench.report(NEWS)
    bench.turn()
    bench.turn()
    bench.answer([], [*((2000 + n, 9000, 9000) for n in range(500)), (1001, 50, 10), (1002, 41, 0)])
    (told,) = bench.turn()
    users = told["listing"]["senders"]["users"]
    assert [(row["uid"], row["connects"]) for row in users] == [(1002, 41), (1001, 40)]


def test_a_listing_is_told_with_who_sent_most_from_that_address(bench: Bench) -> None:
    bench.report(NEWS)
    assert bench.turn() == []
    assert bench.turn() == [], "the history is not waited for"
    bench.answer([(1001, 1200, 7), (1002, 3, 0)], [(9, 9, 0)], unknown=5)
    (told,) = bench.turn()
    assert (told["id"], told["kind"]) == (NEWS["id"], "listed")
    senders = told["listing"]["senders"]
    assert (senders["scope"], senders["unknown"]) == ("address", 5)
    assert senders["users"] == [
        {"user": "web01", "uid": 1001, "connects": 1207}, {"user": "web01", "uid": 1002, "connects": 3},
    ]  # fmt: skip
    assert BEFORE_NS == 48 * 3600 * NS
    assert render_text(told, EVERYBODY) == (
        f"LISTED: {V4} is on zen.example (127.0.0.4). Largest senders in the 48 h before: web01 1207, web01 3 "
        f"(5 attempts from an address that is not known). See: smtpguard incidents --src {V4} --since 48h. "
        r"The list says: see https://x/?\x22"
    )
    assert bench.turn(1) == []
    bench.report()
    assert bench.turn(100) == []


def test_where_no_own_address_is_known_it_says_so_and_names_the_whole_hosts(bench: Bench) -> None:
    bench.report(NEWS)
    bench.turn()
    bench.answer([], [(1001, 50, 20), (1002, 9, 9)], unknown=30)
    (told,) = bench.turn()
    assert told["listing"]["senders"]["scope"] == "host"
    assert [row["connects"] for row in told["listing"]["senders"]["users"]] == [30], "refused ones never left"
    assert "of the whole host (from that address none is known) in the 48 h before: web01 30" in render_text(
        told, EVERYBODY
    )
    body = json.loads(render_body(told, host="web1", share=EVERYBODY))
    assert body["listed"]["commands"] == ["smtpguard report --since 48h"]


def test_names_leave_the_host_only_where_they_may(bench: Bench) -> None:
    bench.report(NEWS)
    bench.turn()
    bench.answer([(1001, 12, 0)], [])
    (told,) = bench.turn()
    text = render_body(told, host="web1", share=[])
    assert "web01" not in text
    assert "1001" not in text
    assert "Largest senders in the 48 h before: 1, the largest with 12." in json.loads(text)["text"]


def test_a_history_that_can_not_be_read_keeps_nobody_from_being_told(bench: Bench) -> None:
    bench.report(NEWS)
    bench.turn()
    bench.looks.pop()[1].resolve(StateError("damaged"))
    (told,) = bench.turn()
    assert told["listing"]["senders"] is None
    assert "Who sent before is not known: the record can't be read." in render_text(told, EVERYBODY)


def test_a_history_that_does_not_answer_is_waited_for_no_longer_than_half_a_minute(bench: Bench) -> None:
    bench.report(NEWS)
    assert bench.turn() == []
    assert bench.turn(LONGEST_NS // NS - 1) == []
    (told,) = bench.turn()
    assert told["listing"]["senders"] is None
    assert bench.turn() == []


def test_nobody_who_sent_is_said_too(bench: Bench) -> None:
    bench.report(NEWS)
    bench.turn()
    bench.answer([], [])
    (told,) = bench.turn()
    assert "Nobody of the whole host" in render_text(told, EVERYBODY)


def test_an_end_needs_no_history(bench: Bench) -> None:
    zones = [ENTRY | {"zone": f"list{number}.example"} for number in range(6)]
    bench.report(NEWS | {"id": f"{NEWS['id']}-over", "holds": False, "zones": zones})
    (told,) = bench.turn()
    assert bench.looks == []
    assert render_text(told, EVERYBODY) == (
        f"{V4} is no longer listed on list0.example, list1.example, list2.example, list3.example and 2 more. "
        "It was since 2026-11-29 14:05."
    )


def test_what_stays_untold_is_handed_over_again_after_a_minute(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    over = NEWS | {"id": f"{NEWS['id']}-over", "holds": False}
    bench.report(over)
    assert len(bench.turn()) == 1
    assert bench.turn(AGAIN_NS // NS - 1) == []
    assert len(bench.turn()) == 1
    bench.report(NEWS)
    bench.turn()
    assert caplog.messages == [
        f"{V4} is no longer listed on zen.example",
        f"{V4} is LISTED on zen.example",
    ], "once each"


def test_status_says_how_it_stands(bench: Bench) -> None:
    assert bench.listings.collect() is None
    bench.report()
    assert bench.listings.collect() == SHOWN
    assert list(render_listed(SHOWN)) == [
        f"listed: {V4} on zen.example since 2026-11-29 14:05 (127.0.0.4). Who sent: smtpguard incidents --src {V4}",
        "listed: bl.example can't be asked: 192.0.2.2 does not answer",
    ]
    assert list(render_listed(None)) == []
    clean = SHOWN | {"listings": [], "count": 0}
    assert next(iter(render_listed(clean))) == f"listed: nowhere ({V4}; 1 block list asked 2026-11-29 14:05)"
    assert list(render_listed(clean | {"asked": None, "not_asked": []})) == [
        "listed: not known yet, 2 block lists to be asked"
    ]
    assert list(render_listed(clean | {"why": "no address", "not_asked": []})) == ["listed: can't be asked: no address"]
    none = clean | {"zones": 1}
    assert len(list(render_listed(none))) == 1, "nothing was asked: it does not say that it is listed nowhere"
    many = SHOWN | {"listings": SHOWN["listings"] * 9, "count": 70}  # type: ignore[operator]
    assert "listed: 65 more. See: smtpguard status --json" in list(render_listed(many))


@pytest.mark.parametrize(
    ("listed", "warning"),
    [
        (None, None),
        (SHOWN, f"LISTED: {V4} on zen.example since 2026-11-29 14:05 (127.0.0.4)"),
        (SHOWN | {"count": 3}, f"LISTED: {V4} on zen.example since 2026-11-29 14:05 (127.0.0.4) and 2 more"),
        (SHOWN | {"listings": [], "count": 0}, None),
        (SHOWN | {"listings": [], "count": 0, "why": "no address"}, "block lists can't be asked: no address"),
        (
            SHOWN | {"listings": [], "count": 0, "zones": 1},
            "no block list can be asked: bl.example: 192.0.2.2 does not answer",
        ),
        (SHOWN | {"listings": [], "count": 0, "zones": 1, "asked": None, "not_asked": []}, None),
    ],
)
def test_a_check_warns_of_it(listed: Mapping[str, Any] | None, warning: str | None) -> None:
    assert find_listed_warning(listed) == warning
    code, line = check_status(status(listed=listed), warn_dry_run_s=0)
    assert code == (0 if warning is None else 1)
    assert (warning or "OK - guarding") in line


def test_doctor_says_where_there_is_nothing_to_ask_for(monkeypatch: pytest.MonkeyPatch) -> None:
    addresses = [f"203.0.113.{number}" for number in range(7)]
    monkeypatch.setattr("smtpguard.notify.list_round.find_public", tuple)

    def look(**settings: Any) -> Finding:  # noqa: ANN401 - fields of ListedSettings
        return next(iter(check_block_lists(ExaminedHost(Settings(listed=ListedSettings(**settings))))))

    assert (look().level, look().found) == ("ok", "none is asked (listed.zones)")
    finding = look(zones=("zen.example",))
    assert (finding.level, finding.fix) == ("bad", "name the address that others see (1:1 NAT) in listed.addresses")
    assert look(zones=("zen.example",), addresses=tuple(addresses[:1])).found == "asked for 203.0.113.0"
    assert look(zones=("zen.example",), addresses=tuple(addresses)).found.endswith("203.0.113.4 and 2 more")
