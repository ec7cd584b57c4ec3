"""Relays whose addresses rotate: the real daemon, a name server of our own, real connections."""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from smtpguard.demo.lab import PEER4
from tests.support.host import INNOCENT, SPAMMER, Host, wait_for

pytestmark = pytest.mark.kernel

RELAY = "relay.example"
A, B, C, D, E, F = (f"198.18.7.{number}" for number in range(1, 7))
MX = [f"198.19.{number}.1" for number in range(20)]
BURST = {"name": "burst", "count": "connections", "limit": 5, "window": "10m", "action": "block", "block": "30m"}


class Names:
    """A guarded host whose names come from a server of ours."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._zone = host.lab.directory / "zone.json"
        self.log = host.lab.directory / "dns.log"
        self.log.touch()

    def give(self, *addresses: str, each: int | None = None, ttl: int = 60) -> None:
        """From now on the relay has these addresses."""
        entry = {"ttl": ttl, "addresses": addresses, "each": each or len(addresses)}
        new = self._zone.with_suffix(".new")
        new.write_text(json.dumps({RELAY: entry}))
        new.rename(self._zone)

    def count(self) -> int:
        """How often the relay's addresses were asked for."""
        return self.log.read_text().count(f"{RELAY} A ")

    def start(self) -> None:
        server = Path(__file__).parents[1] / "support" / "dns_server.py"
        words = [sys.executable, str(server), PEER4, "53", str(self._zone), str(self.log)]
        child = self._host.lab.start(words, net=self._host.lab.peer)
        assert child.stdout is not None
        assert child.stdout.readline().startswith("ready")


@contextmanager
def relayed(**settings: Any) -> Iterator[tuple[Host, Names]]:  # noqa: ANN401 - YAML values
    exempt = {"destinations": [RELAY]}
    with Host(exempt=exempt, breaker={"blocks": 100, "per": "10m"}, **{"rules": [BURST], **settings}) as host:
        host.lab.lay_over("/etc/resolv.conf", f"nameserver {PEER4}\n")
        names = Names(host)
        names.give(A)
        names.start()
        host.start()
        wait_for(lambda: f"{RELAY} 1" in host.cli("status").stdout)
        yield host, names


def blocked(host: Host) -> set[str]:
    return {row["user"] for row in json.loads(host.cli("blocks", "--json").stdout)}


def test_a_new_address_costs_one_refusal() -> None:
    with relayed() as (host, names):
        assert host.connect(SPAMMER, 20, to=[A]).refused == 0, "known, and never counted"
        assert host.connect(SPAMMER, 6, to=[MX[0]]).refused == 1
        assert blocked(host) == {SPAMMER[0]}
        known = [A]
        for address in (B, C):
            names.give(address)
            assert host.connect(SPAMMER, 1, to=[address]).refused == 1
            told = f"new address of {RELAY}, {address}"
            wait_for(lambda told=told: told in host.stderr())  # type: ignore[misc]
            known.append(address)
            assert host.connect(SPAMMER, 30, to=known).refused == 0
        assert host.connect(SPAMMER, 1, to=[MX[1]]).ok == 0, "and nothing else"
        assert blocked(host) == {SPAMMER[0]}, "who was blocked for something else stays so"
        assert f"{RELAY} 3" in host.cli("status").stdout
        names.give(D, E, F, each=1)
        refused = 0
        for address in [D] * 6 + [E] * 6 + [F] * 6:  # which comes with which answer is the name server's business
            if host.connect(INNOCENT, 1, to=[address]).refused:
                refused += 1
                wait_for(lambda: blocked(host) == {SPAMMER[0]})
        assert refused <= 3, "in turn, another one with every answer"
        assert host.connect(INNOCENT, 60, to=[A, B, C, D, E, F]).refused == 0
        assert blocked(host) == {SPAMMER[0]}


def test_who_was_blocked_over_a_new_address_is_freed_and_told_of() -> None:
    with relayed() as (host, names):
        names.give(B)
        assert host.connect(SPAMMER, 6, to=[B]).ok <= 5
        wait_for(lambda: host.events("UNBLOCK"))
        assert blocked(host) == set()
        [end] = host.events("UNBLOCK")
        assert (end["USER"], end["BY"]) == (SPAMMER[0], "exempt")
        assert end["REASON"] == f"{B}\\x20is\\x20{RELAY},\\x20which\\x20is\\x20exempt"
        assert f"{SPAMMER[0]} may send again: {B} is {RELAY}, which is exempt" in host.stderr()
        assert host.connect(SPAMMER, 30, to=[B]).refused == 0
        assert host.connect(SPAMMER, 30, to=[A]).refused == 0, "given within 24 h"
        # From an empty window, and the next block is the first one.
        assert host.connect(SPAMMER, 5, to=[MX[0]]).refused == 0
        assert host.connect(SPAMMER, 2, to=[MX[0]]).ok == 0
        wait_for(lambda: len(host.events("EXCEEDED")) == 2)
        first, second = host.events("EXCEEDED")
        assert first["BLOCK"] == second["BLOCK"] == "1800"
        # Another's address frees nobody, and does not make the name server work for it again and again.
        asked, begun = names.count(), time.monotonic()
        host.connect(INNOCENT, 400, 400, to=MX)
        assert blocked(host) == {SPAMMER[0], INNOCENT[0]}
        spent_s = time.monotonic() - begun
        assert names.count() - asked <= 20 * (spent_s + 1), "20 look-ups a second"


@pytest.mark.long
def test_a_relay_is_asked_again_at_half_its_lifetime() -> None:
    with relayed() as (host, names):
        begun = time.monotonic()
        names.give(B)
        wait_for(lambda: f"{RELAY} 2" in host.cli("status").stdout, 40)
        assert 20 < time.monotonic() - begun < 40, "30 s, half of 60"
