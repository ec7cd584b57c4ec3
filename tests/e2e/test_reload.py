"""A reload: each live key is in force at once, with every source it concerns, and the answer tells the truth."""

import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from smtpguard.control.client import ask
from smtpguard.demo.lab import PEER4
from smtpguard.logline import LogLine, parse_line
from smtpguard.model import NS
from smtpguard.settings.on_reload import ON_RELOAD
from tests.support.bpf_links import detach_all
from tests.support.host import OTHER, SMTPGUARD, SPAMMER, Host, wait_for
from tests.support.standstill import Standstill
from tests.support.stopwatch import Stopwatch

pytestmark = pytest.mark.kernel

RULE = {"name": "burst", "count": "connections", "limit": 5, "window": "10m", "block": "30m"}
BASE: dict[str, Any] = {
    "dry_run": False,
    "ports": [25, 465, 587],
    "rules": [RULE],
    "users": [],
    "shared_users": {"users": ["webapps"], "block": []},
    "exempt": {"users": [], "groups": [], "uids": [], "destinations": []},
    "escalation": {"factor": 2, "max": "24h", "forget": "7d"},
    "breaker": {"blocks": 1000, "per": "10m"},
    "block": {"verdict": "reject", "by": "guard"},
}
USERS = {f"key{number:02}": 61_300 + number for number in range(40)}
MANY = 14


class Reloader:
    """A host whose configuration is changed again and again, and users who were never seen before."""

    def __init__(self, source: str) -> None:
        self.host = Host(USERS, sources=[source], **BASE)
        self._users = iter(USERS.items())

    def user(self) -> tuple[str, int]:
        return next(self._users)

    def reload(self, **settings: Any) -> dict[str, Any]:  # noqa: ANN401 - YAML values
        """The base configuration with these changes; what the daemon answers."""
        self.host.configure(**(BASE | settings))
        return self.ask("reload")

    def ask(self, verb: str, **args: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
        return ask(f"{self.host.lab.directory}/control.sock", verb, timeout_s=20, **args)

    def is_stopped(self, user: tuple[str, int], port: int = 25, to: str = PEER4) -> bool:
        """Whether a user's burst is refused at its end."""
        return self.host.connect(user, MANY, rate=500, port=port, to=[to]).refused > 0

    def block_of(self, user: tuple[str, int]) -> dict[str, Any] | None:
        return next((row for row in self.ask("blocks")["items"] if row["user"] == user[0]), None)

    def seconds(self, user: tuple[str, int]) -> int:
        """How long the block lasts that a burst brings."""
        wait_for(lambda: self.block_of(user) is None)
        before = len(self.list_lines(user, "BLOCK"))
        assert self.is_stopped(user)
        (line,) = wait_for(lambda: self.list_lines(user, "BLOCK")[before:])
        until_ns = line.fields["UNTIL"]
        assert isinstance(until_ns, int)
        return round((until_ns - line.wall_ns) / NS)

    def list_lines(self, user: tuple[str, int], event: str) -> list[LogLine]:
        """A user's lines of the log."""
        lines = [parse_line(line) for line in self.host.log_lines() if f" EVENT={event} " in line]
        return [line for line in lines if line.user == user[0]]


class Shows(Protocol):
    def __call__(self, at: Reloader, /) -> None: ...


def dry_run(at: Reloader) -> None:
    user = at.user()
    assert at.is_stopped(user)
    at.reload(dry_run=True)
    assert at.host.connect(user, MANY).ok == MANY
    assert not at.is_stopped(at.user())
    at.reload()
    assert at.is_stopped(at.user())


def rules(at: Reloader) -> None:
    assert not at.host.connect(at.user(), 5).refused
    at.reload(rules=[RULE | {"limit": 2}])
    assert at.host.connect(at.user(), 5, rate=100).refused
    at.reload(rules=[])
    assert not at.is_stopped(at.user())


def users(at: Reloader) -> None:
    user = at.user()
    at.reload(users=[{"match": {"users": [user[0]]}, "rules": {"burst": {"limit": 500}}}])
    assert not at.is_stopped(user)
    assert at.is_stopped(at.user())


def shared_users(at: Reloader) -> None:
    user, other = at.user(), at.user()
    at.reload(shared_users={"users": [user[0], other[0]], "block": [other[0]]})
    assert not at.is_stopped(user)
    assert at.is_stopped(other)
    at.reload()
    assert at.is_stopped(user)


def exempt_accounts(at: Reloader) -> None:
    one, two, blocked = at.user(), at.user(), at.user()
    assert at.is_stopped(blocked)
    at.reload(exempt={"users": [one[0], blocked[0]], "uids": [two[1]], "groups": ["mailers"]})
    assert [at.is_stopped(user) for user in (one, two, blocked, OTHER)] == [False] * 4
    assert at.is_stopped(at.user())
    at.reload()
    assert [at.is_stopped(user) for user in (one, two, OTHER)] == [True] * 3


def exempt_destinations(at: Reloader) -> None:
    user = at.user()
    assert at.is_stopped(user)
    at.reload(exempt={"destinations": ["198.18.7.0/24"]})
    assert at.host.connect(user, MANY, to=["198.18.7.7"]).ok == MANY
    assert at.host.connect(user, to=["198.18.8.7"]).refused == 1
    at.reload()
    assert at.host.connect(user, to=["198.18.7.7"]).refused == 1


def escalation(at: Reloader) -> None:
    short = [RULE | {"block": "1s"}]
    first, second, third = at.user(), at.user(), at.user()
    at.reload(rules=short, escalation={"factor": 7})
    assert [at.seconds(first), at.seconds(first)] == [1, 7]
    at.reload(rules=short, escalation={"factor": 7, "max": "3s"})
    assert [at.seconds(second), at.seconds(second)] == [1, 3]
    at.reload(rules=short, escalation={"factor": 7, "forget": "1s"})
    assert at.seconds(third) == 1
    time.sleep(2.2)
    assert at.seconds(third) == 1, "forgotten"


def still_trying(at: Reloader) -> None:
    for how, goes_on in (("end", False), ("extend", True)):
        user = at.user()
        at.reload(rules=[RULE | {"block": "3s"}], escalation={"factor": 1, "still_trying": how})
        assert at.is_stopped(user)
        (line,) = wait_for(lambda user=user: at.list_lines(user, "BLOCK"))  # type: ignore[misc]
        assert at.host.connect(user, 30, rate=100).refused == 30
        ends = line.fields["UNTIL"]
        assert isinstance(ends, int)
        if goes_on:  # it is decided two seconds before the end
            wait_for(lambda user=user: at.list_lines(user, "EXTENDED"))  # type: ignore[misc]
            time.sleep(max(0, ends / NS + 0.2 - time.time()))
            assert at.block_of(user) is not None
        else:
            (over,) = wait_for(lambda user=user: at.list_lines(user, "UNBLOCK"))  # type: ignore[misc]
            assert over.wall_ns < ends + NS, "a block ends within a second of its end"
            assert at.block_of(user) is None
            assert at.list_lines(user, "EXTENDED") == []


def uid_min(at: Reloader) -> None:
    user = at.user()
    at.reload(uid_min=user[1] + 1)
    assert not at.is_stopped(user), "a system account now"
    at.reload(uid_min=None)
    assert at.is_stopped(user)


def breaker(at: Reloader) -> None:
    at.reload(breaker={"blocks": 0, "per": "10m"})
    user = at.user()
    assert at.is_stopped(user)
    assert at.block_of(user)["kind"] == "throttle"  # type: ignore[index]
    at.reload(breaker={"blocks": 1, "per": "1s"})
    time.sleep(1.2)
    for _ in range(2):
        user = at.user()
        assert at.is_stopped(user)
        assert at.block_of(user)["kind"] == "block", "one a second is not many"  # type: ignore[index]
        time.sleep(1.2)


def block_by(at: Reloader) -> None:
    at.reload(block={"by": "fail2ban", "verdict": "reject"})
    user = at.user()
    assert not at.is_stopped(user)
    assert at.block_of(user) is None
    wait_for(lambda: any(row["USER"] == user[0] for row in at.host.events("EXCEEDED")))


SHOWN: dict[Shows, tuple[str, ...]] = {
    dry_run: ("dry_run",),
    rules: ("rules",),
    users: ("users",),
    shared_users: ("shared_users.users", "shared_users.block"),
    exempt_accounts: ("exempt.users", "exempt.groups", "exempt.uids"),
    exempt_destinations: ("exempt.destinations",),
    escalation: ("escalation.factor", "escalation.max", "escalation.forget"),
    still_trying: ("escalation.still_trying",),
    uid_min: ("uid_min",),
    breaker: ("breaker.blocks", "breaker.per"),
    block_by: ("block.by",),
}
SHOWN_ELSEWHERE = {
    "version": None,  # has one value
    "ports": "test_reload.py: def test_other_ports_are_guarded",
    "block.verdict": "test_reload.py: def test_the_verdict_is_another_at_once",
    "loopback": "test_loopback.py: def test_connections_to_loopback_make_a_verdict",
    "nat64": "test_nat64.py: def test_networks_behind_the_hosts_translator_count_one_by_one",
    "cap": "test_cap.py: def test_a_reload_takes_it_away_and_brings_another",
    "listed.zones": "test_listed.py: def test_a_listing_is_told_once_with_who_sent_before",
    "listed.addresses": "test_listed.py: def test_a_listing_is_told_once_with_who_sent_before",
    "listed.every": None,  # tests/unit/test_block_lists.py: ten minutes at least
    "notify.webhooks": "test_notify.py: def test_a_reload_changes_whom_of_what_and_how_much",
    "notify.at_once": "test_notify.py: def test_a_reload_changes_whom_of_what_and_how_much",
    "notify.share": "test_notify.py: def test_a_reload_changes_whom_of_what_and_how_much",
    "notify.digest": None,  # tests/unit/test_notification.py: a summary is a day away
    "notify.heartbeat": "test_notify.py: def test_a_heartbeat_only_while_all_is_well",
    "notify.urls": None,  # tests/unit/test_apprise.py: nobody is to be told by a test
    "notify.hook": "test_notify.py: def test_a_hook_and_a_mail",
    "notify.mail": "test_notify.py: def test_a_hook_and_a_mail",
    "notify.smtp": "test_notify.py: def test_a_hook_and_a_mail",
    **dict.fromkeys(  # tests/unit/test_customers_duty.py: what is told is asked at the moment of telling
        f"notify.customers.{key}" for key in ("enabled", "from", "template", "also", "delay", "language")
    ),
}


def test_each_live_key_is_shown_to_be_live() -> None:
    shown = [key for keys in SHOWN.values() for key in keys]
    assert sorted([*shown, *SHOWN_ELSEWHERE]) == sorted(key for key, entry in ON_RELOAD.items() if entry.kind == "live")
    for place in filter(None, SHOWN_ELSEWHERE.values()):
        name, _, text = place.partition(": ")
        assert text in Path(__file__).with_name(name).read_text("utf-8")


@pytest.fixture(scope="module")
def bpf() -> Iterator[Reloader]:
    at = Reloader("bpf")
    with at.host:
        at.host.start()
        yield at


@pytest.mark.parametrize("shows", SHOWN, ids=lambda shows: shows.__name__)
def test_a_live_key_with_bpf(bpf: Reloader, shows: Shows) -> None:
    bpf.reload()
    shows(bpf)


@pytest.mark.long
def test_live_keys_without_bpf() -> None:
    """What is judged by the engine alone and refused by nft alone follows them as well."""
    at = Reloader("nflog")
    with at.host:
        at.host.start()
        for shows in SHOWN:
            at.reload()
            shows(at)


@pytest.mark.parametrize("source", ["bpf", "nflog", "proc"])
def test_other_ports_are_guarded(source: str) -> None:
    at = Reloader(source)
    with at.host as host:
        at.host.configure(**(BASE | {"ports": [25]}))
        host.start()
        old = host.session(OTHER, 100, port=587)
        at.reload(ports=[25, 587])
        user = at.user()
        sessions = [host.session(user, 100, port=587) for _ in range(6 if source == "proc" else 5)]
        host.connect(user, port=587)
        wait_for(lambda: at.block_of(user))  # proc looks once a second
        assert host.connect(user, port=587).refused == 1
        ended = [child.communicate(timeout=10)[0] for child in sessions]
        assert all(text.startswith(("reset", "closed")) for text in ended), ended
        wait_for(lambda: {row["PORT"] for row in host.events("CONNECT") if row["USER"] == user[0]} == {"587"})
        assert old.poll() is None
        assert not [row for row in host.events("CONNECT") if row["USER"] == OTHER[0]], "was open before it was guarded"
        at.reload(ports=[25])
        assert host.connect(user, port=587).ok == 1
        assert host.connect(user, port=25).refused == 1
        old.terminate()


def test_a_source_that_is_opened_later_guards_the_new_ports() -> None:
    at = Reloader("bpf")
    with at.host as host:
        at.host.configure(**(BASE | {"ports": [25]}))
        host.start()
        at.reload(ports=[587])
        assert host.lab.cgroup is not None
        host.expect_errors("^source bpf has died: .*the program was detached")
        assert detach_all(Path(host.lab.cgroup).stat().st_ino) > 0
        wait_for(lambda: at.ask("status")["status"]["sources"][0]["restarts"] == 1)
        assert at.is_stopped(at.user(), port=587)
        assert not at.is_stopped(at.user(), port=25)


GREETED = """
import os, socket, sys
os.setgid({uid}); os.setuid({uid})
try:
    with socket.create_connection(("{address}", 25), timeout=5) as sock:
        print(sock.recv(100).decode())
except OSError as error:
    print(type(error).__name__)
"""


def test_the_verdict_is_another_at_once(bpf: Reloader) -> None:
    at, host = bpf, bpf.host
    at.reload()
    at.ask("block", user=SPAMMER[0], for_ns=600 * 10**9)
    program = GREETED.format(uid=SPAMMER[1], address=PEER4)

    def greeting() -> str:
        return host.lab.run([sys.executable, "-c", program], inside=True).stdout.strip()

    def listens() -> bool:
        return "1009" in host.lab.run(["ss", "-Htln"]).stdout

    assert (greeting(), listens()) == ("PermissionError", False)
    for _ in range(2):
        told = at.reload(block={"verdict": "tell", "by": "guard"})
        assert told["changed"] == ["block.verdict reject -> tell"]
        assert greeting().startswith("421 4.7.0 SMTP of web01 is refused until")
        assert listens()
        at.reload()
        assert (greeting(), listens()) == ("PermissionError", False)
    at.reload(block={"verdict": "drop", "by": "guard"})
    assert 'counter name "refused_blocked" drop' in host.nft("list", "table", "inet", "smtpguard")
    at.reload()
    assert 'counter name "refused_blocked" reject' in host.nft("list", "table", "inet", "smtpguard")
    at.ask("unblock", user=SPAMMER[0])


def test_the_answer_tells_what_changed_and_what_waits(bpf: Reloader) -> None:
    bpf.reload()
    assert bpf.ask("reload")["text"] == "Loaded. Nothing has changed."
    bpf.host.configure(rules=[RULE | {"limit": 7}], dry_run=True, attribution={"rdns": False})
    done = bpf.host.cli("reload")
    assert done.stdout == (
        "Loaded. Changed: dry_run false -> true (nobody is refused from now on), rules.burst.limit 5 -> 7. "
        "Waits for a restart (end `smtpguard run` and start it again): attribution.rdns true -> false.\n"
    )
    assert "Loaded. Changed: dry_run false -> true" in bpf.host.stderr()
    told = bpf.ask("reload")
    assert (told["changed"], told["waiting"]) == ([], ["attribution.rdns true -> false"])
    assert told["text"] == (
        "Loaded. Nothing that a reload can change has changed. "
        "Waits for a restart (end `smtpguard run` and start it again): attribution.rdns true -> false."
    )
    bpf.host.configure(attribution={})


def test_a_command_is_answered_while_the_file_is_read(standstill: Standstill, bpf: Reloader) -> None:
    with socket.socket(socket.AF_UNIX) as asking:
        asking.connect(f"{bpf.host.lab.directory}/control.sock")
        asking.sendall(b'{"verb":"reload"}\n')
        stopwatch = Stopwatch()
        assert bpf.host.is_ready() in (True, False)
        assert stopwatch.seconds() < 0.3 + standstill.worst_s()
        asking.settimeout(20)
        assert b'"ok":true' in asking.recv(65_536)


def test_a_reload_under_the_dry_run_switch_says_that_nobody_is_refused_all_the_same() -> None:
    """The first days go so: `run --dry-run`, then `dry_run: false` and a reload."""
    with Host(**BASE | {"dry_run": True}) as host:
        host.start("--dry-run")
        assert host.cli("reload").stdout == "Loaded. Nothing has changed.\n"
        host.configure(dry_run=False)
        told = host.cli("reload").stdout
        other = host.lab.directory / "other.yaml"
        other.write_text(Path(host.config).read_text("utf-8"), "utf-8")
        answer = host.lab.run([*SMTPGUARD, "reload", "--config", str(other)])
        assert f"the guard has read {host.config}, which it was started with, not {other}" in answer.stderr
        assert host.cli("reload").stderr == ""
        assert "Nobody is refused all the same: it was started with --dry-run" in told
        assert ask(f"{host.lab.directory}/control.sock", "status")["status"]["mode"] == "dry-run"
