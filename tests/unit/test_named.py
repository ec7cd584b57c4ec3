"""Exempt destinations by name: what a name gave holds for a day, and a doubted address is asked for at once."""

import os
import select
from ipaddress import ip_network

import pytest

from smtpguard.enrich import exempt_hosts as module
from smtpguard.enrich.exempt_hosts import KEEP_NS, MAX_ADDRESSES, MAX_KEPT, ExemptHosts
from smtpguard.enrich.host_addresses import Cleared
from smtpguard.enrich.resolver import Resolved
from smtpguard.model import NS, Subject

WEB01 = Subject(id=1001)
NEW = bytes([192, 0, 2, 9])


class Resolver:
    """Answers from a table; a list of answers is given one after the other, again and again."""

    def __init__(self) -> None:
        self.answers: dict[str, list[str]] = {}
        self.turns: dict[str, list[list[str]]] = {}
        self.ttl_s: int | None = 60
        self.asked: list[str] = []

    def __call__(self, name: str) -> Resolved:
        self.asked.append(name)
        if name in self.turns:
            self.turns[name].append(self.turns[name].pop(0))
            return Resolved(addresses=tuple(self.turns[name][-1]), ttl_s=self.ttl_s)
        if name not in self.answers:
            raise OSError("no such host")
        return Resolved(addresses=tuple(self.answers[name]), ttl_s=self.ttl_s)


class Clock:
    def __init__(self) -> None:
        self.now_ns = 1000 * NS

    def __call__(self) -> int:
        return self.now_ns


def shown(named: ExemptHosts) -> list[str]:
    return [str(network.network_address) for network in named.networks()]


def test_the_last_good_answer_holds() -> None:
    resolver, clock = Resolver(), Clock()
    resolver.answers = {"relay.example": ["192.0.2.1", "2001:db8::1"]}
    named = ExemptHosts(["relay.example", "gone.example"], resolve=resolver, now=clock)
    assert named.look_up()
    expected = (ip_network("192.0.2.1/32"), ip_network("2001:db8::1/128"))
    assert named.networks() == expected
    assert named.failed() == ("gone.example",)
    resolver.answers = {}
    assert KEEP_NS == 24 * 3600 * NS
    clock.now_ns += 30 * KEEP_NS
    assert not named.look_up()
    assert named.networks() == expected
    assert named.failed() == ("gone.example", "relay.example")
    named.close()


def test_what_a_name_gave_holds_for_a_day() -> None:
    resolver, clock = Resolver(), Clock()
    resolver.answers = {"relay.example": ["192.0.2.1"]}
    named = ExemptHosts(["relay.example"], resolve=resolver, now=clock)
    named.look_up()
    clock.now_ns += 60 * NS
    resolver.answers = {"relay.example": ["192.0.2.9"]}
    assert named.look_up()
    assert shown(named) == ["192.0.2.9", "192.0.2.1"]
    assert named.render() == "relay.example 2 (asked again in 30 s)"
    clock.now_ns += KEEP_NS - 61 * NS
    assert not named.look_up()
    clock.now_ns += 2 * NS
    assert named.look_up()
    assert shown(named) == ["192.0.2.9"]
    named.close()


@pytest.mark.parametrize(("ttl_s", "pause_s"), [(0, 30), (60, 30), (200, 100), (7200, 3600), (10**9, 3600), (None, 60)])
def test_a_name_is_asked_again_at_half_its_lifetime(ttl_s: int | None, pause_s: int) -> None:
    resolver, clock = Resolver(), Clock()
    resolver.answers, resolver.ttl_s = {"relay.example": ["192.0.2.1"]}, ttl_s
    named = ExemptHosts(["relay.example"], resolve=resolver, now=clock)
    named.look_up(due_only=True)
    clock.now_ns += pause_s * NS - 1
    named.look_up(due_only=True)
    assert len(resolver.asked) == 1
    clock.now_ns += 1
    named.look_up(due_only=True)
    assert len(resolver.asked) == 2
    named.close()


def test_hostile_answers_are_bounded_or_ignored() -> None:
    resolver, clock = Resolver(), Clock()
    resolver.answers = {"many.example": [f"10.0.{n // 250}.{n % 250}" for n in range(1000)], "odd.example": ["a b"]}
    named = ExemptHosts(["many.example", "odd.example"], resolve=resolver, now=clock)
    named.look_up()
    assert len(named.networks()) == MAX_ADDRESSES
    assert named.failed() == ("odd.example",)
    for turn in range(1, 20):
        clock.now_ns += 60 * NS
        resolver.answers["many.example"] = [f"10.{turn}.0.{n}" for n in range(64)]
        named.look_up()
    assert len(named.networks()) == MAX_KEPT
    assert shown(named)[0].startswith("10.19."), "the oldest went"
    assert "many.example 256 (64 more did not fit)" in named.render()
    named.close()


def test_an_address_is_named_as_the_kernel_does() -> None:
    resolver = Resolver()
    resolver.answers = {"relay.example": ["::ffff:192.0.2.9", "2001:DB8:0::1"]}
    named = ExemptHosts(["relay.example"], resolve=resolver, now=Clock())
    named.look_up()
    assert shown(named) == ["192.0.2.9", "2001:db8::1"]
    named.close()


def test_a_resolver_that_fails_is_asked_once_a_round() -> None:
    resolver = Resolver()
    named = ExemptHosts(["relay.example"], resolve=resolver, now=Clock())
    named.doubt(NEW, WEB01)
    assert not named.settle()
    assert resolver.asked == ["relay.example"]
    named.close()


def test_all_names_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_KEPT_IN_ALL", 5)
    resolver = Resolver()
    resolver.answers = {f"r{n}.example": [f"192.0.2.{n}"] for n in range(10)}
    named = ExemptHosts(list(resolver.answers), resolve=resolver, now=Clock())
    named.look_up()
    assert len(named.networks()) == 5
    named.close()


def test_a_doubted_address_is_asked_for_until_it_is_given() -> None:
    resolver, clock = Resolver(), Clock()
    resolver.turns = {"relay.example": [["192.0.2.7"], ["192.0.2.8"], ["192.0.2.9"]]}
    named = ExemptHosts(["relay.example"], resolve=resolver, now=clock)
    named.look_up()
    named.doubt(NEW, WEB01)
    named.doubt(NEW, Subject(id=1002))
    assert named.settle()
    assert set(shown(named)) == {"192.0.2.7", "192.0.2.8", "192.0.2.9"}
    os.eventfd_write(named.fileno(), 1)
    assert named.take_news() == [
        Cleared(subject=Subject(id=uid), address=NEW, name="relay.example") for uid in (1001, 1002)
    ]
    assert named.take_news() == []
    named.close()


def test_an_address_that_no_name_gives_is_not_asked_for_again_and_again() -> None:
    resolver, clock = Resolver(), Clock()
    resolver.answers = {"relay.example": ["192.0.2.1"]}
    named = ExemptHosts(["relay.example"], resolve=resolver, now=clock)
    named.look_up()
    named.doubt(NEW, WEB01)
    assert not named.settle()
    asked = len(resolver.asked)
    assert asked == 1 + module.TRIES
    named.doubt(NEW, WEB01)
    assert not named.settle()
    assert len(resolver.asked) == asked
    clock.now_ns += module.DOUBTED_NS
    named.doubt(NEW, WEB01)
    named.settle()
    assert len(resolver.asked) == asked + module.TRIES
    named.close()


def test_doubts_are_bounded_and_one_user_does_not_take_all_of_them() -> None:
    named = ExemptHosts(["relay.example"], resolve=Resolver(), now=Clock())
    for number in range(1000):
        named.doubt(bytes([10, 0, number // 250, number % 250]), WEB01)
    assert len(named._doubts) == module.MAX_DOUBTS_OF_ONE
    for number in range(1000):
        named.doubt(bytes([10, 1, number // 250, number % 250]), Subject(id=2000 + number))
    assert len(named._doubts) == module.MAX_DOUBTS
    named.close()


def test_without_names_nothing_is_doubted() -> None:
    named = ExemptHosts([], resolve=Resolver(), now=Clock())
    named.doubt(NEW, WEB01)
    assert (named._doubts, named.render()) == ({}, "")
    named.close()


def test_the_thread_tells_and_takes_other_names() -> None:
    resolver = Resolver()
    resolver.answers = {"a.example": ["192.0.2.1"], "b.example": ["192.0.2.2"]}
    named = ExemptHosts(["a.example"], resolve=resolver)
    named.start()
    assert select.select([named.fileno()], [], [], 5)[0]
    named.take_news()
    assert named.networks() == (ip_network("192.0.2.1/32"),)
    named.replace(["b.example"])
    assert select.select([named.fileno()], [], [], 5)[0]
    named.take_news()
    assert named.networks() == (ip_network("192.0.2.2/32"),)
    resolver.answers["b.example"] = ["192.0.2.9"]
    named.doubt(NEW, WEB01)
    assert select.select([named.fileno()], [], [], 5)[0], "at once, not at half its lifetime"
    assert [cleared.name for cleared in named.take_news()] == ["b.example"]
    named.close()
    named.close()
