"""Attack 9: 60 IPv4 networks through the one /96 of a NAT64 translator."""

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

import pytest

from smtpguard.model import Verdict
from smtpguard.policy.networks import network_of
from tests.support.policy import BURST, connect, engine_of, only


def v6(prefix: str, v4: int) -> bytes:
    return IPv6Address(int(IPv6Address(prefix)) | v4).packed


@pytest.mark.parametrize("prefix", ["64:ff9b::", "64:ff9b:1::", "::ffff:0:0", "::"])
def test_as_many_networks_as_there_are(prefix: str) -> None:
    addresses = [v6(prefix, int(IPv4Address(f"198.{18 + i % 2}.{i}.9"))) for i in range(60)]
    assert len({network_of(address) for address in addresses}) == 60
    assert network_of(addresses[7]) == network_of(IPv4Address("198.19.7.200").packed)


def test_6to4() -> None:
    spread = [IPv6Address((0x2002 << 112) | (int(IPv4Address(f"198.18.{i}.9")) << 80) | i).packed for i in range(60)]
    assert len({network_of(address) for address in spread}) == 60
    assert network_of(spread[3]) == bytes([198, 18, 3])


def test_other_addresses_as_ever() -> None:
    assert network_of(IPv6Address("2001:db8:7:1::1").packed) == IPv6Address("2001:db8:7::").packed[:6]
    assert network_of(IPv6Address("64:ff9b:2::1").packed) == IPv6Address("64:ff9b:2::").packed[:6]
    assert network_of(IPv6Address("64:ff9c::1").packed) == IPv6Address("64:ff9c::").packed[:6]


def test_the_engine_stops_it() -> None:
    engine = engine_of(replace(BURST, count="networks", limit=10))
    addresses = [v6("64:ff9b::", int(IPv4Address(f"198.18.{i}.1"))) for i in range(60)]
    said = [
        decision for i, address in enumerate(addresses) for decision in engine.feed(connect(i / 10, address=address))
    ]
    assert [verdict.count for verdict in only(Verdict, said)] == [11]
