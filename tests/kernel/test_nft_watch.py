"""Each way to change our table from outside, as the kernel tells it, and the table put back."""

import os
import random
import select
import time
from collections.abc import Iterator

import pytest

from smtpguard.actions.base import Deny, Reach
from smtpguard.actions.nft.enforcer import NftEnforcer
from smtpguard.actions.nft.render import TableSpec
from smtpguard.clock import boottime_ns
from smtpguard.decode.netlink.nft_notify import NftEvent
from smtpguard.errors import EnforceError
from smtpguard.kernel.nft.notifications import NftNotifications
from smtpguard.kernel.nft.text import CommandNft
from smtpguard.model import NS, Subject
from tests.support.netlab import NetnsNft, inside, run
from tests.support.standstill import Standstill
from tests.support.stopwatch import Stopwatch

pytestmark = pytest.mark.kernel
BAD = random.randrange(61001, 61099)


@pytest.fixture(scope="module")
def netns() -> Iterator[str]:
    name = f"sgw-{os.urandom(3).hex()}"
    run("ip", "netns", "add", name)
    try:
        yield name
    finally:
        run("ip", "netns", "delete", name)


@pytest.fixture
def other(netns: str) -> CommandNft:
    """Another process that changes the ruleset."""
    return CommandNft(("nsenter", f"--net=/run/netns/{netns}", "nft"))


@pytest.fixture
def nft(netns: str) -> NetnsNft:
    return NetnsNft(netns)


@pytest.fixture
def guard(nft: NetnsNft) -> Iterator[NftEnforcer]:
    enforcer = NftEnforcer(TableSpec(), nft=nft)
    enforcer.ensure()
    enforcer.apply_deny(deny())
    yield enforcer
    enforcer.remove()


@pytest.fixture
def watch(netns: str, guard: NftEnforcer) -> Iterator[NftNotifications]:
    watch = NftNotifications("smtpguard", guard._nft)
    with inside(netns):
        watch.open()
    assert watch.read() == []
    yield watch
    watch.close()


def deny(uid: int = BAD, seconds: float = 60) -> Deny:
    return Deny(
        subject=Subject(id=uid), kind="block", until_ns=boottime_ns() + int(seconds * NS), ranges=((100000, 65536),)
    )


def hear(watch: NftNotifications) -> list[NftEvent]:
    """What is heard within 2 s of a change; the kernel tells before the changer is answered."""
    assert select.select([watch], [], [], 2)[0], "nothing heard"
    return watch.read()


@pytest.mark.parametrize(
    "command",
    [
        "flush ruleset",
        "delete table inet smtpguard",
        "flush ruleset\ntable inet filter { chain input { type filter hook input priority 0; }; }",
        "flush ruleset\ntable inet smtpguard { set blocked { type uid; flags interval,timeout; }; }",
    ],
)
def test_a_lost_table_is_told_with_who_did_it_and_put_back(
    watch: NftNotifications, guard: NftEnforcer, other: CommandNft, command: str
) -> None:
    asked = deny()
    guard.apply_deny(asked)
    with Standstill() as standstill:
        other.run(command)
        begun_ns, stopwatch = boottime_ns(), Stopwatch()
        assert hear(watch) == [NftEvent(kind="lost", pid=other.own_pids[-1], comm=b"nft")]
        guard.restore()
        assert stopwatch.seconds() < 0.3 + standstill.worst_s()
    assert guard.exists()
    [restored] = guard.read_denies()
    took_ns = boottime_ns() - begun_ns  # the kernel is told how long it lasts, and tells that
    assert (restored.subject, restored.ranges) == (asked.subject, asked.ranges)
    assert abs(restored.until_ns - asked.until_ns) < NS // 10 + took_ns
    assert watch.read() == [], "our own repair is no event"
    other.run("table inet filter { }\ndelete table inet filter")
    assert watch.read() == [], "another table is not our business"


@pytest.mark.parametrize(
    "command",
    [
        "flush chain inet smtpguard output",
        "flush table inet smtpguard",
        "flush chain inet smtpguard output\ndelete chain inet smtpguard output",
        "flush chain inet smtpguard output\ndelete set inet smtpguard throttled",
        "flush chain inet smtpguard output\ndelete counter inet smtpguard refused_blocked",
        "add table inet smtpguard { flags dormant; }",
    ],
)
def test_a_damaged_table_is_told_and_repaired_by_ensure(
    watch: NftNotifications, guard: NftEnforcer, nft: NetnsNft, other: CommandNft, command: str
) -> None:
    def shape() -> list[str]:
        return [line for line in nft.run("list table inet smtpguard").splitlines() if "elements" not in line]

    before = shape()
    other.run(command)
    assert {event.kind for event in hear(watch)} == {"damaged"}
    guard.ensure()
    assert sorted(shape()) == sorted(before)
    assert [held.subject.id for held in guard.read_denies()] == [BAD]


def test_deleting_an_element_is_told_as_the_wish_to_free_it(
    watch: NftNotifications, guard: NftEnforcer, other: CommandNft
) -> None:
    other.run(f"delete element inet smtpguard blocked {{ {BAD} }}")
    [event] = hear(watch)
    assert event == NftEvent(kind="deleted", pid=other.own_pids[-1], comm=b"nft", set="blocked", ranges=((BAD, BAD),))
    assert guard.find_owners("blocked", event.ranges) == [(Reach("block"), Subject(id=BAD))]
    other.run("delete element inet smtpguard blocked { 100000-165535 }")
    [event] = hear(watch)
    assert event.ranges == ((100000, 165535),)
    assert guard.find_owners("blocked", event.ranges) == [(Reach("block"), Subject(id=BAD))]
    assert guard.find_owners("blocked", ((5, 5),)) == []
    assert guard.find_owners("throttled", event.ranges) == []


def test_flushing_a_set_is_told_per_element(watch: NftNotifications, other: CommandNft) -> None:
    other.run("flush set inet smtpguard blocked")
    [event] = hear(watch)
    assert (event.kind, event.ranges) == ("deleted", ((BAD, BAD), (100000, 165535)))


def test_forgotten_after_a_deletion_by_hand_it_is_not_put_back(
    watch: NftNotifications, guard: NftEnforcer, other: CommandNft
) -> None:
    other.run("flush set inet smtpguard blocked")
    for kind, subject in guard.find_owners("blocked", hear(watch)[0].ranges):
        guard.forget(subject, kind)
    other.run("flush ruleset")
    assert hear(watch)[0].kind == "lost"
    guard.restore()
    assert guard.read_denies() == []


def test_adding_or_refreshing_an_element_is_a_change_and_frees_nobody(
    watch: NftNotifications, other: CommandNft
) -> None:
    other.run("add element inet smtpguard throttled { 7 timeout 9s }")
    assert [(e.kind, e.set) for e in hear(watch)] == [("changed", "throttled")]
    other.run(f"add element inet smtpguard blocked {{ {BAD} timeout 9s }}")
    assert {e.kind for e in hear(watch)} == {"changed"}
    other.run(
        "delete element inet smtpguard blocked { 100000-165535 }\n"
        "add element inet smtpguard blocked { 100000-149999, 160000-165535 }"
    )
    assert [(e.kind, e.ranges) for e in hear(watch)] == [("deleted", ((150000, 159999),)), ("changed", ())]


def test_a_rule_put_in_by_others_is_told_as_altered(watch: NftNotifications, other: CommandNft) -> None:
    other.run("insert rule inet smtpguard output accept")
    assert [event.kind for event in hear(watch)] == ["altered"]


def test_our_own_changes_and_expiry_are_silent(watch: NftNotifications, guard: NftEnforcer) -> None:
    guard.apply_deny(deny(seconds=0.05))
    guard.apply_deny(deny(uid=5))
    guard.apply_release(Subject(id=5), "block")
    guard.ensure()
    guard.remove()
    guard.restore()
    deadline = time.monotonic() + 0.3
    while time.monotonic() < deadline:
        assert watch.read() == []
        select.select([watch], [], [], 0.1)


def test_an_overflow_is_told_as_unknown(netns: str, guard: NftEnforcer, other: CommandNft) -> None:
    watch = NftNotifications("smtpguard", guard._nft)
    with inside(netns):
        watch.open()
    try:
        assert watch._socket is not None
        watch._socket.setsockopt(1, 8, 2048)  # SOL_SOCKET, SO_RCVBUF
        other.run("flush ruleset")
        guard.ensure()
        kinds = [event.kind for event in hear(watch)]
        assert "unknown" in kinds
        assert watch.lost > 0
        watch._socket.setsockopt(1, 8, 1 << 20)
        other.run("flush ruleset")
        assert hear(watch)[-1].kind == "lost"
    finally:
        watch.close()


def test_a_deaf_watch_does_not_open(guard: NftEnforcer) -> None:
    watch = NftNotifications("smtpguard", guard._nft)
    with pytest.raises(EnforceError, match="says nothing"):
        watch.open()  # in the wrong network namespace
    assert watch.fileno() == -1
