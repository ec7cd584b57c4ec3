"""Exempt destinations by name: the last good answer holds."""

import select
from ipaddress import ip_network

from smtpguard.enrich.named import MAX_ADDRESSES, NamedDestinations


class Resolver:
    def __init__(self) -> None:
        self.answers: dict[str, list[str]] = {}

    def __call__(self, name: str) -> list[str]:
        if name not in self.answers:
            raise OSError("no such host")
        return self.answers[name]


def test_the_last_good_answer_holds() -> None:
    resolver = Resolver()
    resolver.answers = {"relay.example": ["192.0.2.1", "2001:db8::1"]}
    named = NamedDestinations(["relay.example", "gone.example"], resolve=resolver)
    assert named.look_up()
    expected = (ip_network("192.0.2.1/32"), ip_network("2001:db8::1/128"))
    assert named.networks() == expected
    assert named.failed() == ("gone.example",)
    resolver.answers = {}
    assert not named.look_up()
    assert named.networks() == expected
    assert named.failed() == ("gone.example", "relay.example")
    resolver.answers = {"relay.example": ["192.0.2.9"]}
    assert named.look_up()
    assert named.networks() == (ip_network("192.0.2.9/32"),)
    named.close()


def test_hostile_answers_are_bounded_or_ignored() -> None:
    resolver = Resolver()
    resolver.answers = {"many.example": [f"10.0.{n // 250}.{n % 250}" for n in range(1000)], "odd.example": ["a b"]}
    named = NamedDestinations(["many.example", "odd.example"], resolve=resolver)
    named.look_up()
    assert len(named.networks()) == MAX_ADDRESSES
    assert named.failed() == ("odd.example",)
    named.close()


def test_the_thread_tells_and_takes_other_names() -> None:
    resolver = Resolver()
    resolver.answers = {"a.example": ["192.0.2.1"], "b.example": ["192.0.2.2"]}
    named = NamedDestinations(["a.example"], resolve=resolver)
    named.start()
    assert select.select([named.fileno()], [], [], 5)[0]
    named.take_news()
    assert named.networks() == (ip_network("192.0.2.1/32"),)
    named.replace(["b.example"])
    assert select.select([named.fileno()], [], [], 5)[0]
    assert named.networks() == (ip_network("192.0.2.2/32"),)
    named.close()
    named.close()
