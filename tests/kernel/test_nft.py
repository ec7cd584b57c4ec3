"""The enforcer against the real kernel: who is refused, who is not, and what is left behind."""

import errno
import random
import re
import select
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from ipaddress import ip_network

import pytest

from smtpguard.actions.base import Deny, Exemptions, Kind, Reach
from smtpguard.actions.nft import table
from smtpguard.actions.nft.enforcer import NftEnforcer
from smtpguard.actions.nft.render import TableSpec
from smtpguard.actions.nft.set_elements import SetFullError
from smtpguard.actions.nft.templates import read_templates
from smtpguard.clock import boottime_ns
from smtpguard.decode.netlink.nft_numbers import NftChange, render_delete_table
from smtpguard.errors import EnforceError
from smtpguard.kernel.nft.compiler import Compiler
from smtpguard.kernel.nft.text import CommandNft
from smtpguard.model import NS, Subject
from smtpguard.settings import Cap
from tests.support.netlab import Lab, NetnsNft, call_as

pytestmark = pytest.mark.kernel

BAD, GOOD, *_ = random.sample(range(61001, 61099), 4)
NEAR, FAR6 = Lab.ADDRESSES4[0], Lab.ADDRESSES6[0]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    lab = Lab()
    try:
        lab.open()
        lab.sink(25, 465, 587, 2525, 8025)
        lab.sink(25, netns=lab.client)
        yield lab
    finally:
        lab.close()


@pytest.fixture(params=["library", "program"])
def nft(request: pytest.FixtureRequest, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Iterator[NetnsNft]:
    """The text compiled by libnftables, and by the `nft` program where there is no library."""
    compiler = Compiler()
    if request.param == "program":
        monkeypatch.setattr("smtpguard.kernel.nft.text.open_text_nft", CommandNft)
    compiler.start()
    yield NetnsNft(lab.client, compiler)
    compiler.close()


@pytest.fixture
def library(lab: Lab) -> NetnsNft:
    return NetnsNft(lab.client)


@pytest.fixture
def guard(library: NetnsNft) -> Iterator[NftEnforcer]:
    enforcer = NftEnforcer(TableSpec(), nft=library)
    enforcer.ensure()
    yield enforcer
    enforcer.remove()


def ruleset(lab: Lab, *, stateless: bool = False) -> str:
    words = ["nft", *(["-s"] if stateless else []), "list", "ruleset"]
    command = ["nsenter", f"--net=/run/netns/{lab.client}", *words]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout


def deny(uid: int = BAD, kind: Kind = "block", seconds: float = 60, ranges: tuple[tuple[int, int], ...] = ()) -> Deny:
    until_ns = boottime_ns() + int(seconds * NS)
    return Deny(subject=Subject(id=uid), kind=kind, until_ns=until_ns, ranges=ranges, comment="guard mx-fanout")


def passes(lab: Lab, uid: int, address: str = NEAR, port: int = 25) -> bool:
    """Whether a connection comes about; a refusal must be ECONNREFUSED, and at once."""
    # A fork of ours, which takes a second late in a long run: not what is timed.
    return comes_through(lab.user_socket(uid, socket.AF_INET6 if ":" in address else socket.AF_INET), address, port)


def comes_through(sock: socket.socket, address: str = NEAR, port: int = 25) -> bool:
    """The same, of a socket that there is already."""
    with sock:
        sock.settimeout(0)
        code = sock.connect_ex((address, port))
        is_at_once = select.select([], [sock], [], 0.5)[1]  # told by the kernel, however late we ask
        assert is_at_once or select.select([], [sock], [], 10)[1], "neither refused nor answered"
        if code in (0, errno.EINPROGRESS):
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code == errno.ECONNREFUSED:
            assert is_at_once
            return False
    assert code == 0
    return True


def test_blocked_user_is_refused_at_once_and_his_neighbour_is_not(lab: Lab, nft: NetnsNft) -> None:
    enforcer = NftEnforcer(TableSpec(), nft=nft)
    enforcer.ensure()
    try:
        assert passes(lab, BAD)
        enforcer.apply_deny(deny())
        for address in (NEAR, FAR6, f"::ffff:{NEAR}"):
            for port in (25, 465, 587, 2525):
                assert not passes(lab, BAD, address, port)
                assert passes(lab, GOOD, address, port)
        assert passes(lab, BAD, NEAR, 8025)
        assert enforcer.read_counters()["refused_blocked"] == 12
        enforcer.apply_release(Subject(id=BAD), "block")
        assert passes(lab, BAD)
    finally:
        enforcer.remove()


def test_a_process_of_the_blocked_user_meets_econnrefused(lab: Lab, guard: NftEnforcer) -> None:
    def attempt() -> bytes:
        with socket.socket() as sock:
            return str(sock.connect_ex((NEAR, 25))).encode()

    assert call_as(BAD, lab.client, attempt) == b"0"
    guard.apply_deny(deny())
    assert call_as(BAD, lab.client, attempt) == b"111"


def test_open_session_of_a_blocked_user_is_reset(lab: Lab, guard: NftEnforcer) -> None:
    session, other = lab.connect(BAD, NEAR), lab.connect(GOOD, NEAR)
    assert lab.echoes(session)
    guard.apply_deny(deny())
    with pytest.raises(ConnectionResetError):
        lab.echoes(session)
    assert lab.echoes(other)


def test_open_session_of_a_throttled_user_lives_on(lab: Lab, guard: NftEnforcer) -> None:
    session = lab.connect(BAD, NEAR)
    guard.apply_deny(deny(kind="throttle"))
    assert not passes(lab, BAD)
    assert not passes(lab, BAD, FAR6)
    assert lab.echoes(session)
    assert passes(lab, GOOD)
    assert guard.read_counters()["refused_throttled"] == 2


def test_drop_answers_with_silence(lab: Lab, library: NetnsNft) -> None:
    enforcer = NftEnforcer(TableSpec(verdict="drop"), nft=library)
    enforcer.ensure()
    try:
        enforcer.apply_deny(deny())
        with pytest.raises(TimeoutError):
            lab.connect(BAD, NEAR, timeout_s=0.4)
    finally:
        enforcer.remove()


def test_passes_hold_for_a_blocked_user(lab: Lab, guard: NftEnforcer) -> None:
    for kind in ("block", "throttle"):
        guard.apply_deny(deny(kind=kind))
    assert passes(lab, BAD, "127.0.0.1")
    assert passes(lab, BAD, "::1")
    assert passes(lab, BAD, Lab.OWN4)
    assert passes(lab, BAD, "fd66::1")
    assert not passes(lab, BAD, Lab.ADDRESSES4[1])
    guard.apply_exemptions(Exemptions(networks=(ip_network("10.66.0.3/32"), ip_network("fd66::3/128"))))
    assert passes(lab, BAD, Lab.ADDRESSES4[1])
    assert passes(lab, BAD, f"::ffff:{Lab.ADDRESSES4[1]}")
    assert passes(lab, BAD, Lab.ADDRESSES6[1])
    assert not passes(lab, BAD, NEAR)
    guard.apply_exemptions(Exemptions(uids=((0, 0), (BAD, BAD))))
    assert passes(lab, BAD, NEAR)
    guard.apply_exemptions(Exemptions())
    assert not passes(lab, BAD, NEAR)
    assert not passes(lab, BAD, Lab.ADDRESSES4[1])


def test_loopback_is_refused_only_when_it_counts(lab: Lab, guard: NftEnforcer) -> None:
    guard.apply_exemptions(Exemptions(loopback=False))
    guard.apply_deny(deny())
    assert not passes(lab, BAD, "127.0.0.1")
    assert not passes(lab, BAD, "::1")
    assert passes(lab, BAD, Lab.OWN4)
    assert passes(lab, GOOD, "127.0.0.1")


def test_root_passes_even_when_somebody_puts_uid_0_into_the_set(
    lab: Lab, guard: NftEnforcer, library: NetnsNft
) -> None:
    with pytest.raises(EnforceError, match="root is never refused"):
        guard.apply_deny(deny(uid=0))
    guard.apply_deny(deny(uid=BAD, ranges=((0, 61000),)))
    assert "0-" not in library.run("list set inet smtpguard blocked").replace("1-", "")
    library.run("flush set inet smtpguard blocked")
    library.run("add element inet smtpguard blocked { 0-70000 }")
    guard.apply_exemptions(Exemptions(uids=()))
    assert passes(lab, 0)
    assert not passes(lab, GOOD)


def test_subordinate_ranges_are_refused_and_freed_with_their_owner(lab: Lab, guard: NftEnforcer) -> None:
    guard.apply_deny(deny(ranges=((100000, 65536),)))
    assert [passes(lab, uid) for uid in (BAD, 99999, 100000, 131072, 165535, 165536)] == [
        False, True, False, False, False, True,
    ]  # fmt: skip
    [held] = guard.read_denies()
    assert (held.subject, held.ranges, held.comment) == (Subject(id=BAD), ((100000, 65536),), "guard mx-fanout")
    guard.apply_release(Subject(id=BAD), "block")
    assert passes(lab, 131072)
    assert guard.read_denies() == []


def test_shared_subordinate_uids_stay_refused_while_one_owner_is(lab: Lab, guard: NftEnforcer) -> None:
    guard.apply_deny(deny(uid=BAD, ranges=((100000, 1000),)))
    guard.apply_deny(deny(uid=GOOD, ranges=((100500, 1000),), seconds=30))
    assert not passes(lab, 100999)
    guard.apply_release(Subject(id=BAD), "block")
    assert [passes(lab, uid) for uid in (100000, 100499, 100500, 100999, 101499)] == [True, True, False, False, False]
    guard.apply_release(Subject(id=GOOD), "block")
    assert guard.read_denies() == []


def test_the_same_subordinate_uids_stay_refused_while_one_owner_is(lab: Lab, guard: NftEnforcer) -> None:
    guard.apply_deny(deny(uid=BAD, ranges=((100000, 1000),)))
    guard.apply_deny(deny(uid=GOOD, ranges=((100000, 1000),), seconds=30))
    guard.apply_release(Subject(id=GOOD), "block")
    assert [passes(lab, uid) for uid in (BAD, GOOD, 100000)] == [False, True, False]


def test_the_kernel_ends_a_block_by_itself(lab: Lab, guard: NftEnforcer) -> None:
    # Before it begins: a fork of ours takes a second late in a long run.
    first, sock = lab.user_socket(BAD), lab.user_socket(BAD)
    until_ns = boottime_ns() + NS
    guard.apply_deny(Deny(subject=Subject(id=BAD), kind="block", until_ns=until_ns))
    with pytest.raises(ConnectionRefusedError):
        first.connect((NEAR, 25))
    deadline_ns = until_ns + 10 * NS
    while sock.connect_ex((NEAR, 25)):  # the same one: a refused socket may be used again
        assert boottime_ns() < deadline_ns
        time.sleep(0.01)
    assert -NS // 50 < boottime_ns() - until_ns < 3 * NS


def test_times_are_kept_to_the_millisecond_and_changed_by_the_later_call(guard: NftEnforcer) -> None:
    for seconds in (600.25, 3.5, 86_400 * 3, 7):
        begun_ns = boottime_ns()
        asked = deny(seconds=seconds)
        guard.apply_deny(asked)
        [held] = guard.read_denies()
        took_ns = boottime_ns() - begun_ns  # it is told how long it lasts, and tells how long it still does
        assert abs(held.until_ns - asked.until_ns) < NS // 100 + took_ns


def test_a_deny_that_is_over_frees(lab: Lab, guard: NftEnforcer) -> None:
    guard.apply_deny(deny())
    guard.apply_deny(deny(seconds=-1))
    assert passes(lab, BAD)


def test_another_network_namespace_is_not_the_business_of_nft(guard: NftEnforcer) -> None:
    guard.apply_deny(Deny(subject=Subject(id=BAD, scope=7), kind="block", until_ns=boottime_ns() + NS * 60))
    guard.apply_release(Subject(id=BAD, scope=7), "block")
    assert guard.read_denies() == []


def test_elements_of_others_are_read_with_their_ends(guard: NftEnforcer, library: NetnsNft) -> None:
    library.run(
        f"add element inet smtpguard blocked {{ {BAD} timeout 90s, 2000-2009 }}\n"
        f'add element inet smtpguard throttled {{ {GOOD} timeout 5m comment "by hand" }}\n'
    )
    held = {deny.subject.id: deny for deny in guard.read_denies()}
    assert held[BAD].kind == "block"
    assert 80 * NS < held[BAD].until_ns - boottime_ns() <= 90 * NS
    assert held[2000].ranges == ((2000, 10),)
    assert held[2000].until_ns > boottime_ns() + 86_400 * 365 * NS
    assert (held[GOOD].kind, held[GOOD].comment) == ("throttle", "by hand")
    for deny_ in held.values():
        guard.apply_deny(deny_)
        guard.apply_release(deny_.subject, deny_.kind)
    assert guard.read_denies() == []


def test_cap_refuses_beyond_the_burst_and_nobody_else(lab: Lab, library: NetnsNft) -> None:
    enforcer = NftEnforcer(TableSpec(cap=Cap(rate=1, per_ns=3600 * NS, burst=5)), nft=library)
    enforcer.apply_exemptions(Exemptions(uids=((0, 0), (61100, 61100))))
    enforcer.ensure()
    try:
        assert [passes(lab, BAD) for _ in range(8)] == [True] * 5 + [False] * 3
        assert passes(lab, GOOD)
        assert all(passes(lab, 61100) for _ in range(8))
        assert passes(lab, BAD, "127.0.0.1")
        assert enforcer.read_counters()["refused_capped"] == 3
        assert enforcer.read_capped() == {BAD: 3}
    finally:
        enforcer.remove()


def test_the_cap_ends_with_the_daemon_that_does_not_beat_any_more(
    lab: Lab, library: NetnsNft, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table, "ALIVE_MS", 1000)
    enforcer = NftEnforcer(TableSpec(cap=Cap(rate=1, per_ns=3600 * NS, burst=2)), nft=library)
    socks = [lab.user_socket(BAD) for _ in range(6)]
    enforcer.beat()
    enforcer.ensure()
    try:
        enforcer.beat()
        assert [comes_through(sock) for sock in socks[:3]] == [True, True, False]
        for _ in range(4):
            time.sleep(0.4)
            enforcer.beat()
        assert not comes_through(socks[3])
        time.sleep(1.2)
        assert comes_through(socks[4]), "nobody says that the guard lives"
        enforcer.beat()
        assert not comes_through(socks[5])
        library.transact(render_delete_table("smtpguard"))
        enforcer.beat()
    finally:
        enforcer.remove()


def test_remove_leaves_the_ruleset_byte_identical(lab: Lab, nft: NetnsNft) -> None:
    nft.run(
        "table inet filter { chain output { type filter hook output priority 0; counter; }; }\n"
        "table ip smtpguard { set blocked { type uid; elements = { 5 }; } ; }\n"
        "table inet smtpguard2 { }\n"
    )
    try:
        before = ruleset(lab)
        enforcer = NftEnforcer(TableSpec(), nft=nft)
        enforcer.ensure()
        enforcer.apply_deny(deny(ranges=((100000, 65536),)))
        enforcer.ensure()
        assert ruleset(lab) != before
        enforcer.remove()
        assert not enforcer.exists()
        assert ruleset(lab).split("counter packets")[0] == before.split("counter packets")[0]
        assert ruleset(lab).count("\n") == before.count("\n")
        enforcer.remove()
    finally:
        nft.run("delete table inet filter\ndelete table ip smtpguard\ndelete table inet smtpguard2\n")


def test_ensure_again_changes_nothing_and_keeps_what_is_in_force(lab: Lab, guard: NftEnforcer) -> None:
    guard.apply_deny(deny())
    assert not passes(lab, BAD)

    def shape() -> str:
        return "\n".join(line for line in ruleset(lab).splitlines() if "expires" not in line)

    before = shape()
    for _ in range(3):
        guard.ensure()
    assert shape() == before
    assert "refused_blocked {\n\t\tpackets 1 " in before
    assert not passes(lab, BAD)


def test_ensure_replaces_an_older_shape_and_keeps_its_elements(lab: Lab, library: NetnsNft) -> None:
    library.run(
        "table inet smtpguard { set blocked { type uid; flags timeout; }\n"
        "chain output { type filter hook output priority 0; }\n}\n"
        f"add element inet smtpguard blocked {{ {BAD} timeout 100s }}\n"
    )
    enforcer = NftEnforcer(TableSpec(), nft=library)
    enforcer.ensure()
    try:
        assert not passes(lab, BAD)
        [held] = enforcer.read_denies()
        assert 90 * NS < held.until_ns - boottime_ns() <= 100 * NS
    finally:
        enforcer.remove()


@pytest.mark.parametrize(
    "left",
    [
        "add chain inet smtpguard evil { type filter hook output priority -200; policy drop; }",
        "add chain inet smtpguard output { type filter hook output priority -150; policy drop; }",
        "rename chain inet smtpguard output other",
        "add chain inet smtpguard helper",
        "add set inet smtpguard mine { type ipv4_addr; }",
        "add counter inet smtpguard mine",
        "insert rule inet smtpguard output accept",
        "add table inet smtpguard { flags dormant; }",
    ],
)
def test_what_others_leave_in_the_table_is_seen_and_goes(
    lab: Lab, guard: NftEnforcer, library: NetnsNft, left: str
) -> None:
    guard.apply_deny(deny())
    assert guard.check() == "whole"
    before = re.sub(r"(expires|timeout) \S+", "", ruleset(lab, stateless=True))
    library.run(left)
    assert guard.check() != "whole"
    guard.ensure()  # as a start does, after which nobody has told of it
    assert guard.check() == "whole"
    assert re.sub(r"(expires|timeout) \S+", "", ruleset(lab, stateless=True)) == before
    assert not passes(lab, BAD)
    assert passes(lab, GOOD)


def test_a_flushed_ruleset_is_put_back_by_the_next_change_and_by_restore(
    lab: Lab, guard: NftEnforcer, library: NetnsNft
) -> None:
    first, second = deny(ranges=((100000, 10),)), deny(uid=GOOD, kind="throttle", seconds=50)
    guard.apply_deny(first)
    library.run("flush ruleset")
    assert not guard.exists()
    guard.apply_deny(second)
    assert not passes(lab, BAD)
    assert not passes(lab, 100005)
    assert not passes(lab, GOOD)
    library.run("flush ruleset")
    begun_ns = boottime_ns()
    guard.restore()
    held = guard.read_denies()
    took_ns = boottime_ns() - begun_ns  # it is told how long they last
    assert [d.subject for d in held] == [first.subject, second.subject]
    assert abs(held[0].until_ns - first.until_ns) < NS // 10 + took_ns


def test_after_remove_a_change_does_not_bring_the_table_back(lab: Lab, guard: NftEnforcer) -> None:
    guard.remove()
    with pytest.raises(EnforceError, match="No such file"):
        guard.apply_deny(deny())
    guard.apply_release(Subject(id=BAD), "block")
    assert guard.read_denies() == []
    assert guard.read_counters() == {}
    assert passes(lab, BAD)


def test_thousands_are_restored_in_one_transaction(lab: Lab, guard: NftEnforcer) -> None:
    denies = [deny(uid=200_000 + 2 * i, ranges=((1_000_000 + 100 * i, 99),)) for i in range(5_000)]
    began = time.monotonic()
    guard.apply_many(denies)
    assert time.monotonic() - began < 10
    held = guard.read_denies()
    assert [(d.subject, d.ranges) for d in held] == [(d.subject, d.ranges) for d in denies]
    assert all(abs(d.until_ns - asked.until_ns) < 5 * NS for d, asked in zip(held, denies, strict=True))
    assert not passes(lab, 1_000_050)
    guard.apply_many(denies)
    guard.apply_release(Subject(id=200_000), "block")
    assert len(guard.read_denies()) == 4_999


def test_files_of_an_administrator_are_taken_at_a_reload_and_wrong_ones_are_not(
    lab: Lab, guard: NftEnforcer, monkeypatch: pytest.MonkeyPatch
) -> None:
    guard.apply_deny(deny())
    templates = read_templates()
    own = {**templates, "loopback-ignore.nft": '\t\tip daddr 10.66.0.3 accept comment "our own relay"\n'}
    monkeypatch.setattr(table, "read_templates", lambda: own)
    guard.read_again()
    assert passes(lab, BAD, Lab.ADDRESSES4[1])
    assert not passes(lab, BAD, NEAR)
    before = ruleset(lab)
    for wrong, words in (("\t\tnonsense\n", "syntax error"), ("$nothing\n", "nothing"), ("", None)):
        wrong_ones = {**own, "table.nft": "table inet $table { }\n"} if words is None else {**own, "cap.nft": wrong}
        wrong_ones["loopback-ignore.nft"] = wrong
        monkeypatch.setattr(table, "read_templates", lambda wrong_ones=wrong_ones: wrong_ones)
        with pytest.raises(EnforceError, match=words or "no set"):
            guard.read_again()
        guard.ensure()
        assert "our own relay" in ruleset(lab)
    assert before.count("\n") == ruleset(lab).count("\n")


def test_ten_thousand_are_one_transaction_of_half_a_second(
    guard: NftEnforcer, library: NetnsNft, monkeypatch: pytest.MonkeyPatch
) -> None:
    denies = [deny(uid=200_000 + 2 * i, seconds=100 + i) for i in range(10_000)]
    transactions: list[int] = []
    transact = library.transact

    def count(changes: Sequence[NftChange]) -> None:
        transactions.append(len(changes))
        transact(changes)

    monkeypatch.setattr(library, "transact", count)
    began = time.process_time()  # which counts no neighbour's work
    guard.apply_many(denies)
    assert time.process_time() - began < 3 * 0.5
    assert len(transactions) == 1
    assert guard.compare() == {}, "each with its own end"
    began = time.process_time()
    guard.apply_many([], [(deny.subject, Reach("block")) for deny in denies])
    assert time.process_time() - began < 3 * 0.5
    assert guard.read_denies() == []
    assert len(transactions) == 2


def test_a_full_set_says_so_and_keeps_those_that_end_last(library: NetnsNft) -> None:
    enforcer = NftEnforcer(TableSpec(size=8), nft=library)
    enforcer.ensure()
    try:
        with pytest.raises(SetFullError, match="of 40 refusals are not carried out"):
            enforcer.apply_many([deny(uid=1000 + 2 * i, seconds=100 + i) for i in range(40)])
        held = enforcer.read_denies()
        assert 4 <= len(held) < 20
        assert [d.subject.id for d in held] == [1000 + 2 * i for i in range(40 - len(held), 40)]
        with pytest.raises(SetFullError, match="the set blocked is full"):
            enforcer.apply_deny(deny(uid=5000))
        enforcer.apply_deny(deny(uid=1078, seconds=500))  # one that is in it can be changed all the same
        assert max(d.until_ns for d in enforcer.read_denies()) > boottime_ns() + 400 * NS
        enforcer.apply_release(Subject(id=1078), "block")
        enforcer.apply_deny(deny(uid=5000))
    finally:
        enforcer.remove()
