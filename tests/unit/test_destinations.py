"""Destinations that never count."""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpguard.policy.destinations import MAX_REMEMBERED, Destinations

OWN = [ip_network("192.0.2.1/32"), ip_network("2001:db8::1/128")]
EXEMPT = [ip_network("198.51.100.0/24"), ip_network("2001:db8:5::/48"), ip_network("10.0.0.0/8")]


def packed(text: str) -> bytes:
    return ip_address(text).packed


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("127.0.0.1", "loopback"),
        ("127.255.255.254", "loopback"),
        ("0.0.0.0", "loopback"),
        ("::1", "loopback"),
        ("::", "loopback"),
        ("192.0.2.1", "own"),
        ("2001:db8::1", "own"),
        ("198.51.100.77", "exempt"),
        ("10.1.2.3", "exempt"),
        ("2001:db8:5:ffff::1", "exempt"),
        ("192.0.2.2", None),
        ("2001:db8::2", None),
        ("198.51.101.1", None),
    ],
)
def test_kinds(address: str, kind: str | None) -> None:
    destinations = Destinations(own=OWN, exempt=EXEMPT)
    assert destinations.why_exempt(packed(address)) == kind
    assert destinations.why_exempt(packed(address)) == kind, "remembered"


def test_addresses_of_loopback_are_loopbacks_though_the_kernel_lists_them_as_own() -> None:
    listed = [ip_network(text) for text in ("127.0.0.1/32", "127.0.1.1/32", "::1/128", "192.0.2.1/32")]
    destinations = Destinations(own=listed)
    assert {destinations.why_exempt(packed(text)) for text in ("127.0.0.1", "127.0.1.1", "::1")} == {"loopback"}
    assert destinations.networks() == (ip_network("192.0.2.1/32"),)


def test_a_change_is_believed_at_once() -> None:
    destinations = Destinations(own=OWN)
    assert destinations.why_exempt(packed("192.0.2.9")) is None
    assert destinations.replace(own=[*OWN, ip_network("192.0.2.9/32")])
    assert destinations.why_exempt(packed("192.0.2.9")) == "own"
    assert not destinations.replace(own=reversed([*OWN, ip_network("192.0.2.9/32")]))


def test_memory_is_bounded() -> None:
    destinations = Destinations()
    for number in range(MAX_REMEMBERED + 10):
        destinations.why_exempt(number.to_bytes(4, "big"))
    assert len(destinations._known) <= MAX_REMEMBERED


@st.composite
def networks(draw: st.DrawFn) -> list[IPv4Network | IPv6Network]:
    addresses = draw(st.lists(st.ip_addresses(), max_size=8))
    return [ip_network(f"{a}/{draw(st.integers(0, a.max_prefixlen))}", strict=False) for a in addresses]


@given(networks(), st.lists(st.ip_addresses(), min_size=1, max_size=20))
def test_agrees_with_the_library(
    exempt: list[IPv4Network | IPv6Network], addresses: list[IPv4Address | IPv6Address]
) -> None:
    destinations = Destinations(exempt=exempt)
    for address in addresses:
        inside = any(address in network for network in exempt)
        assert (destinations.why_exempt(address.packed) == "exempt") is inside
