"""The real daemon asks a name server of the test's own, in another namespace, whether its host is on block lists."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from smtpguard.control.client import ask
from smtpguard.demo.lab import HOST4, PEER4
from smtpguard.notify.list_answers import name_question
from tests.support.host import INNOCENT, SPAMMER, Host, wait_for
from tests.support.webhook import Receiver

pytestmark = pytest.mark.kernel

ZONE, PUBLIC, HIJACKED, SILENT = "zen.example", "public.example", "hijacked.example", "silent.example"
QUIET = {"name": "quiet", "count": "connections", "limit": 1000, "window": "1h", "action": "warn"}


class Lists:
    """The name server, and what it answers."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._zone = host.lab.directory / "zone.json"
        self.log = host.lab.directory / "dns.log"
        self.log.touch()
        self.answer(HOST4)

    def answer(self, *listed: str, **more: Any) -> None:  # noqa: ANN401 - JSON values
        """Which addresses the first list has; the others answer as their names say."""
        names = {"127.0.0.2": "127.0.0.2"} | dict.fromkeys(listed, "127.0.0.4")
        entries: dict[str, Any] = {
            name_question(address, ZONE): {"ttl": 5, "addresses": [code], "texts": ['caught "you"']}
            for address, code in names.items()
        }
        entries[f"*.{PUBLIC}"] = {"ttl": 5, "addresses": ["127.255.255.254"]}
        entries[f"*.{HIJACKED}"] = {"ttl": 5, "addresses": ["198.51.100.7"]}
        entries[f"*.{SILENT}"] = {"code": 2}
        new = self._zone.with_suffix(".new")
        new.write_text(json.dumps(entries | more))
        new.rename(self._zone)

    def start(self) -> subprocess.Popen[str]:
        server = Path(__file__).parents[1] / "support" / "dns_server.py"
        words = [sys.executable, str(server), PEER4, "53", str(self._zone), str(self.log)]
        child = self._host.lab.start(words, net=self._host.lab.peer)
        assert child.stdout is not None
        assert child.stdout.readline().startswith("ready")
        return child


@pytest.fixture
def host() -> Iterator[Host]:
    with Host(rules=[QUIET], sources=["bpf"]) as host:
        host.lab.lay_over("/etc/resolv.conf", f"nameserver {PEER4}\n")
        yield host


def find_shown(host: Host) -> dict[str, Any] | None:
    """What `status` says of block lists, once they were asked."""
    listed = ask(f"{host.lab.directory}/control.sock", "status")["status"]["listed"]
    return listed if listed and listed["asked"] else None


def sum_connected(host: Host) -> int:
    """How many the history has, as the report tells it."""
    report = json.loads(host.cli("report", "--since", "1h", "--format", "json").stdout)
    return sum(int(row["connected"]) for row in report["own_addresses"])


def test_a_listing_is_told_once_with_who_sent_before(host: Host) -> None:
    lists, receiver = Lists(host), Receiver(host)
    lists.start()
    receiver.start()
    host.start()
    assert host.connect(SPAMMER, 7).ok == 7
    assert host.connect(INNOCENT, 2).ok == 2
    wait_for(lambda: f'"{INNOCENT[0]}"' in host.cli("incidents", "--src", HOST4, "--json").stdout, 20)
    wait_for(lambda: sum_connected(host) == 9)  # those of one second may be written, and those of the next not yet
    zones = [ZONE, PUBLIC, HIJACKED, SILENT]
    host.configure(
        notify={"webhooks": [receiver.webhook], "digest": "none"}, listed={"zones": zones, "addresses": [HOST4]}
    )
    assert "listed.zones (0 -> 4 entries)" in host.cli("reload").stdout
    (told,) = wait_for(lambda: receiver.taken("listed"), 20)
    assert told["listed"]["address"] == HOST4
    assert [(row["zone"], row["codes"], row["reason"]) for row in told["listed"]["zones"]] == [
        (ZONE, ["127.0.0.4"], r"caught \x22you\x22")
    ]
    senders = told["listed"]["senders"]
    assert senders["scope"] == "address"
    assert [(row["user"], row["connects"]) for row in senders["users"]] == [(SPAMMER[0], 7), (INNOCENT[0], 2)]
    shown = find_shown(host)
    assert shown is not None
    assert {row["zone"]: row["why"].partition(" (")[0] for row in shown["not_asked"]} == {
        PUBLIC: "it does not answer public resolvers",
        HIJACKED: "198.51.100.7 is no block list's answer: does a resolver redirect it?",
        SILENT: "the name server answers SERVFAIL",
    }
    done = host.cli("status", "--check")
    assert (done.returncode, f"LISTED: {HOST4} on {ZONE}" in done.stdout) == (1, True)


@pytest.mark.long
def test_a_restart_tells_nothing_again_and_the_end_is_told_once(host: Host) -> None:
    lists, receiver = Lists(host), Receiver(host)
    lists.start()
    receiver.start()
    zones = [ZONE, PUBLIC]
    host.configure(
        notify={"webhooks": [receiver.webhook], "digest": "none"}, listed={"zones": zones, "addresses": [HOST4]}
    )
    host.start()
    (told,) = wait_for(lambda: receiver.taken("listed"), 20)
    assert told["listed"]["senders"] | {"since": "", "until": ""} == {
        "since": "", "until": "", "scope": "host", "unknown": 0, "users": [],
    }  # fmt: skip
    asked = lists.log.read_text().count(name_question(HOST4, ZONE))
    assert host.stop() == 0
    host.start()
    wait_for(lambda: find_shown(host))
    assert lists.log.read_text().count(name_question(HOST4, ZONE)) > asked, "it was asked again"
    lists.answer()
    host.configure(listed={"zones": zones[:1], "addresses": [HOST4]})
    assert host.cli("reload").returncode == 0
    (_, over) = wait_for(lambda: found if len(found := receiver.taken()) > 1 else None, 20)
    assert over["text"].startswith(f"{HOST4} is no longer listed on {ZONE}. It was since ")
    assert [message["kind"] for message in receiver.tried()] == ["listed", "listed"]
    shown = find_shown(host)
    assert shown is not None
    assert (shown["addresses"], shown["count"], shown["not_asked"]) == ([HOST4], 0, [])
