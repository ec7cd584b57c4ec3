"""The host's own NAT64 prefix, from a name server: networks behind it count one by one, in engine and kernel alike."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from smtpguard.demo.lab import PEER4
from tests.support.host import INNOCENT, SPAMMER, Host, Outcome, wait_for

pytestmark = pytest.mark.kernel

NETWORKS = {"name": "fan", "count": "networks", "limit": 5, "window": "10m", "action": "block", "block": "10m"}
FIRST, SECOND = "2001:db8:64", "2001:db8:96"


def behind(prefix: str, count: int, start: int = 0) -> list[str]:
    """Addresses behind a translator with a /96."""
    return [f"{prefix}::198.18.{number}.1" for number in range(start, start + count)]


class Names:
    """A name server of ours, which stands behind a translator."""

    def __init__(self, host: Host) -> None:
        self._zone = host.lab.directory / "zone.json"
        log = host.lab.directory / "dns.log"
        log.touch()
        self.give()
        host.lab.lay_over("/etc/resolv.conf", f"nameserver {PEER4}\n")
        server = Path(__file__).parents[1] / "support" / "dns_server.py"
        child = host.lab.start([sys.executable, str(server), PEER4, "53", str(self._zone), str(log)], net=host.lab.peer)
        assert child.stdout is not None
        assert child.stdout.readline().startswith("ready")

    def give(self, *prefixes: str) -> None:
        addresses = ["192.0.0.170", "192.0.0.171", *(f"{prefix}::192.0.0.170" for prefix in prefixes)]
        new = self._zone.with_suffix(".new")
        new.write_text(json.dumps({"ipv4only.arpa": {"ttl": 30, "addresses": addresses}}))
        new.rename(self._zone)


def denied(tried: Outcome) -> int:
    """Refused by the guard; the laboratory has no route to these addresses."""
    return tried.errors.get("EPERM", 0) + tried.errors.get("EACCES", 0)


def part(host: Host) -> str:
    status: dict[str, Any] = json.loads(host.cli("status", "--json").stdout)
    return str(status["parts"].get("nat64", ""))


def test_networks_behind_the_hosts_translator_count_one_by_one() -> None:
    with Host(rules=[NETWORKS]) as host:
        names = Names(host)
        host.start()
        tried = host.connect(INNOCENT, 10, to=behind(FIRST, 10))
        assert denied(tried) == 0, "nobody has said that it is a translator: one network"
        names.give(FIRST)
        host.lab.ip(host.lab.host, "addr", "add", "198.51.100.77/32", "dev", "lo")  # another network: asked at once
        wait_for(lambda: f"{FIRST}::/96" in part(host))
        tried = host.connect(SPAMMER, 10, to=behind(FIRST, 10))
        assert denied(tried) == 5, "exact, by the kernel"
        (told,) = wait_for(lambda: host.events("EXCEEDED"))
        assert (told["USER"], told["COUNT"]) == (SPAMMER[0], "6")
        host.configure(nat64=[f"{SECOND}::/96"])
        assert host.cli("reload").returncode == 0
        assert f"{SECOND}::/96" in part(host)
        assert denied(host.connect(INNOCENT, 10, to=behind(SECOND, 10, 20))) >= 4


def test_a_name_server_that_lies_or_is_silent_changes_little() -> None:
    with Host(rules=[NETWORKS]) as host:
        names = Names(host)
        names.give("ff02", "2001:db8:c000:aa:100", *(f"2001:db8:{number}" for number in range(200, 260)))
        host.start()
        wait_for(lambda: part(host).count("/96") == 4)
        assert denied(host.connect(SPAMMER, 10, to=[f"198.18.{number}.1" for number in range(10)])) == 5
        assert denied(host.connect(INNOCENT, 4, to=[f"198.18.{number}.1" for number in range(4)])) == 0
