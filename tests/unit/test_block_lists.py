"""Block lists: what each answer means, what is told of it and how often, and what can't be asked is neither."""

import json
import math
import stat
import threading
from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from smtpguard.daemon.outlet.frames import MAX_BYTES, HelperSettings, render_frame
from smtpguard.daemon.outlet.listed_report import parse_listed
from smtpguard.decode.dns import DnsAnswer, Kind
from smtpguard.errors import ConfigError, DecodeError, SourceError
from smtpguard.model import NS
from smtpguard.notify.list_answers import ListAnswer, judge_answer, judge_test, name_question, render_reason, show_zone
from smtpguard.notify.list_round import MAX_ADDRESSES, ask_lists, find_public
from smtpguard.notify.listed_duty import LOOK_AGAIN_S, NO_ADDRESS, ListedDuty
from smtpguard.settings.listed import ListedSettings
from smtpguard.settings.load import load_text

ZONE, OTHER = "zen.example", "bl.example"
V4, V6 = "203.0.113.5", "2001:db8::5"
NOT_THERE = DnsAnswer(code=3)
TEST4, NONE4 = (f"{n}.0.0.127.{{}}" for n in (2, 1))


def say(*addresses: str) -> DnsAnswer:
    return DnsAnswer(code=0, addresses=tuple(bytes(map(int, address.split("."))) for address in addresses))


@pytest.mark.parametrize(
    ("address", "name"),
    [
        (V4, "5.113.0.203.zen.example"),
        (V6, "5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.zen.example"),
        ("::ffff:127.0.0.2", "2.0.0.0.0.0.f.7.f.f.f.f" + ".0" * 20 + ".zen.example"),
    ],
)
def test_an_address_is_asked_for_backwards(address: str, name: str) -> None:
    assert name_question(address, ZONE) == name


@pytest.mark.parametrize(
    ("answer", "kind", "why"),
    [
        (NOT_THERE, "clean", ""),
        (say("127.0.0.2"), "listed", ""),
        (say("127.0.0.11", "127.0.0.4"), "listed", ""),
        (say("127.255.254.1"), "listed", ""),
        (say("127.255.255.252"), "unknown", "its name is misspelt (127.255.255.252)"),
        (say("127.255.255.254"), "unknown", "it does not answer public resolvers (127.255.255.254)"),
        (say("127.255.255.255"), "unknown", "it is asked too often from here (127.255.255.255)"),
        (say("127.255.255.7"), "unknown", "it refuses (127.255.255.7)"),
        (say("127.0.0.2", "127.255.255.254"), "unknown", "public resolvers"),
        (say("127.0.0.1"), "unknown", "127.0.0.1 is no block list's answer"),
        (say("198.51.100.7"), "unknown", "198.51.100.7 is no block list's answer: does a resolver redirect it?"),
        (say("127.0.0.2", "198.51.100.7"), "unknown", "198.51.100.7"),
        (say("0.0.0.0"), "unknown", "0.0.0.0"),
        (DnsAnswer(code=0), "unknown", "without an address"),
        (DnsAnswer(code=2), "unknown", "code 2"),
        (DnsAnswer(code=5), "unknown", "code 5"),
    ],
)
def test_what_an_answer_means(answer: DnsAnswer, kind: str, why: str) -> None:
    found = judge_answer(answer)
    assert found.kind == kind
    assert why in found.why
    assert bool(found.codes) == (kind == "listed")


def test_codes_are_in_order() -> None:
    assert judge_answer(say("127.0.0.11", "127.0.0.4", "127.0.0.4")).codes == ("127.0.0.4", "127.0.0.11")


LISTED, CLEAN = ListAnswer(kind="listed"), ListAnswer(kind="clean")


@pytest.mark.parametrize(
    ("has", "has_not", "why"),
    [
        (LISTED, CLEAN, None),
        (CLEAN, CLEAN, "it does not list its own test entry: it is gone, or a resolver hides it"),
        (LISTED, LISTED, "it lists 127.0.0.1, so it lists everybody"),
        (ListAnswer(kind="unknown", why="a"), CLEAN, "a"),
        (LISTED, ListAnswer(kind="unknown", why="b"), "b"),
    ],
)
def test_a_list_that_fails_its_test_is_not_believed(has: ListAnswer, has_not: ListAnswer, why: str | None) -> None:
    assert judge_test(has, has_not) == why


def test_what_a_list_writes_is_escaped_and_bounded() -> None:
    assert render_reason(DnsAnswer(code=0, texts=(b"", b'see\x1b[2J https://x/?a="b\xff'))) == (
        r"see\x1b[2J https://x/?a=\x22b\xff"
    )
    assert len(render_reason(DnsAnswer(code=0, texts=(b"a" * 9000,)))) == 200
    assert render_reason(DnsAnswer(code=0)) == ""


def test_a_customers_key_is_not_shown() -> None:
    assert show_zone("abcdefghijklmnop1234567890.zen.dq.example.net") == "KEY.zen.dq.example.net"
    assert show_zone("zen.spamhaus.org") == "zen.spamhaus.org"


class NameServer:
    """Answers by name; what it has not is not there. An exception is raised."""

    def __init__(self) -> None:
        self.names: dict[str, DnsAnswer | Exception] = {}
        self.texts: dict[str, tuple[bytes, ...]] = {}
        self.asked: list[str] = []
        for zone in (ZONE, OTHER):
            self.set("127.0.0.2", "127.0.0.2", zone=zone)
            self.set("::ffff:127.0.0.2", "127.0.0.2", zone=zone)

    def set(self, address: str, *answers: str, zone: str = ZONE) -> None:
        name = name_question(address, zone)
        self.names.pop(name, None)
        if answers:
            self.names[name] = say(*answers)

    def __call__(self, name: str, kind: Kind, /) -> DnsAnswer:
        self.asked.append(f"{name} {kind}")
        if kind == "TXT":
            return DnsAnswer(code=0, texts=self.texts.get(name, ()))
        found = self.names.get(name, NOT_THERE)
        if isinstance(found, Exception):
            raise found
        return found


@pytest.fixture
def server() -> NameServer:
    return NameServer()


def test_each_list_is_tested_then_asked(server: NameServer) -> None:
    server.set(V4, "127.0.0.4")
    server.texts[name_question(V4, ZONE)] = (b"spam",)
    found = ask_lists([ZONE, OTHER], [V4, V6], ask=server, is_wanted=lambda: True)
    assert found.answers == {
        (V4, ZONE): ListAnswer(kind="listed", codes=("127.0.0.4",), reason="spam"),
        (V6, ZONE): CLEAN,
        (V4, OTHER): CLEAN,
        (V6, OTHER): CLEAN,
    }
    assert found.not_asked == {}
    assert server.asked[:4] == [
        "2.0.0.127.zen.example A", "1.0.0.127.zen.example A",
        "5.113.0.203.zen.example A", "5.113.0.203.zen.example TXT",
    ]  # fmt: skip
    assert len(server.asked) == 2 * 6 + 1


def test_a_list_that_fails_its_test_is_asked_nothing_more(server: NameServer) -> None:
    server.set("127.0.0.2", zone=OTHER)
    server.set(V4, "127.0.0.2", zone=OTHER)
    server.set("::ffff:127.0.0.1", "127.0.0.2", zone=ZONE)
    server.set(V6, "127.0.0.2")
    found = ask_lists([ZONE, OTHER], [V4, V6], ask=server, is_wanted=lambda: True)
    assert found.answers == {(V4, ZONE): CLEAN, (V6, OTHER): CLEAN}
    assert found.not_asked == {
        ZONE: "it lists 127.0.0.1, so it lists everybody (IPv6)",
        OTHER: "it does not list its own test entry: it is gone, or a resolver hides it (IPv4)",
    }


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (TimeoutError("192.0.2.2 does not answer"), "192.0.2.2 does not answer"),
        (ConnectionRefusedError(111, "x"), "Connection refused"),
        (DecodeError("not a host name"), "not a host name"),
    ],
)
def test_who_is_silent_is_asked_once_and_neither_listed_nor_clean(
    server: NameServer, error: Exception, why: str
) -> None:
    server.names = dict.fromkeys([name_question("127.0.0.2", ZONE)], error)
    found = ask_lists([ZONE], [V4], ask=server, is_wanted=lambda: True)
    assert (found.answers, found.not_asked) == ({}, {ZONE: why})
    assert len(server.asked) == 1


def test_a_list_that_goes_silent_is_asked_three_times_and_one_that_hiccups_goes_on(server: NameServer) -> None:
    addresses = [f"203.0.113.{n}" for n in range(10)]
    for address in (addresses[0], *addresses[2:]):
        server.names[name_question(address, ZONE)] = OSError("the name server answers SERVFAIL")
    found = ask_lists([ZONE], addresses, ask=server, is_wanted=lambda: True)
    assert [found.answers[address, ZONE].kind for address in addresses[:5]] == [
        "unknown", "clean", "unknown", "unknown", "unknown",
    ]  # fmt: skip
    assert len(found.answers) == 5
    assert found.not_asked == {ZONE: "the name server answers SERVFAIL (about 203.0.113.0)"}


def test_a_resolver_that_answers_everything_lists_nobody(server: NameServer) -> None:
    for everything in ("198.51.100.7", "127.0.0.2", "127.255.255.254"):

        def ask(name: str, kind: Kind, everything: str = everything, /) -> DnsAnswer:
            del name, kind
            return say(everything)

        found = ask_lists([ZONE], [V4], ask=ask, is_wanted=lambda: True)
        assert found.answers == {}
        assert list(found.not_asked) == [ZONE]
    del server


class Bench:
    """The duty with clocks and a name server of the test's own."""

    def __init__(self, folder: Path, server: NameServer) -> None:
        self.folder, self.server = folder, server
        self.now_s = 1000.0
        self.addresses: tuple[str, ...] = (V4,)
        self.settings = ListedSettings(zones=(ZONE, OTHER))
        self.begin()

    def begin(self) -> None:
        """A helper that starts."""
        self.woken = threading.Event()
        self.duty = ListedDuty(
            self.woken.set,
            ask=self.server,
            find=self.find,
            clock=lambda: self.now_s,
            wall=lambda: 1_795_000_000 + self.now_s,
        )
        self.configure()

    def find(self, extra: object, /) -> tuple[str, ...]:
        del extra
        return self.addresses

    def configure(self, **settings: Any) -> None:  # noqa: ANN401 - fields of ListedSettings
        self.settings = ListedSettings(**{"zones": self.settings.zones, **settings})
        self.duty.configure(
            HelperSettings(
                control_socket="/x", state_path=str(self.folder / "state.db"), values={"listed": self.settings}
            )
        )

    def turn(self, seconds: float = 3600) -> list[Mapping[str, Any]]:
        """Some time passes; what is to be told then."""
        self.now_s += seconds
        self.woken.clear()
        self.duty.on_time(self.now_s)
        if self.duty._asking is not None:
            assert self.woken.wait(10)
            self.duty.on_time(self.now_s)
        return list(self.duty.report().get("news", []))

    def told(self, news: list[Mapping[str, Any]]) -> None:
        for one in news:
            self.duty.take("occasion", {"kind": "listed", "id": one["id"]})

    @property
    def shown(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.duty.report()["shown"]
        return found


@pytest.fixture
def bench(tmp_path: Path, server: NameServer, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr("smtpguard.notify.listed_duty.apply_capabilities", lambda keep: keep)
    return Bench(tmp_path, server)


def test_nothing_is_asked_until_lists_are_named(bench: Bench) -> None:
    bench.configure(zones=())
    assert bench.duty.next_due_s() is None
    assert bench.turn() == []
    assert bench.duty.report() == {}
    assert bench.server.asked == []


def test_a_listing_is_told_once_and_so_is_its_end(bench: Bench) -> None:
    assert bench.turn(0) == []
    bench.server.set(V4, "127.0.0.4")
    (begins,) = news = bench.turn()
    assert (begins["address"], begins["holds"]) == (V4, True)
    assert [(row["zone"], row["codes"]) for row in begins["zones"]] == [(ZONE, ["127.0.0.4"])]
    assert bench.turn() == news, "as long as nobody has taken it, with the same id"
    bench.told(news)
    assert bench.turn() == []
    assert bench.shown["count"] == 1
    since = bench.shown["listings"][0]["since"]
    assert bench.turn() == []
    assert bench.shown["listings"][0]["since"] == since
    bench.server.set(V4)
    (over,) = news = bench.turn()
    assert (over["holds"], over["id"], over["zones"][0]["since"]) == (False, f"{over['id'][:-5]}-over", since)
    assert bench.shown["count"] == 0
    bench.told(news)
    assert bench.turn() == []
    bench.server.set(V4, "127.0.0.4")
    (again,) = bench.turn()
    assert again["id"] != begins["id"]


def test_an_end_that_nobody_has_heard_of_yet_is_no_end_if_it_is_listed_again(bench: Bench) -> None:
    bench.server.set(V4, "127.0.0.4")
    bench.told(bench.turn())
    bench.server.set(V4)
    assert bench.turn()
    bench.server.set(V4, "127.0.0.4")
    assert bench.turn() == []


def test_a_listing_that_is_over_before_it_was_told_is_not_told(bench: Bench) -> None:
    bench.server.set(V4, "127.0.0.4")
    assert bench.turn()
    bench.server.set(V4)
    assert bench.turn() == []


@pytest.mark.parametrize("way", ["silent", "redirected", "refused", "gone"])
def test_what_can_not_be_asked_changes_nothing(bench: Bench, way: str) -> None:
    bench.server.set(V4, "127.0.0.4")
    bench.told(bench.turn())
    names = dict(bench.server.names)
    test = name_question("127.0.0.2", ZONE)
    ways: dict[str, dict[str, DnsAnswer | Exception]] = {
        "silent": {test: TimeoutError("silence")},
        "redirected": dict.fromkeys(names, say("198.51.100.7")),
        "refused": {name_question(V4, ZONE): say("127.255.255.254")},
        "gone": {test: NOT_THERE, name_question(V4, ZONE): NOT_THERE},
    }
    bench.server.names |= ways[way]
    assert bench.turn() == []
    assert bench.shown["count"] == 1, "neither clean"
    assert ZONE in [row["zone"] for row in bench.shown["not_asked"]]
    bench.server.names = names
    assert bench.turn() == [], "nor listed anew"
    assert bench.shown["not_asked"] == []


def test_a_restart_tells_nothing_again_and_loses_nothing(bench: Bench) -> None:
    bench.server.set(V4, "127.0.0.4")
    news = bench.turn()
    bench.begin()
    assert bench.duty.report()["news"] == news, "before anything is asked"
    bench.told(news)
    bench.begin()
    assert bench.turn(0) == []
    assert bench.shown["count"] == 1
    bench.server.set(V4)
    bench.begin()
    (over,) = bench.turn()
    assert not over["holds"]
    path = bench.folder / "listed-state.json"
    assert path.stat().st_mode & 0o777 == 0o600


def test_what_is_found_of_an_address_in_a_round_is_told_together(bench: Bench) -> None:
    bench.addresses = (V4, "203.0.113.6", V6)
    for address in bench.addresses:
        for zone in (ZONE, OTHER):
            bench.server.set(address, "127.0.0.4", zone=zone)
    news = bench.turn()
    assert [(one["address"], len(one["zones"])) for one in news] == [(address, 2) for address in bench.addresses]


def test_the_largest_report_fits_into_a_packet_and_the_rest_follows(bench: Bench) -> None:
    zones = tuple(f"{'z' * 15}{n:02}.{'.'.join(['y' * 19] * 8)}" for n in range(16))
    bench.addresses = tuple(f"2001:db8:{n:x}:aaaa:bbbb:cccc:dddd:eeee" for n in range(0x1000, 0x1000 + MAX_ADDRESSES))
    for zone in zones:
        bench.server.set("::ffff:127.0.0.2", "127.0.0.2", zone=zone)
        for address in bench.addresses:
            bench.server.set(address, *(f"127.255.254.{n}" for n in range(100, 120)), zone=zone)
            bench.server.texts[name_question(address, zone)] = (b"\xff\\" * 200,)
    bench.configure(zones=zones)
    told = set()
    news = bench.turn(0)
    while news:
        assert len(render_frame("report", {"listed": bench.duty.report()})) < MAX_BYTES - 5000
        assert parse_listed(bench.duty.report()).news[-1].id == news[-1]["id"]
        told |= {one["id"] for one in news}
        bench.told(news)
        news = list(bench.duty.report()["news"])
    assert len(told) == MAX_ADDRESSES
    assert bench.shown["count"] == MAX_ADDRESSES * 16


def test_an_address_that_moves_away_and_back_is_not_news(bench: Bench) -> None:
    bench.server.set(V4, "127.0.0.4")
    bench.told(bench.turn())
    bench.addresses = (V6,)
    assert bench.turn(86_400) == []
    assert bench.shown["count"] == 0
    bench.addresses = (V4,)
    assert bench.turn(86_400) == []
    assert bench.shown["count"] == 1
    bench.addresses = (V6,)
    bench.turn(8 * 86_400)
    bench.addresses = (V4,)
    assert len(bench.turn()) == 1, "after a week it is another one"


def test_a_list_that_is_named_no_more_is_forgotten(bench: Bench) -> None:
    bench.server.set(V4, "127.0.0.4")
    bench.told(bench.turn())
    bench.configure(zones=(OTHER,))
    assert bench.turn(0) == []
    assert bench.shown["count"] == 0
    assert json.loads((bench.folder / "listed-state.json").read_text())["listings"] == []


def test_without_an_address_it_says_so_and_looks_again_soon(bench: Bench) -> None:
    bench.addresses = ()
    assert bench.turn(0) == []
    assert bench.shown["why"] == NO_ADDRESS
    assert bench.shown["asked"] is None
    bench.addresses = (V4,)
    bench.turn(LOOK_AGAIN_S)
    assert bench.shown["why"] is None
    assert bench.shown["asked"] is not None


def test_interfaces_that_can_not_be_read_leave_what_was_known(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.turn(0)

    def find(extra: object, /) -> tuple[str, ...]:
        del extra
        raise SourceError("the kernel does not answer")

    monkeypatch.setattr(bench.duty, "_find", find)
    bench.turn()
    assert bench.shown["why"] == "the kernel does not answer"
    assert bench.shown["addresses"] == [V4]


def test_it_asks_as_often_as_is_said(bench: Bench) -> None:
    bench.configure(every_ns=600 * NS)
    bench.turn(0)
    count = len(bench.server.asked)
    bench.turn(599)
    assert len(bench.server.asked) == count
    bench.turn(1)
    assert len(bench.server.asked) == 2 * count


def test_a_round_under_other_settings_counts_no_more(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, goes_on = threading.Event(), threading.Event()
    bench.server.set(V4, "127.0.0.4")

    def ask(name: str, kind: Kind, /) -> DnsAnswer:
        begun.set()
        assert goes_on.wait(10)
        return bench.server(name, kind)

    monkeypatch.setattr(bench.duty, "_ask", ask)
    bench.duty.on_time(bench.now_s)
    assert begun.wait(10)
    assert bench.duty.next_due_s() is None
    bench.configure(zones=(OTHER,))
    goes_on.set()
    assert bench.woken.wait(10)
    monkeypatch.setattr(bench.duty, "_ask", bench.server)
    assert bench.turn(0) == []
    assert bench.shown["zones"] == 1
    bench.duty.close()


def test_a_mistake_of_ours_is_said_and_the_next_round_comes(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(name: str, kind: Kind, /) -> DnsAnswer:
        raise RuntimeError(name + kind)

    monkeypatch.setattr(bench.duty, "_ask", ask)
    bench.turn(0)
    assert [row["zone"] for row in bench.shown["not_asked"]] == [ZONE, OTHER]
    monkeypatch.setattr(bench.duty, "_ask", bench.server)
    bench.turn()
    assert bench.shown["not_asked"] == []


def test_a_damaged_file_and_a_full_disk_are_said(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.server.set(V4, "127.0.0.4")
    bench.told(bench.turn())
    kept = json.loads((bench.folder / "listed-state.json").read_text())["listings"][0]
    odd = (
        {"address": ["x"]},
        {"since_s": "x"},
        {"seen_s": math.nan},
        {"codes": 5},
        {"is_told": 1},
        {"over_s": math.inf},
    )
    for text in (*(json.dumps({"listings": [kept | value]}) for value in odd), "[" * 100_000, "{"):
        (bench.folder / "listed-state.json").write_text(text)
        bench.begin()
        assert "told again" in bench.duty.report()["troubles"][0], text[:200]
    assert len(bench.turn(0)) == 1
    assert bench.duty.report()["troubles"] == []

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    file = bench.folder / "listed-state.json"
    before = file.read_text()
    bench.server.set(V4)
    monkeypatch.setattr("smtpguard.notify.text_file.os.fsync", fail)
    bench.turn()
    assert "No space left on device" in bench.duty.report()["troubles"][0]
    assert bench.shown["count"] == 0, "known all the same"
    assert (file.read_text(), stat.S_IMODE(file.stat().st_mode)) == (before, 0o600), "whole, and as it was"
    assert [path.name for path in bench.folder.iterdir() if path.name.endswith(".new")] == []


def test_figures_for_metrics_are_there_from_the_first_time(bench: Bench) -> None:
    assert bench.duty.list_series() == ([[ZONE, V4, 0], [OTHER, V4, 0]], [[ZONE, 0], [OTHER, 0]])
    bench.server.set(V4, "127.0.0.4")
    bench.server.set("127.0.0.2", zone=OTHER)
    bench.turn(0)
    assert bench.duty.list_series() == ([[ZONE, V4, 1], [OTHER, V4, 0]], [[ZONE, 1], [OTHER, 0]])
    keys = tuple(f"{letter * 26}.dq.example" for letter in "ab")
    bench.configure(zones=keys)
    assert bench.duty.list_series() == ([["KEY.dq.example", V4, 0]], [["KEY.dq.example", 0]])


def listed(text: str) -> ListedSettings:
    return load_text(f"version: 1\nlisted: {text}\n", "/x").listed


def test_names_and_addresses_are_read_in_one_spelling() -> None:
    found = listed(
        "{zones: [Zen.Example., zen.example], every: 10m, addresses: ['2001:DB8::0:5', '::ffff:203.0.113.5']}"
    )
    assert found == ListedSettings(zones=(ZONE,), every_ns=600 * NS, addresses=(V6, V4))
    assert listed("{}") == ListedSettings() == ListedSettings(zones=(), every_ns=3600 * NS)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{zones: [example]}", "not the name of a block list such as zen.spamhaus.org"),
        ("{zones: [203.0.113.5]}", "not the name of a block list"),
        ("{zones: ['https://zen.example']}", "not the name of a block list"),
        ("{zones: ['*.example.org']}", "not the name of a block list"),
        (f"{{zones: [{'a.' * 91}example]}}", "longer than 180 characters"),
        (f"{{zones: [{', '.join(f'z{n}.example' for n in range(17))}]}}", "listed.zones"),
        ("{every: 9m}", "listed.every: 9m is shorter than 10m. Lists refuse who asks more often"),
        ("{addresses: [203.0.113.0/24]}", "not an address such as 203.0.113.5"),
        ("{addresses: ['fe80::1%eth0']}", "not an address such as 203.0.113.5"),
        ("{addresses: [host.example]}", "not an address such as 203.0.113.5"),
    ],
)
def test_what_is_no_list_and_no_address_is_refused(text: str, told: str) -> None:
    with pytest.raises(ConfigError) as error:
        listed(text)
    assert told in str(error.value)


def test_public_addresses_are_asked_for_and_those_named(monkeypatch: pytest.MonkeyPatch) -> None:
    own = ["127.0.0.1", "10.0.0.1", "100.64.0.1", "169.254.1.1", "192.0.2.1", "8.8.8.8", "::1", "fe80::1", "fd00::1"]
    networks = [ip_network(address) for address in [*own, "2600::1", "2001:db8::1"]]
    fake = Mock(networks=networks)
    monkeypatch.setattr("smtpguard.notify.list_round.OwnAddresses", lambda: fake)
    assert find_public(["192.0.2.7", "8.8.8.8"]) == ("192.0.2.7", "8.8.8.8", "2600::1")
    fake.close.assert_called_once()
    assert len(find_public([f"192.0.2.{n}" for n in range(99)])) == MAX_ADDRESSES
