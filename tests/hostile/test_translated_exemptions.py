"""Exempt IPv4 destinations behind NAT64: who reaches the smarthost through a translator is no spammer for it."""

from ipaddress import IPv4Network, IPv6Network, ip_address

import pytest

from smtpguard.policy.networks import PLACES, list_translated
from tests.support.host import INNOCENT, SPAMMER, Host, wait_for

WELL_KNOWN = IPv6Network("64:ff9b::/96")
SMARTHOST = "192.0.2.33"


@pytest.mark.parametrize(
    ("prefix", "address"),
    [
        ("2001:db8::/32", "2001:db8:c000:221::"),
        ("2001:db8:100::/40", "2001:db8:1c0:2:21::"),
        ("2001:db8:122::/48", "2001:db8:122:c000:2:2100::"),
        ("2001:db8:122:300::/56", "2001:db8:122:3c0:0:221::"),
        ("2001:db8:122:344::/64", "2001:db8:122:344:c0:2:2100::"),
        ("2001:db8:122:344::/96", "2001:db8:122:344::192.0.2.33"),
    ],
)
def test_as_the_rfc_has_them(prefix: str, address: str) -> None:
    """RFC 6052, 2.4."""
    found = list_translated([IPv4Network(SMARTHOST)], [IPv6Network(prefix)])
    known, own = sorted(found, key=lambda network: not network.subnet_of(WELL_KNOWN))
    assert ip_address(address) in own
    assert known == IPv6Network(f"64:ff9b::{SMARTHOST}/128")
    assert own.prefixlen == (PLACES[int(prefix.partition("/")[2])][3] + 1) * 8


@pytest.mark.parametrize("length", range(33))
@pytest.mark.parametrize("bits", sorted(PLACES))
def test_a_network_holds_what_is_in_it_and_nothing_beside(length: int, bits: int) -> None:
    prefix = IPv6Network((IPv6Network("2001:db8::").network_address, bits))
    network = IPv4Network(f"{SMARTHOST}/{length}", strict=False)
    [found] = [translated for translated in list_translated([network], [prefix]) if translated.subnet_of(prefix)]
    inside, outside = network[-1], network.network_address - 1 if length else None
    assert of(inside, prefix) in found
    if outside is not None and int(outside) >= 0:
        assert of(outside, prefix) not in found


def of(address: object, prefix: IPv6Network) -> object:
    [network] = [found for found in list_translated([IPv4Network(str(address))], [prefix]) if found.subnet_of(prefix)]
    return network.network_address


@pytest.mark.kernel
def test_with_the_real_guard() -> None:
    rule = {"name": "burst", "count": "connections", "limit": 5, "window": "10m", "action": "block", "block": "10m"}
    settings = {"rules": [rule], "exempt": {"destinations": ["192.0.2.32/28"]}, "nat64": ["2001:db8:96::/96"]}
    with Host(**settings) as host:
        host.start()
        through = [f"64:ff9b::{SMARTHOST}", f"2001:db8:96::{SMARTHOST}"]
        for user in (INNOCENT, SPAMMER):
            assert "EPERM" not in host.connect(user, 20, to=through).errors
        assert host.connect(SPAMMER, 20, to=["64:ff9b::192.0.2.48"]).errors["EPERM"] == 15, "not in that network"
        assert "EPERM" not in host.connect(SPAMMER, 20, to=through).errors, "nor does a block stand in the way"
        assert {row["USER"] for row in wait_for(lambda: host.events("EXCEEDED"))} == {SPAMMER[0]}
