"""What changes around a running guard: accounts, addresses, names. It lives through it, and knows it at once."""

import time
from collections.abc import Iterator

import pytest

from smtpguard.demo.lab import PEER4
from tests.support.host import INNOCENT, SPAMMER, Host, wait_for

pytestmark = pytest.mark.kernel

RULE = {"name": "burst", "count": "connections", "limit": 5, "window": "10m", "action": "block", "block": "30m"}
CALM = {"blocks": 100, "per": "10m"}
RELAY = "relay.example.net"
NOBODY = "127.0.0.1 localhost\n"


@pytest.fixture
def host() -> Iterator[Host]:
    with Host(rules=[RULE], breaker=CALM) as made:
        made.start()
        yield made


def is_alive(host: Host) -> bool:
    assert host.daemon is not None
    return host.daemon.poll() is None and host.is_ready()


def test_an_account_that_is_made_ends_nothing_and_is_known(host: Host) -> None:
    passwd, subuid = host.lab.read("/etc/passwd"), host.lab.read("/etc/subuid")
    host.lab.lay_over("/etc/passwd", passwd + "newcomer:x:61150:61150::/nonexistent:/bin/sh\n")
    host.lab.lay_over("/etc/subuid", subuid + "newcomer:800000:65536\n")  # as useradd does
    time.sleep(2.5)  # accounts are looked at every two seconds
    assert host.connect(("newcomer", 61150), 8).ok == 5
    wait_for(lambda: [row["USER"] for row in host.events("BLOCK")] == ["newcomer"])
    assert is_alive(host)


def test_an_own_address_that_comes_ends_nothing_and_is_exempt(host: Host) -> None:
    host.lab.ip(host.lab.host, "address", "add", "192.0.2.77/32", "dev", "sg0")
    wait_for(lambda: "192.0.2.77" in host.nft("list", "table", "inet", "smtpguard"), 10)
    assert is_alive(host)


def test_the_first_configuration_of_the_readme_lives(host: Host) -> None:
    host.stop()
    host.lab.lay_over("/etc/hosts", f"{NOBODY}{PEER4} {RELAY}\n")
    host.configure(exempt={"destinations": [RELAY]})
    host.start()
    wait_for(lambda: host.connect(INNOCENT, 1).ok == 1 and is_alive(host))
    time.sleep(1.5)
    assert is_alive(host)
    assert host.connect(SPAMMER, 20).ok == 20, "the relay never counts"
    assert host.events("EXCEEDED") == []
