"""The bpf source against the real kernel: what is seen, what is lost, what is left behind."""

import errno
import ipaddress
import os
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Generator

import pytest

from smtpguard.actions.bpf_deny import BpfDeny
from smtpguard.clock import boottime_ns
from smtpguard.errors import SourceError
from smtpguard.model import NS, Connect
from smtpguard.policy.credit_rules import CreditRule
from smtpguard.settings import Settings
from smtpguard.sources.bpf.kernel_credits import Credits
from smtpguard.sources.bpf.libbpf import Library
from smtpguard.sources.bpf.source import BpfSource
from tests.kernel.bpf_lab import (
    ADDRESS4,
    ADDRESS6,
    MPTCP,
    PORTS,
    Lab,
    block,
    count_programs,
    dial,
    dials,
    open_lab,
    private_cgroup,
    private_netns,
    random_uid,
    run_as,
    set_comm,
)
from tests.support.bpf_links import detach_all

pytestmark = pytest.mark.kernel

OPEN, REFUSED = errno.ECONNREFUSED, errno.EPERM  # nobody listens: a connect that passes meets ECONNREFUSED
CAP_DAC_OVERRIDE, CAP_NET_ADMIN, CAP_BPF = 1, 12, 39


@pytest.fixture
def lab() -> Generator[Lab]:
    with open_lab() as lab:
        yield lab


def test_the_fields_of_an_event_are_exact(lab: Lab) -> None:
    uid = random_uid()

    def client() -> tuple[int, int]:
        set_comm(b"a name\n")
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
            cookie = int.from_bytes(sock.getsockopt(socket.SOL_SOCKET, 57, 8), "little")
            sock.connect_ex((ADDRESS4, 587))
            return os.getpid(), cookie

    before = boottime_ns()
    pid, cookie = run_as(uid, lab.cgroup, client)
    (event,) = lab.events()
    assert before < event.time_ns < boottime_ns()
    assert event == Connect(
        time_ns=event.time_ns,
        uid=uid,
        port=587,
        address=ipaddress.ip_address(ADDRESS4).packed,
        sensor="bpf",
        pid=pid,
        result="allowed",
        cookie=cookie,
        creator=uid,
        proc=b"a name\n",
    )


@pytest.mark.parametrize(
    ("address", "seen"),
    [
        (ADDRESS4, ADDRESS4),
        (ADDRESS6, ADDRESS6),
        (f"::ffff:{ADDRESS4}", ADDRESS4),
        ("0.0.0.0", "127.0.0.1"),
        ("::", "::1"),
        ("::ffff:0.0.0.0", "127.0.0.1"),
    ],
)
def test_each_kind_of_address_is_seen_as_what_it_means(lab: Lab, address: str, seen: str) -> None:
    assert dials(random_uid(), lab.cgroup, address) == [OPEN]
    assert [event.address for event in lab.events()] == [ipaddress.ip_address(seen).packed]


def test_nonblocking_and_mptcp_connects_are_one_event_each(lab: Lab) -> None:
    results = run_as(random_uid(), lab.cgroup, lambda: [dial(nonblocking=True), dial(protocol=MPTCP)])
    assert results == [errno.EINPROGRESS, OPEN]
    assert [event.result for event in lab.events()] == ["allowed", "allowed"]


def test_other_ports_and_udp_are_no_events(lab: Lab) -> None:
    def client() -> list[int]:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            udp = sock.connect_ex((ADDRESS4, 25))
        return [udp, dial(port=26), dial(port=80)]

    assert run_as(random_uid(), lab.cgroup, client) == [0, OPEN, OPEN]
    assert lab.events() == []


def test_a_name_alone_does_not_make_a_kernel_worker(lab: Lab) -> None:
    def client() -> int:
        set_comm(b"kworker/0:1")
        return dial()

    run_as(random_uid(), lab.cgroup, client)
    run_as(0, lab.cgroup, client)  # what an MPTCP subflow looks like: root, in a worker
    assert [event.proc for event in lab.events()] == [b"kworker/0:1"]


def test_ports_change_while_it_runs(lab: Lab) -> None:
    lab.source.guard.set_ports({80})
    dials(random_uid(), lab.cgroup, ADDRESS4)
    dials(random_uid(), lab.cgroup, ADDRESS4, port=80)
    assert [event.port for event in lab.events()] == [80]


def test_an_event_wakes_the_loop(lab: Lab) -> None:
    dials(random_uid(), lab.cgroup, ADDRESS4)
    ready, _, _ = select.select(lab.source.filenos(), [], [], 5)
    assert ready
    assert len(lab.events()) == 1


def quieten(lab: Lab) -> None:
    """Make the program believe that the reader was woken just now, for an hour; forget wake-ups of before."""
    lab.events()
    is_woken(lab)
    lab.source.guard.map("woken").update(bytes(4), struct.pack("=Q", boottime_ns() + 3600 * NS))


def is_woken(lab: Lab) -> bool:
    return bool(select.select(lab.source.filenos(), [], [], 0)[0])


def test_a_flood_wakes_nobody_each_time_but_is_looked_for_soon(lab: Lab) -> None:
    dials(random_uid(), lab.cgroup, ADDRESS4)
    quieten(lab)  # reads it, and once only: where nothing comes for PACE_NS it is not looked for any more
    dials(random_uid(), lab.cgroup, ADDRESS4)
    assert not is_woken(lab)
    again_ns = lab.source.next_poll_ns()
    assert again_ns is not None
    assert again_ns < boottime_ns() + NS // 10
    assert len(lab.events()) == 1
    deadline = time.monotonic() + 10
    while (again_ns := lab.source.next_poll_ns() or 0) < boottime_ns() + NS // 10:
        assert time.monotonic() < deadline  # nothing came quietly: back to one look a second
        time.sleep(max(0, again_ns - boottime_ns()) / NS)
        assert lab.events() == []


def test_a_user_near_a_limit_is_never_delayed(lab: Lab) -> None:
    lab.source.guard.set_enforcing(on=True)
    rule = CreditRule(ports=frozenset({25}), limit=30, window_ns=3600 * NS)
    credits_ = Credits(lab.source.guard, boottime_ns())
    credits_.start([rule], boottime_ns())
    uid = random_uid()
    woken = []
    for _ in range(31):
        quieten(lab)
        dials(uid, lab.cgroup, ADDRESS4)
        woken.append(is_woken(lab))
        lab.events()
    assert woken == [False] * 22 + [True] * 9


def test_at_most_three_attempts_of_a_user_wait(lab: Lab) -> None:
    lab.source.guard.set_enforcing(on=True)
    quieten(lab)
    uid = random_uid()
    dials(uid, lab.cgroup, *[ADDRESS4] * 3)
    assert not is_woken(lab)
    dials(uid, lab.cgroup, ADDRESS4)
    assert is_woken(lab)


def test_a_user_can_be_called_near(lab: Lab) -> None:
    lab.source.guard.set_enforcing(on=True)
    uid = random_uid()
    credits_ = Credits(lab.source.guard, boottime_ns())
    for near in (True, False):
        credits_.set_near(uid, boottime_ns(), near=near)
        quieten(lab)
        dials(uid, lab.cgroup, ADDRESS4)
        assert is_woken(lab) == near
        lab.events()
    credits_.start([], boottime_ns(), wake_new=True)
    quieten(lab)
    dials(uid + 1, lab.cgroup, ADDRESS4)
    assert is_woken(lab)


def test_fifty_processes_of_a_user_are_heard_of_at_once_in_a_second(lab: Lab) -> None:
    attention = Credits(lab.source.guard, boottime_ns()).maps.set_attention

    def is_heard(uid: int) -> bool:
        quieten(lab)
        dials(uid, lab.cgroup, ADDRESS4)
        woken = is_woken(lab)
        lab.events()
        return woken

    uid = random_uid()
    attention(look=False, exact=True)
    assert not is_heard(uid)
    attention(look=True, exact=True)
    begun = time.monotonic()
    heard = [is_heard(uid) for _ in range(60)]
    took = time.monotonic() - begun
    assert heard[:50] == [True] * 50
    if took < 0.15:
        assert sum(heard) < 60
    assert sum(heard) <= 50 + took * 50 + 1
    assert is_heard(uid + 1), "nobody's processes hide another user's"


def test_three_and_more_attempts_wait_where_the_kernel_alone_refuses(lab: Lab) -> None:
    lab.source.guard.set_enforcing(on=True)
    Credits(lab.source.guard, boottime_ns()).maps.set_attention(look=False, exact=True)
    quieten(lab)
    dials(random_uid(), lab.cgroup, *[ADDRESS4] * 8)
    assert not is_woken(lab)


def test_a_reader_that_is_on_its_way_is_not_woken_again(lab: Lab) -> None:
    lab.source.guard.set_enforcing(on=True)
    rule = CreditRule(ports=frozenset({25}), limit=5, window_ns=3600 * NS)
    credits_ = Credits(lab.source.guard, boottime_ns())
    credits_.start([rule], boottime_ns())

    def woken_ns() -> int:
        return int.from_bytes(lab.source.guard.map("woken").lookup(bytes(4)) or b"", sys.byteorder)

    def dial_twice(pause_s: float) -> tuple[bool, int]:
        """Whether the second attempt woke the reader, and how long after the first it came."""
        lab.events()

        def twice() -> None:
            dial(nonblocking=True)
            if pause_s:
                time.sleep(pause_s)
            dial(nonblocking=True)

        run_as(random_uid(), lab.cgroup, twice)
        at_ns = woken_ns()
        first, second = (event.time_ns for event in lab.events())
        assert at_ns in (first, second)
        return at_ns == second, second - first

    for _ in range(20):
        is_again, gap_ns = dial_twice(0)
        if not is_again:
            break
        assert gap_ns >= NS // 1000  # the client was preempted between the two
    else:
        pytest.fail("woken by each of them")
    assert dial_twice(0.003)[0]


def test_a_flood_is_handed_over_in_bounded_parts(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smtpguard.sources.bpf.source.MAX_EVENTS", 40)
    dials(random_uid(), lab.cgroup, *[ADDRESS4] * 100)
    sizes: list[int] = []
    while lab.source.next_poll_ns() == 0 or not sizes:
        sizes.append(len(lab.source.read()))
    assert sizes == [20] * 5 + [0]  # each attempt comes with a report of its outcome


def test_a_full_ring_is_counted_and_enforcement_goes_on() -> None:
    with open_lab(ring_bytes=4096) as lab:
        uid = random_uid()
        lab.source.guard.set_enforcing(on=True)
        assert dials(uid, lab.cgroup, *[ADDRESS4] * 300) == [OPEN] * 300
        BpfDeny(lab.source.guard).apply_deny(block(uid))
        assert dials(uid, lab.cgroup, ADDRESS4) == [REFUSED]
        lab.source._next_check_ns = 0
        seen = len(lab.events()) + len(lab.source.take_reports())
        assert 0 < seen < 100
        assert lab.source.stats.lost == 601 - seen  # each attempt, and what became of those that were let through


def test_the_probe_proves_the_program_without_an_event(lab: Lab) -> None:
    dials(random_uid(), lab.cgroup, ADDRESS4)
    lab.source.probe(timeout_s=5)
    assert [event.address for event in lab.events()] == [ipaddress.ip_address(ADDRESS4).packed]


def test_the_probe_works_from_inside_the_cgroup() -> None:
    with private_netns(), private_cgroup() as cgroup:

        def client() -> list[Connect]:
            source = BpfSource(Settings(cgroup=str(cgroup), ports=PORTS))
            source.open()
            source.probe(timeout_s=5)
            return source.read()

        assert run_as(0, cgroup, client) == []


def test_the_probe_fails_when_the_program_is_gone(lab: Lab) -> None:
    for link in lab.source.guard._links.values():
        link.close()
    with pytest.raises(SourceError, match="not refused"):
        lab.source.probe(timeout_s=1)


def test_a_removed_cgroup_is_noticed(lab: Lab) -> None:
    lab.cgroup.rmdir()
    deadline = time.monotonic() + 10
    while lab.source.guard.is_attached() and time.monotonic() < deadline:
        time.sleep(0.01)  # the kernel releases a cgroup's programs a moment later
    lab.cgroup.mkdir()
    lab.source._next_check_ns = 0
    with pytest.raises(SourceError, match="detached"):
        lab.source.read()


def test_a_detached_program_is_attached_again_and_its_maps_go_on(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    uid = random_uid()
    lab.source.guard.set_enforcing(on=True)
    BpfDeny(lab.source.guard).apply_deny(block(uid))
    detach_all(lab.cgroup.stat().st_ino)
    assert dials(uid, lab.cgroup, ADDRESS4) == [OPEN]
    lab.source._next_check_ns = 0
    with pytest.raises(SourceError, match="detached"):
        lab.source.read()
    loaded: list[str] = []
    call = Library.call

    def note(self: Library, name: str, *args: object) -> int:
        loaded.append(name)
        return call(self, name, *args)

    monkeypatch.setattr(Library, "call", note)
    lab.source.revive()
    assert loaded
    assert "bpf_object__load" not in loaded, "the program was verified anew"
    assert lab.source.guard.is_attached()
    assert dials(uid, lab.cgroup, ADDRESS4) == [REFUSED]
    assert [event.uid for event in lab.events()] == [uid], "what came while it was detached was seen by nobody"


def test_a_program_can_not_be_attached_again_to_a_cgroup_that_is_gone(lab: Lab) -> None:
    lab.cgroup.rmdir()
    try:
        with pytest.raises(SourceError):
            lab.source.revive()
    finally:
        lab.cgroup.mkdir()


def test_two_instances_side_by_side(lab: Lab) -> None:
    uid = random_uid()
    lab.source.guard.set_enforcing(on=True)
    other = BpfSource(Settings(cgroup=str(lab.cgroup), ports=PORTS))
    other.open()
    try:
        other.probe(timeout_s=5)
        assert dials(uid, lab.cgroup, ADDRESS4) == [OPEN]
        for source in (lab.source, other):
            assert [event.uid for event in source.read() if event.uid] == [uid]
        BpfDeny(lab.source.guard).apply_deny(block(uid))
        assert dials(uid, lab.cgroup, ADDRESS4) == [REFUSED]
    finally:
        other.close()
    lab.source.probe(timeout_s=5)


def test_sigkill_leaves_no_attachment() -> None:
    with private_netns(), private_cgroup() as cgroup:
        uid = random_uid()
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            source = BpfSource(Settings(cgroup=str(cgroup), ports=PORTS))
            source.open()
            source.guard.set_enforcing(on=True)
            BpfDeny(source.guard).apply_deny(block(uid))
            os.write(writer, b"+")
            signal.pause()
        try:
            os.read(reader, 1)
            assert dials(uid, cgroup, ADDRESS4) == [REFUSED]
            assert count_programs(cgroup) == 2
        finally:
            os.close(reader)
            os.close(writer)
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        deadline = time.monotonic() + 5
        while count_programs(cgroup) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert count_programs(cgroup) == 0
        assert dials(uid, cgroup, ADDRESS4) == [OPEN]
