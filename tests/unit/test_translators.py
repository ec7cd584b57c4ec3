"""The host's own NAT64: prefixes of every length, answers of hostile name servers, and changes beside the loop."""

import select
import threading
import time
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, IPv6Network

import pytest

from smtpguard.enrich.translators import Chosen, Translators
from smtpguard.policy.networks import MAX_TRANSLATORS, PLACES, find_prefix, network_of, use_translators

PREFIXES = [IPv6Network(f"2001:db8:1122:3344:55:66::/{length}", strict=False) for length in PLACES]
PREFIXES = [IPv6Network((int(net.network_address) & ~(0xFF << 56), net.prefixlen)) for net in PREFIXES]
"""Byte 8 is nobody's."""


def embed(prefix: IPv6Network, address: str) -> bytes:
    """RFC 6052, 2.2, written another way: the IPv4 bytes go in one after the other, and step over byte 8."""
    out = bytearray(prefix.network_address.packed)
    place = prefix.prefixlen // 8
    for byte in IPv4Address(address).packed:
        place += place == 8
        out[place] = byte
        place += 1
    return bytes(out)


@pytest.fixture(autouse=True)
def own() -> Iterator[None]:
    yield
    use_translators([])


def test_examples_of_the_rfc() -> None:
    """RFC 6052, 2.4."""
    examples = {
        "2001:db8::/32": "2001:db8:c000:221::",
        "2001:db8:100::/40": "2001:db8:1c0:2:21::",
        "2001:db8:122::/48": "2001:db8:122:c000:2:2100::",
        "2001:db8:122:300::/56": "2001:db8:122:3c0:0:221::",
        "2001:db8:122:344::/64": "2001:db8:122:344:c0:2:2100::",
        "2001:db8:122:344::/96": "2001:db8:122:344::192.0.2.33",
    }
    for prefix, address in examples.items():
        assert embed(IPv6Network(prefix), "192.0.2.33") == IPv6Address(address).packed
        use_translators([IPv6Network(prefix)])
        assert network_of(IPv6Address(address).packed) == bytes([192, 0, 2])


@pytest.mark.parametrize("prefix", PREFIXES, ids=str)
def test_what_is_behind_a_translator_counts_as_what_it_carries(prefix: IPv6Network) -> None:
    addresses = [embed(prefix, f"198.18.{number}.{number}") for number in range(60)]
    assert len({network_of(address) for address in addresses}) < 60 or prefix.prefixlen < 48
    use_translators([prefix])
    assert [network_of(address) for address in addresses] == [bytes([198, 18, number]) for number in range(60)]
    assert network_of(bytes([0x20, 0x02, 198, 18, 7, 7]) + bytes(10)) == bytes([198, 18, 7])
    outside = bytes([0x26]) + addresses[0][1:]
    assert network_of(outside) == outside[:6]


def test_a_prefix_of_ones_own_comes_before_the_ones_known_to_all() -> None:
    prefix = IPv6Network("64:ff9b:1::/48")
    use_translators([prefix])
    assert network_of(embed(prefix, "198.18.5.9")) == bytes([198, 18, 5])


@pytest.mark.parametrize("prefix", PREFIXES, ids=str)
@pytest.mark.parametrize("known", ["192.0.0.170", "192.0.0.171"])
def test_a_prefix_is_found_in_an_answer(prefix: IPv6Network, known: str) -> None:
    assert find_prefix(embed(prefix, known)) == prefix


@pytest.mark.parametrize(
    "address",
    [
        "2001:db8::1",
        "2001:db8::192.0.0.169",
        "::192.0.0.170",
        "::ffff:192.0.0.170",
        "ff02::192.0.0.170",
        "fe80::192.0.0.170",
        "2001:db8:c000:aa:0:1::",  # something stands behind the address
        "2001:db8:c000:aa:100::",  # and in the byte that is nobody's
        "2001:db8:c000:aa::192.0.0.170",  # in two places
    ],
)
def test_what_is_not_plain_is_no_prefix(address: str) -> None:
    assert find_prefix(IPv6Address(address).packed) is None


class Server:
    """Answers what it is told to, and says when it was asked."""

    def __init__(self, answer: list[bytes] | None) -> None:
        self.answer = answer
        self.asked = threading.Semaphore(0)

    def __call__(self, name: str, /) -> tuple[list[bytes], int | None] | None:
        assert name == "ipv4only.arpa"
        self.asked.release()
        return None if self.answer is None else (self.answer, 0)


def wait_news(translators: Translators) -> bool:
    assert select.select([translators.fileno()], [], [], 5)[0]
    return translators.take_news()


def test_they_are_learnt_and_change_beside_the_loop() -> None:
    server = Server([embed(PREFIXES[5], "192.0.0.170"), embed(PREFIXES[5], "192.0.0.171"), bytes(16)])
    translators = Translators("auto", ask=server)
    assert list(translators.prefixes) == []
    translators.start()
    assert wait_news(translators)
    assert list(translators.prefixes) == [PREFIXES[5]]
    server.answer = None
    while server.asked.acquire(blocking=False):
        pass
    translators.ask_again()
    assert server.asked.acquire(timeout=5)
    time.sleep(0.05)
    assert not translators.take_news(), "nobody answered: what was known holds"
    server.answer = [embed(prefix, "192.0.0.170") for prefix in PREFIXES]
    translators.ask_again()
    assert wait_news(translators)
    assert len(translators.prefixes) == MAX_TRANSLATORS, "however many there are said to be"
    assert translators.replace((PREFIXES[0],)), "the operator knows best"
    assert list(translators.prefixes) == [PREFIXES[0]]
    assert translators.replace("none")
    assert list(translators.prefixes) == []
    translators.close()
    translators.close()


def test_none_are_asked_for_where_the_operator_has_said() -> None:
    server = Server([])
    given: tuple[Chosen, ...] = ("none", (PREFIXES[0],))
    for chosen in given:
        translators = Translators(chosen, ask=server)
        translators.start()
        translators.close()
    assert not server.asked.acquire(blocking=False)
