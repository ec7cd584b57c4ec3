"""The bpf enforcer against the real kernel: who is refused, who never is, and when it ends."""

import errno
import ipaddress
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Generator, Mapping
from dataclasses import replace
from typing import Literal

import pytest

from smtpguard.actions.base import Deny, Exemptions
from smtpguard.actions.bpf_deny import BpfDeny
from smtpguard.clock import boottime_ns
from smtpguard.errors import EnforceError
from smtpguard.model import NS, Subject
from smtpguard.sources.bpf.libbpf import BpfError, Library
from smtpguard.sources.bpf.objects import Map
from tests.kernel.bpf_lab import (
    ADDRESS4,
    ADDRESS6,
    MPTCP,
    OTHER4,
    Lab,
    block,
    dial,
    dials,
    open_lab,
    random_uid,
    ready_as,
    run_as,
    unshare_net,
    unshare_user,
)

pytestmark = pytest.mark.kernel

OPEN, REFUSED = errno.ECONNREFUSED, errno.EPERM


@pytest.fixture
def lab() -> Generator[Lab]:
    with open_lab() as lab:
        yield lab


@pytest.fixture
def enforcer(lab: Lab) -> BpfDeny:
    lab.source.guard.set_enforcing(on=True)
    enforcer = BpfDeny(lab.source.guard)
    enforcer.apply_exemptions(Exemptions())
    return enforcer


@pytest.mark.parametrize("address", [ADDRESS4, ADDRESS6, f"::ffff:{ADDRESS4}", "0.0.0.0", "::", "::ffff:0.0.0.0"])
def test_each_kind_of_address_is_refused(lab: Lab, enforcer: BpfDeny, address: str) -> None:
    uid = random_uid()
    enforcer.apply_exemptions(Exemptions(loopback=False))
    enforcer.apply_deny(block(uid))
    assert dials(uid, lab.cgroup, address) == [REFUSED]
    assert [(event.result, event.refused_by) for event in lab.events()] == [("refused", "block")]


def test_nonblocking_and_mptcp_are_refused_and_other_ports_pass(lab: Lab, enforcer: BpfDeny) -> None:
    uid = random_uid()
    enforcer.apply_deny(block(uid))
    results = run_as(uid, lab.cgroup, lambda: [dial(nonblocking=True), dial(protocol=MPTCP), dial(port=80)])
    assert results == [REFUSED, REFUSED, OPEN]


def test_a_user_namespace_hides_no_uid(lab: Lab, enforcer: BpfDeny) -> None:
    uid = random_uid()
    enforcer.apply_deny(block(uid))

    def client() -> tuple[int, int]:
        unshare_user()
        return os.getuid(), dial()

    inside, result = run_as(uid, lab.cgroup, client)
    assert inside != uid
    assert result == REFUSED
    assert [event.uid for event in lab.events()] == [uid]


def test_others_go_on_and_root_is_never_refused(lab: Lab, enforcer: BpfDeny) -> None:
    uid = random_uid()
    enforcer.apply_exemptions(Exemptions(uids=()))
    enforcer.apply_deny(block(uid))
    guard, until_ns = lab.source.guard, boottime_ns() + 60 * NS
    guard.put_denies([(0, None, None, until_ns, until_ns)])
    guard.put_deny_ranges((0, None, "block"), [(0, 1)], until_ns, 0)
    assert dials(uid, lab.cgroup, ADDRESS4) == [REFUSED]
    assert dials(uid + 1, lab.cgroup, ADDRESS4) == [OPEN]
    assert dials(0, lab.cgroup, ADDRESS4) == [OPEN]


def test_exempt_users_destinations_and_loopback_pass_while_denied(lab: Lab, enforcer: BpfDeny) -> None:
    uid = random_uid()
    targets = (ADDRESS4, OTHER4, "127.0.0.1", "::1", f"::ffff:{OTHER4}", ADDRESS6)
    enforcer.apply_deny(block(uid))
    network4, network6 = ipaddress.ip_network(f"{OTHER4}/32"), ipaddress.ip_network("2001:db8::/64")
    enforcer.apply_exemptions(Exemptions(networks=(network4, network6)))
    assert dials(uid, lab.cgroup, *targets) == [REFUSED, OPEN, OPEN, OPEN, OPEN, OPEN]
    enforcer.apply_exemptions(Exemptions(loopback=False))
    assert dials(uid, lab.cgroup, *targets) == [REFUSED] * 6
    enforcer.apply_exemptions(Exemptions(loopback=False, networks=(ipaddress.ip_network("127.0.0.1/32"),)))
    assert dials(uid, lab.cgroup, *targets) == [REFUSED, REFUSED, OPEN, REFUSED, REFUSED, REFUSED]
    enforcer.apply_exemptions(Exemptions(uids=((0, 0), (uid - 3, uid))))
    assert dials(uid, lab.cgroup, *targets) == [OPEN] * 6
    enforcer.apply_exemptions(Exemptions(uids=((0, 0), (uid + 1, uid + 9))))
    assert dials(uid, lab.cgroup, ADDRESS4) == [REFUSED]


def test_dry_run_refuses_nobody_whatever_the_maps_say(lab: Lab) -> None:
    uid = random_uid()
    BpfDeny(lab.source.guard).apply_deny(block(uid))
    assert dials(uid, lab.cgroup, ADDRESS4) == [OPEN]
    assert [event.result for event in lab.events()] == ["allowed"]
    lab.source.guard.set_enforcing(on=True)  # a person's block in dry run
    assert dials(uid, lab.cgroup, ADDRESS4) == [REFUSED]


def test_a_deny_ends_by_itself_and_by_release(lab: Lab, enforcer: BpfDeny) -> None:
    uid = random_uid()
    with ready_as(uid, lab.cgroup, dial) as go:
        enforcer.apply_deny(block(uid, seconds=1))
        assert go() == REFUSED
    time.sleep(1.05)
    assert dials(uid, lab.cgroup, ADDRESS4) == [OPEN]
    assert enforcer.read_denies() == []
    deny = block(uid)
    enforcer.apply_deny(deny)
    assert enforcer.read_denies() == [deny]
    enforcer.apply_release(deny.subject, "throttle")
    assert dials(uid, lab.cgroup, ADDRESS4) == [REFUSED]
    enforcer.apply_release(deny.subject, "block")
    enforcer.apply_release(deny.subject, "block")
    assert dials(uid, lab.cgroup, ADDRESS4) == [OPEN]


def test_block_and_throttle_are_told_apart_and_the_later_call_wins(lab: Lab, enforcer: BpfDeny) -> None:
    subject = Subject(id=random_uid())
    enforcer.apply_deny(Deny(subject=subject, kind="throttle", until_ns=boottime_ns() + 60 * NS))
    dials(subject.id, lab.cgroup, ADDRESS4)
    enforcer.apply_deny(block(subject.id))
    dials(subject.id, lab.cgroup, ADDRESS4)
    enforcer.apply_release(subject, "block")
    dials(subject.id, lab.cgroup, ADDRESS4)
    enforcer.apply_deny(Deny(subject=subject, kind="throttle", until_ns=boottime_ns() - 1))
    dials(subject.id, lab.cgroup, ADDRESS4)
    assert [event.refused_by for event in lab.events()] == ["throttle", "block", "throttle", None]


@pytest.mark.parametrize("has_batches", [True, False])
def test_many_are_written_at_once_or_one_by_one_on_older_kernels(
    enforcer: BpfDeny, monkeypatch: pytest.MonkeyPatch, has_batches: bool
) -> None:
    calls = Counter[str]()
    call = Library.call

    def counted(self: Library, name: str, *args: object) -> int:
        calls[name] += 1
        if name.endswith("_batch") and not has_batches:
            raise BpfError(errno.EINVAL, "no such command")
        return call(self, name, *args)

    first = block(2000, ranges=((200_000, 16),))
    denies = [first, *(block(2000 + number, seconds=60 + number) for number in range(1, 5000))]
    monkeypatch.setattr(Library, "call", counted)
    enforcer.apply_many(denies, [])
    assert calls["bpf_map_update_batch"] == 1
    assert (calls["bpf_map_update_elem"] < 10) is has_batches
    assert {(deny.subject, deny.until_ns) for deny in enforcer.read_denies()} == {
        (deny.subject, deny.until_ns) for deny in denies
    }
    calls.clear()
    throttle = Deny(subject=Subject(id=2001), kind="throttle", until_ns=boottime_ns() + 60 * NS, port=25)
    enforcer.apply_many([throttle], [(deny.subject, deny.reach) for deny in denies])
    assert enforcer.read_denies() == [throttle]
    assert (calls["bpf_map_delete_elem"] < 10) is has_batches


def test_what_finds_no_room_is_told_and_nothing_of_it_is_forgotten(
    enforcer: BpfDeny, monkeypatch: pytest.MonkeyPatch
) -> None:
    update = Map.update_many

    def half(self: Map, entries: Mapping[bytes, bytes]) -> None:
        update(self, dict(list(entries.items())[: len(entries) // 2]))
        raise BpfError(errno.E2BIG, "Argument list too long")

    denies = [block(2000 + number) for number in range(100)]
    with monkeypatch.context() as patch:
        patch.setattr(Map, "update_many", half)
        with pytest.raises(EnforceError, match="the map is full"):
            enforcer.apply_many(denies, [])
    enforcer.apply_many(denies, [])  # asked again, as the reconciler does
    enforcer.apply_many([], [(deny.subject, deny.reach) for deny in denies])
    assert enforcer.read_denies() == []


def test_subordinate_ranges_are_refused_with_their_owner(lab: Lab, enforcer: BpfDeny) -> None:
    uid = random_uid()
    enforcer.apply_deny(block(uid, ranges=((200_001, 1000), (300_000, 1))))
    results = {n: dials(n, lab.cgroup, ADDRESS4)[0] for n in (200_000, 200_001, 201_000, 201_001, 300_000, 300_001)}
    assert results == {
        200_000: OPEN,
        200_001: REFUSED,
        201_000: REFUSED,
        201_001: OPEN,
        300_000: REFUSED,
        300_001: OPEN,
    }
    enforcer.apply_release(Subject(id=uid), "block")
    assert dials(200_001, lab.cgroup, ADDRESS4) == [OPEN]


def test_overlapping_ranges_are_refused_while_any_holder_wants_it(lab: Lab, enforcer: BpfDeny) -> None:
    enforcer.apply_deny(block(61_101, ranges=((200_000, 64),)))
    enforcer.apply_deny(block(61_102, ranges=((200_000, 1),), seconds=-1))  # the longer prefix, already over
    assert dials(200_000, lab.cgroup, ADDRESS4) == [REFUSED]
    enforcer.apply_release(Subject(id=61_101), "block")
    assert dials(200_000, lab.cgroup, ADDRESS4) == [OPEN]


def test_owned_uids_share_their_owners_fate(lab: Lab, enforcer: BpfDeny) -> None:
    uid = random_uid()
    lab.source.guard.replace_owners([(200_000, 65_536, uid)])
    enforcer.apply_deny(block(uid))
    assert dials(265_535, lab.cgroup, ADDRESS4) == [REFUSED]
    enforcer.apply_exemptions(Exemptions(uids=((uid, uid),)))
    assert dials(265_535, lab.cgroup, ADDRESS4) == [OPEN]


def test_a_containers_uid_is_not_the_hosts(lab: Lab, enforcer: BpfDeny) -> None:
    uid = random_uid()
    enforcer.apply_deny(block(uid, ranges=((200_000, 65_536),)))

    def contained(who: int) -> int:
        def client() -> int:
            unshare_net()
            os.setresuid(who, who, who)
            return dial()

        return run_as(0, lab.cgroup, client)

    assert contained(uid) == OPEN
    assert contained(200_005) == REFUSED  # a subordinate uid is the owner's wherever it is seen
    first, second = lab.events()
    assert (first.uid, second.uid) == (uid, 200_005)
    assert first.netns is not None
    assert first.netns != second.netns
    assert dials(uid, lab.cgroup, ADDRESS4) == [REFUSED]
    assert [event.netns for event in lab.events()] == [None]


def test_a_deny_can_name_another_namespace(lab: Lab, enforcer: BpfDeny) -> None:
    uid = random_uid()
    ready, go = os.pipe(), os.pipe()

    def client() -> list[int]:
        unshare_net()
        os.setresuid(uid, uid, uid)
        first = dial()
        os.write(ready[1], b"+")
        os.read(go[0], 1)
        return [first, dial()]

    result: list[int] = []
    thread = threading.Thread(target=lambda: result.extend(run_as(0, lab.cgroup, client)))
    thread.start()
    os.read(ready[0], 1)
    (event,) = lab.events()
    deny = block(uid, netns=event.netns)
    enforcer.apply_deny(deny)
    os.write(go[1], b"+")
    thread.join(30)
    for descriptor in (*ready, *go):
        os.close(descriptor)
    assert result == [OPEN, REFUSED]
    assert enforcer.read_denies() == [deny]
    assert dials(uid, lab.cgroup, ADDRESS4) == [OPEN]


@pytest.mark.parametrize(("maker_denied", "caller_denied"), [(True, False), (False, True), (False, False)])
def test_a_socket_in_other_hands_is_refused_when_either_is(
    lab: Lab, enforcer: BpfDeny, maker_denied: bool, caller_denied: bool
) -> None:
    if not lab.source.guard.features.creator:
        pytest.skip("lacks BTF (/sys/kernel/btf/vmlinux) or CAP_PERFMON")
    maker, caller = 61_201, 61_202
    for uid, denied in ((maker, maker_denied), (caller, caller_denied)):
        if denied:
            enforcer.apply_deny(block(uid))

    def client() -> int:
        os.seteuid(maker)
        with socket.socket() as sock:
            os.seteuid(0)
            os.setresuid(caller, caller, caller)
            return sock.connect_ex((ADDRESS4, 25))

    assert run_as(0, lab.cgroup, client) == (REFUSED if maker_denied or caller_denied else OPEN)
    (event,) = lab.events()
    assert (event.uid, event.creator) == (caller, maker)
    assert dials(maker + 2, lab.cgroup, ADDRESS4) == [OPEN]


def test_an_exempt_or_root_maker_and_a_root_caller_are_never_the_reason(lab: Lab, enforcer: BpfDeny) -> None:
    maker, caller = 61_201, 61_202

    def client(maker: int, caller: int) -> int:
        def connect() -> int:
            os.seteuid(maker)
            with socket.socket() as sock:
                os.seteuid(0)
                os.setresuid(caller, caller, caller)
                return sock.connect_ex((ADDRESS4, 25))

        return run_as(0, lab.cgroup, connect)

    enforcer.apply_deny(block(maker))
    assert client(maker, 0) == OPEN
    assert client(0, caller) == OPEN
    enforcer.apply_exemptions(Exemptions(uids=((maker, maker),)))
    assert client(maker, caller) == OPEN


@pytest.mark.parametrize("kind", ["block", "throttle"])
def test_one_port_alone_is_refused_ranges_too_and_each_has_its_end(
    lab: Lab, enforcer: BpfDeny, kind: Literal["block", "throttle"]
) -> None:
    uid, sub = random_uid(), random_uid() + 1_000_000
    deny = replace(block(uid, ranges=((sub, 4),)), kind=kind)

    def client() -> list[int]:
        return [dial(port=port) for port in (25, 465, 587)]

    enforcer.apply_deny(replace(deny, port=25))
    with ready_as(uid, lab.cgroup, client) as go, ready_as(sub + 3, lab.cgroup, client) as go_sub:
        enforcer.apply_deny(replace(deny, port=587, until_ns=boottime_ns() + NS))
        held = enforcer.read_denies()
        assert (go(), go_sub()) == ([REFUSED, OPEN, REFUSED],) * 2
    assert {(deny.kind, deny.port) for deny in held} == {(kind, 25), (kind, 587)}
    time.sleep(1.05)
    for who in (uid, sub + 3):
        assert run_as(who, lab.cgroup, client) == [REFUSED, OPEN, OPEN]
    enforcer.apply_deny(replace(deny, port=None, kind="throttle"))
    assert run_as(uid, lab.cgroup, lambda: [dial(port=port) for port in (25, 465)]) == [REFUSED, REFUSED]
    assert [event.refused_by for event in lab.events()][-2:] == [kind, "throttle"], "the block is the stronger"
    enforcer.apply_release(deny.subject, "throttle")
    enforcer.apply_release(deny.subject, kind, 25)
    for who in (uid, sub + 3):
        assert run_as(who, lab.cgroup, client) == [OPEN, OPEN, OPEN]
