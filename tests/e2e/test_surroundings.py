"""What changes around a running guard: accounts, addresses, names. It lives through it, and knows it at once."""

import json
from collections.abc import Iterator
from typing import Protocol

import pytest

from smtpguard.control.client import ask
from smtpguard.demo.lab import PEER4
from tests.support.host import INNOCENT, OTHER, SPAMMER, Host, wait_for

pytestmark = pytest.mark.kernel

RULE = {"name": "burst", "count": "connections", "limit": 5, "window": "10m", "action": "block", "block": "30m"}
CALM = {"blocks": 100, "per": "10m"}
RELAY = "relay.example.net"
NOBODY = "127.0.0.1 localhost\n"


@pytest.fixture
def host() -> Iterator[Host]:
    with Host(rules=[RULE], breaker=CALM, exempt={"groups": ["letters"]}) as made:
        made.start()
        yield made


def is_alive(host: Host) -> bool:
    assert host.daemon is not None
    return host.daemon.poll() is None and host.is_ready()


def test_an_account_that_is_made_ends_nothing_and_is_known(host: Host) -> None:
    passwd, subuid = host.lab.read("/etc/passwd"), host.lab.read("/etc/subuid")
    host.lab.lay_over("/etc/passwd", passwd + "newcomer:x:61150:61150::/nonexistent:/bin/sh\n")
    host.lab.lay_over("/etc/subuid", subuid + "newcomer:800000:65536\n")  # as useradd does
    control = f"{host.lab.directory}/control.sock"
    wait_for(lambda: ask(control, "why", uids=[61150])["items"][0]["user"] == "newcomer")
    assert host.connect(("newcomer", 61150), 8).ok == 5
    wait_for(lambda: [row["USER"] for row in host.events("BLOCK")] == ["newcomer"])
    assert is_alive(host)


class Look(Protocol):
    def __call__(self) -> object: ...


def wait_alive(host: Host, look: Look) -> None:
    """The guard has taken the change, and lives."""
    wait_for(look, 12)
    assert is_alive(host)


def test_accounts_that_are_deleted_renamed_and_join_groups_end_nothing(host: Host) -> None:
    passwd, group = host.lab.read("/etc/passwd"), host.lab.read("/etc/group")
    for user in (SPAMMER, INNOCENT):
        assert host.cli("block", user[0], "--for", "1h").returncode == 0
        assert host.connect(user).refused == 1
    # userdel: nobody has the number, and the block stays on it
    gone = "".join(line for line in passwd.splitlines(keepends=True) if not line.startswith(f"{INNOCENT[0]}:"))
    host.lab.lay_over("/etc/passwd", gone)
    wait_alive(host, lambda: f"uid:{INNOCENT[1]}" in host.cli("blocks").stdout)
    assert host.connect(INNOCENT).refused == 1
    # usermod -l: the number is somebody else's
    host.lab.lay_over("/etc/passwd", gone.replace(f"{SPAMMER[0]}:", "shop7:"))
    wait_alive(host, lambda: host.connect(SPAMMER).ok == 1)
    wait_for(lambda: [row["BY"] for row in host.events("UNBLOCK")] == ["name"])
    # gpasswd -a: members of that group are exempt
    assert host.connect(OTHER, 20).refused >= 14
    host.lab.lay_over("/etc/group", f"{group}letters:x:60100:{OTHER[0]}\n")
    wait_alive(host, lambda: host.connect(OTHER, 20).ok == 20)
    host.lab.lay_over("/etc/group", group)
    wait_alive(host, lambda: host.connect(OTHER, 20).refused > 0)


def test_subordinate_uids_that_change_hands_end_nothing_and_a_block_follows_them(host: Host) -> None:
    old, new = ("uid:700001", 700_001), ("uid:810001", 810_001)
    assert host.cli("block", SPAMMER[0], "--for", "1h").returncode == 0
    assert (host.connect(old).refused, host.connect(new).refused) == (1, 0)
    host.lab.lay_over("/etc/subuid", f"{SPAMMER[0]}:810000:65536\n")
    wait_alive(host, lambda: host.connect(new).refused == 1)
    wait_for(lambda: host.connect(old).ok == 1)


def test_own_addresses_that_come_and_go_end_nothing_and_are_exempt_meanwhile(host: Host) -> None:
    def is_listed() -> bool:
        return "192.0.2.77" in host.nft("list", "table", "inet", "smtpguard")

    host.lab.ip(host.lab.host, "address", "add", "192.0.2.77/32", "dev", "sg0")
    wait_alive(host, is_listed)
    host.lab.ip(host.lab.host, "address", "del", "192.0.2.77/32", "dev", "sg0")
    wait_alive(host, lambda: not is_listed())


def test_the_first_configuration_of_the_readme_lives(host: Host) -> None:
    host.stop()
    host.lab.lay_over("/etc/hosts", f"{NOBODY}{PEER4} {RELAY}\n")
    host.configure(exempt={"destinations": [RELAY]})
    host.start()
    wait_for(lambda: host.connect(INNOCENT, 1).ok == 1 and is_alive(host))
    wait_for(lambda: f"{RELAY} 1" in host.cli("status").stdout)
    assert is_alive(host)
    assert host.connect(SPAMMER, 20).ok == 20, "the relay never counts"
    assert host.events("EXCEEDED") == []
    # It is looked up again when somebody is refused elsewhere. The answer fails: the last good one holds.
    host.lab.lay_over("/etc/hosts", NOBODY)
    assert host.connect(OTHER, 20, to=["198.18.9.9"]).refused >= 14
    wait_alive(host, lambda: f"{RELAY} can't be looked up" in host.cli("status").stdout)
    assert host.connect(SPAMMER, 20).ok == 20
    # It changes: the new one holds too.
    host.lab.lay_over("/etc/hosts", f"{NOBODY}198.18.7.7 {RELAY}\n")
    wait_alive(host, lambda: host.connect(SPAMMER, 20, to=["198.18.7.7"]).ok == 20)


@pytest.mark.long  # tests/unit/test_journal.py and test_guard.py have its short form
def test_what_the_former_owner_of_a_uid_did_is_no_incident_of_the_next_one(host: Host) -> None:
    after = ("shop7", SPAMMER[1])

    def count(user: tuple[str, int]) -> int:
        return sum(row["USER"] == user[0] for row in host.events("CONNECT"))

    for user in (SPAMMER, after):
        assert host.connect(user, 8).refused == 3
        wait_for(lambda user=user: count(user) == 8)  # type: ignore[misc]
        passwd = host.lab.read("/etc/passwd")
        host.lab.lay_over("/etc/passwd", passwd.replace(f"{SPAMMER[0]}:", f"{after[0]}:"))
        assert host.cli("reload").returncode == 0

    def list_incidents() -> list[tuple[str, bool, int]]:
        rows = json.loads(host.cli("incidents", "--json").stdout)["incidents"]
        # An attempt whose line came before the verdict is none of the incident's.
        return [(row["user"], 3 <= row["connects"] <= 8, row["refused"]) for row in rows]

    wait_for(lambda: list_incidents() == [(user[0], True, 3) for user in (after, SPAMMER)])
    (block,) = ask(f"{host.lab.directory}/control.sock", "blocks")["items"]
    assert (block["user"], block["refused"]) == (after[0], 3)
