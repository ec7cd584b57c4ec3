"""Destinations and networks rules against the real kernel: exactly N keys, on all CPUs, in a window that slides."""

import errno
import ipaddress
import os
import random
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

import pytest

from smtpguard.actions.base import Exemptions
from smtpguard.actions.bpf_deny import BpfDeny
from smtpguard.clock import boottime_ns
from smtpguard.daemon.enforce.exact_limits import ExactLimits
from smtpguard.model import NS, Connect, Count, Decision, Subject, Verdict
from smtpguard.policy.credit_rules import NO_LIMIT, CreditRule
from smtpguard.policy.engine import Engine
from smtpguard.policy.networks import PLACES, network_of, use_translators
from smtpguard.settings import Rule
from smtpguard.sources.bpf.credit_maps import CreditMaps, KeyWindow
from smtpguard.sources.bpf.kernel_credits import Credits
from smtpguard.sources.bpf.key_maps import pack_key, unpack_key
from smtpguard.sources.bpf.maps import COUNT_HELD, pack_subject
from tests.kernel.bpf_lab import Lab, dial, open_lab, random_uid, run_as
from tests.support.policy import People, engine_of, person, settings_of

if TYPE_CHECKING:
    from smtpguard.enrich.accounts.directory import AccountDirectory

pytestmark = pytest.mark.kernel

REFUSED = errno.EPERM
LIMIT = 10
PORT25 = frozenset({25})


def networks(limit: int = LIMIT, *, window_s: float = 600, holds: bool = False) -> CreditRule:
    return CreditRule(
        ports=PORT25, limit=limit, window_ns=int(window_s * NS), name="fanout", count="networks", holds=holds
    )


def destinations(limit: int = LIMIT, *, window_s: float = 600) -> CreditRule:
    return CreditRule(ports=PORT25, limit=limit, window_ns=int(window_s * NS), name="wide", count="destinations")


@contextmanager
def refusing_lab() -> Generator[Lab]:
    with open_lab() as lab:
        lab.source.guard.set_enforcing(on=True)
        BpfDeny(lab.source.guard).apply_exemptions(Exemptions())
        yield lab


@pytest.fixture
def lab() -> Generator[Lab]:
    with refusing_lab() as lab:
        yield lab


def begin(lab: Lab, *rules: CreditRule, **more: object) -> Credits:
    credits_ = Credits(lab.source.guard, boottime_ns())
    credits_.start(rules, boottime_ns(), **more)  # type: ignore[arg-type]
    return credits_


def fan(count: int, *, start: int = 0) -> list[str]:
    """Addresses in ever new networks, of both families."""
    return [f"198.18.{number}.1" if number % 2 else f"2001:db8:{number:x}::1" for number in range(start, start + count)]


def passed(results: list[int]) -> list[bool]:
    return [code != REFUSED for code in results]


def tries(uid: int, lab: Lab, *addresses: str, port: int = 25) -> list[bool]:
    """Which of these attempts passed; none is waited for."""
    return passed(run_as(uid, lab.cgroup, lambda: [dial(a, port, nonblocking=True) for a in addresses]))


def together(lab: Lab, uid: int, works: list[list[str]]) -> list[list[bool]]:
    """Several processes at full speed, begun at once: what passed, of each."""
    readers = []
    gate, opener = os.pipe()
    for addresses in works:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.close(opener)
                (lab.cgroup / "cgroup.procs").write_text(str(os.getpid()))
                os.setresuid(uid, uid, uid)
                os.read(gate, 1)
                os.write(writer, bytes(dial(address, nonblocking=True) != REFUSED for address in addresses))
            finally:
                os._exit(0)
        os.close(writer)
        readers.append((reader, child))
    time.sleep(0.01)
    os.close(opener)
    os.close(gate)
    results = []
    for reader, child in readers:
        with os.fdopen(reader, "rb") as pipe:
            results.append([bool(byte) for byte in pipe.read()])
        os.waitpid(child, 0)
    return results


def reached(works: list[list[str]], results: list[list[bool]], key: Callable[[bytes], bytes]) -> set[bytes]:
    """The keys of what passed."""
    return {
        key(ipaddress.ip_address(address).packed)
        for addresses, outcome in zip(works, results, strict=True)
        for address, through in zip(addresses, outcome, strict=True)
        if through
    }


def judge(lab: Lab, engine: Engine, limits: ExactLimits, connects: list[Connect]) -> list[Decision]:
    """What the guard does with attempts, without log, state and nft."""
    out: list[Decision] = []
    for connect in connects:
        assert connect.uid is not None
        subject = Subject(id=connect.uid)
        missed = limits.prepare(connect, subject) if connect.refused_by == "credit" else None
        if missed is not None:
            out += judge(lab, engine, limits, [missed])
        decisions = engine.feed(connect)
        limits.note(connect, subject, decisions)
        out += decisions
    return out


def begins(limits: ExactLimits) -> bool:
    """Whether nobody is refused yet, as what came before is not read."""
    return limits._credits is not None and limits._credits.unread_ns is not None


def guarded(lab: Lab, uid: int, rule: Rule) -> tuple[Engine, ExactLimits]:
    settings = settings_of(rule)
    known = People([person(uid, "tenant", "web")])
    engine = engine_of(rule, people=known)
    limits = ExactLimits(cast("AccountDirectory", known), engine, boottime_ns)
    limits.attach(lab.source)
    limits.refresh(settings, (), trusted=True, anew=True)
    lab.source.read()
    limits.on_time(boottime_ns())
    assert not begins(limits)
    return engine, limits


BLOCK = Rule(
    name="fanout",
    count="networks",
    ports=PORT25,
    limit=LIMIT,
    window_ns=600 * NS,
    action="block",
    block_ns=60 * NS,
)


@pytest.mark.parametrize("rule", [networks(), destinations()], ids=["networks", "destinations"])
def test_n_keys_pass_known_ones_go_on_and_the_next_is_refused(lab: Lab, rule: CreditRule) -> None:
    begin(lab, rule)
    uid = random_uid()
    assert tries(uid, lab, *fan(12)) == [True] * LIMIT + [False] * 2
    assert tries(uid, lab, *fan(12)) == [True] * LIMIT + [False] * 2  # the first ten are known
    assert tries(uid, lab, fan(99)[98], port=587) == [True]
    assert tries(uid + 1, lab, *fan(3, start=70)) == [True] * 3
    events = lab.events()
    assert [event.credits for event in events[:12]] == [1] * LIMIT + [0] * 2
    assert [(event.refused_by, event.rule) for event in events[10:12]] == [("credit", 0)] * 2


@pytest.mark.parametrize("count", ["networks", "destinations"])
def test_six_processes_at_full_speed_reach_exactly_n(lab: Lab, count: str) -> None:
    rule, key = (networks(), network_of) if count == "networks" else (destinations(), bytes)
    credits_ = begin(lab, rule)
    for _ in range(25):  # two CPUs have to meet
        credits_.maps.beat(boottime_ns())
        uid = random.randrange(61_100, 1 << 30)
        works = [random.sample(fan(200), 60) for _ in range(6)]
        results = together(lab, uid, works)
        known = reached(works, results, key)
        assert len(known) == LIMIT
        for addresses, outcome in zip(works, results, strict=True):
            seen: set[bytes] = set()
            for address, through in zip(addresses, outcome, strict=True):
                packed = key(ipaddress.ip_address(address).packed)
                assert through or packed not in seen, "a key that this very process reached was refused later"
                if through:
                    seen.add(packed)
        lab.events()


def test_the_order_of_times_is_the_order_in_which_the_kernel_judged(lab: Lab) -> None:
    credits_ = begin(lab, networks(64, holds=True))
    for _ in range(25):  # two CPUs have to meet
        credits_.maps.beat(boottime_ns())
        uid = random.randrange(61_100, 1 << 30)
        together(lab, uid, [fan(10, start=number * 10) for number in range(6)])
        times = list(credits_.keys.read(uid, 0).values())  # in the order of slots: the first free one is filled
        assert times == sorted(set(times))
        assert set(times) == {event.time_ns for event in lab.events()}


def test_the_window_slides_by_the_last_attempt_at_each_key(lab: Lab) -> None:
    window_s = 2.0
    begin(lab, networks(2, window_s=window_s))

    def client() -> list[bool]:
        """In one process: a fork of a long test run takes as long as a window."""
        codes = [dial(address, nonblocking=True) for address in ("198.18.1.1", "198.18.2.1", "198.18.3.1")]
        time.sleep(1.2)
        codes += [dial(address, nonblocking=True) for address in ("198.18.1.9", "198.18.3.1")]
        time.sleep(1.2)
        codes += [dial(address, nonblocking=True) for address in ("198.18.3.1", "198.18.2.1", "198.18.1.1")]
        return passed(codes)

    for number in range(5):
        results = run_as(61_100 + number, lab.cgroup, client)
        times = [event.time_ns for event in lab.events()]
        if max(times[4] - times[0], times[7] - times[3]) < window_s * NS:
            break  # else it was held up for so long that another window is looked at
    assert results == [
        *(True, True, False),
        *(True, False),  # refreshed
        *(True, False, True),  # 2 has left, 3 is in
    ]
    assert times[5] - times[0] > window_s * NS


def test_a_key_that_comes_back_is_read_with_its_last_time(lab: Lab) -> None:
    """It takes the first slot that is free, and may stand in a later one as well, with the time before."""
    credits_ = begin(lab, networks(window_s=0.2))
    for uid in range(61_100, 61_105):
        assert all(tries(uid, lab, *fan(3)))
        time.sleep(0.25)
        assert tries(uid, lab, fan(3)[2]) == [True]
        first, second, third, last = [event.time_ns for event in lab.events()]
        if third - first < NS // 5:
            break  # else the first had left the window before the third came
    assert sorted(credits_.keys.read(uid, 0).values()) in ([first, second, last], [second, last])


def test_six_processes_again_when_the_window_has_slid(lab: Lab) -> None:
    credits_ = begin(lab, networks(window_s=0.5))
    uid = random_uid()
    for _ in range(3):
        credits_.maps.beat(boottime_ns())
        works = [random.sample(fan(200), 10) for _ in range(6)]
        begun = time.monotonic()
        results = together(lab, uid, works)
        if time.monotonic() - begun < 0.4:
            assert len(reached(works, results, network_of)) == LIMIT
        time.sleep(0.6)


def test_all_rules_pass_or_none_takes_anything(lab: Lab) -> None:
    burst = CreditRule(ports=PORT25, limit=4, window_ns=60 * NS)
    credits_ = begin(lab, networks(2), burst, destinations(3))
    uid = random_uid()
    a, b, c = "198.18.1.1", "198.18.2.1", "198.18.3.1"
    assert tries(uid, lab, a, b, c, "198.18.1.2", "198.18.1.3", a, b) == [
        True,
        True,
        False,  # a third network
        True,
        False,  # a fourth address
        True,
        False,  # a fifth connection
    ]
    assert [event.rule for event in lab.events() if event.result == "refused"] == [0, 2, 1]
    assert set(credits_.keys.read(uid, 0)) == {bytes([198, 18, 1]), bytes([198, 18, 2])}
    assert len(credits_.keys.read(uid, 2)) == 3
    usage = credits_.maps.read_usage(uid)
    assert usage is not None
    assert usage.used[1] == 4


EMBEDDED = [
    "198.18.5.9",
    "::ffff:198.18.5.1",
    "64:ff9b::198.18.5.2",
    "64:ff9b:1::198.18.5.3",
    "64:ff9b:1:2:3:4:198.18.5.4",
    "2002:c612:507::1",
    "::198.18.5.6",
]


def test_an_address_counts_in_the_kernel_as_it_does_in_the_engine(lab: Lab) -> None:
    credits_ = begin(lab, networks(64), destinations(64))
    uid = random_uid()
    others = ["2001:db8::1", "64:ff9b:2::1", "64:ff9b::1:198.18.5.1", "2003::1", "100::1", "::1:0:0:1", "0:0:1::"]
    addresses = [*EMBEDDED, *others]
    assert tries(uid, lab, *addresses) == [True] * len(addresses)
    packed = [event.address for event in lab.events()]
    assert len(packed) == len(addresses)
    assert set(credits_.keys.read(uid, 0)) == {network_of(address) for address in packed}
    assert set(credits_.keys.read(uid, 1)) == set(packed)
    assert len({network_of(address) for address in packed[: len(EMBEDDED)]}) == 1


@pytest.mark.parametrize("length", PLACES)
def test_behind_a_translator_of_ones_own_too(lab: Lab, length: int) -> None:
    head = bytes.fromhex("20010db8112233445500667700000000")[: length // 8]
    prefix = ipaddress.IPv6Network((head.ljust(16, b"\0"), length))
    other = ipaddress.IPv6Network("64:ff9b:1:77::/64")
    credits_ = begin(lab, networks(64))
    try:
        use_translators([other, prefix])
        BpfDeny(lab.source.guard).apply_exemptions(Exemptions(translators=(other, prefix)))
        for _ in range(5):
            uid = random.randrange(61_100, 1 << 30)
            heads = [head, head, other.network_address.packed[:8], head[:-1], bytes.fromhex("0064ff9b") + bytes(8)]
            addresses = [head + random.randbytes(16 - len(head)) for head in heads for _ in range(8)]
            tries(uid, lab, *(str(ipaddress.IPv6Address(address)) for address in addresses), "32.1.13.184")
            packed = [event.address for event in lab.events()]
            assert len(packed) == 41
            assert set(credits_.keys.read(uid, 0)) == {network_of(address) for address in packed}
        use_translators([])
        BpfDeny(lab.source.guard).apply_exemptions(Exemptions())
        uid = random.randrange(61_100, 1 << 30)
        tries(uid, lab, *(str(ipaddress.IPv6Address(address)) for address in addresses))
        assert set(credits_.keys.read(uid, 0)) == {network_of(event.address) for event in lab.events()}
    finally:
        use_translators([])


def test_random_addresses_have_the_engines_keys(lab: Lab) -> None:
    credits_ = begin(lab, networks(64), destinations(64))
    heads = ["", "0064ff9b" + "00" * 8, "0064ff9b0001", "2002", "0064ff9b", "00" * 12, "00" * 11, "20010db8"]
    for _ in range(20):
        uid = random.randrange(61_100, 1 << 30)
        addresses = []
        for _ in range(40):
            head = bytes.fromhex(random.choice(heads))
            addresses.append(str(ipaddress.IPv6Address(head + random.randbytes(16 - len(head)))))
        tries(uid, lab, *addresses)
        packed = [event.address for event in lab.events()]
        assert set(credits_.keys.read(uid, 0)) == {network_of(address) for address in packed}
        assert set(credits_.keys.read(uid, 1)) == set(packed)


@pytest.mark.parametrize("key", [bytes([1, 2, 3]), bytes([1, 2, 3, 4]), bytes(range(6)), bytes(range(16)), bytes(6)])
def test_keys_go_there_and_back(key: bytes) -> None:
    assert unpack_key(pack_key(key), whole=len(key) in (4, 16)) == key


def test_sixty_four_is_the_most_and_more_is_left_to_the_daemon(lab: Lab) -> None:
    uid = random_uid()
    credits_ = begin(lab, networks(64), limits={uid + 1: {0: NO_LIMIT}, uid + 2: {0: 0}})
    assert tries(uid, lab, *fan(70)) == [True] * 64 + [False] * 6
    assert tries(uid + 1, lab, *fan(70)) == [True] * 70
    assert tries(uid + 2, lab, *fan(2)) == [False] * 2
    credits_.set_limits(uid, {0: 70}, boottime_ns())
    assert tries(uid, lab, *fan(80, start=100)) == [True] * 80


def test_a_silent_daemon_refuses_nobody_and_the_keys_are_noted(lab: Lab) -> None:
    credits_ = begin(lab, networks(holds=True))
    uid = random_uid()
    credits_.maps.beat(boottime_ns() - 2 * NS - 1)
    assert tries(uid, lab, *fan(14)) == [True] * 14
    credits_.maps.beat(boottime_ns())
    assert tries(uid, lab, fan(15)[14], fan(1)[0]) == [False, False]
    assert len(credits_.keys.read(uid, 0)) == 14


def test_after_a_verdict_nothing_passes_until_the_daemon_has_spoken(lab: Lab) -> None:
    credits_ = begin(lab, networks(holds=True))
    uid = random_uid()
    assert tries(uid, lab, *fan(11), fan(1)[0]) == [True] * LIMIT + [False] * 2
    assert tries(uid, lab, fan(1)[0], port=587) == [True]  # the rule is of 25
    assert lab.source.guard.read_count(COUNT_HELD) == 1
    ((who, sample),) = credits_.keys.read_verdicts()
    events = lab.events()
    assert who == uid
    assert sample[:8] == events[LIMIT].time_ns.to_bytes(8, "little")
    credits_.speak(uid, boottime_ns(), boottime_ns())
    assert credits_.keys.read_verdicts() == []
    assert tries(uid, lab, fan(1)[0]) == [True]
    assert tries(uid, lab, *fan(1, start=20), fan(1)[0]) == [False] * 2
    credits_.reset(uid, None, boottime_ns())
    assert tries(uid, lab, *fan(11, start=30)) == [True] * LIMIT + [False]


def test_a_verdict_that_is_not_judged_yet_goes_on_holding_when_an_earlier_one_is(lab: Lab) -> None:
    burst = CreditRule(ports=PORT25, limit=2, window_ns=600 * NS)
    credits_ = begin(lab, burst, networks(1, holds=True))
    uid = random_uid()
    known, other = fan(2)
    assert tries(uid, lab, known, known, known, other) == [True, True, False, False]
    first, verdict = lab.events()[2:]
    credits_.set_limits(uid, {0: 99}, boottime_ns())
    credits_.speak(uid, first.time_ns, boottime_ns())
    assert [who for who, _ in credits_.keys.read_verdicts()] == [uid]
    assert tries(uid, lab, known) == [False]
    credits_.speak(uid, verdict.time_ns, boottime_ns())
    assert credits_.keys.read_verdicts() == []
    assert tries(uid, lab, known, other) == [True, False]


def test_what_began_before_a_verdict_was_carried_out_is_held(lab: Lab) -> None:
    credits_ = begin(lab, networks(1, holds=True))
    uid = random_uid()
    assert tries(uid, lab, *fan(2)) == [True, False]
    verdict = lab.events()[-1]
    credits_.ledger.settle(uid, boottime_ns() + 600 * NS)  # as if all that follows had looked for its deny too soon
    credits_.speak(uid, verdict.time_ns, boottime_ns())
    assert tries(uid, lab, fan(1)[0]) == [False]
    assert tries(uid, lab, fan(1)[0], port=587) == [True]
    credits_.ledger.settle(uid, boottime_ns())
    credits_.speak(uid, verdict.time_ns, boottime_ns())
    assert tries(uid, lab, *fan(2)) == [True, False]


@pytest.mark.parametrize("rule", [BLOCK, replace(BLOCK, count="connections")], ids=["networks", "connections"])
def test_when_a_verdict_was_carried_out_is_told(lab: Lab, rule: Rule) -> None:
    uid = random_uid()
    engine, limits = guarded(lab, uid, rule)
    assert tries(uid, lab, *fan(11)) == [True] * LIMIT + [False]
    events = lab.events()
    judge(lab, engine, limits, events[:-1])
    credits_ = limits._credits
    assert credits_ is not None
    assert credits_.ledger.grant(uid, boottime_ns()).settled_ns == 0
    before_ns = boottime_ns()
    judge(lab, engine, limits, events[-1:])
    grant = credits_.maps._grants.lookup(pack_subject(uid, 0))
    assert grant is not None
    assert before_ns <= int.from_bytes(grant[-8:], "little") <= boottime_ns()


def test_a_verdict_of_a_rule_that_refuses_all_holds_on_every_port(lab: Lab) -> None:
    begin(lab, replace(networks(1, holds=True), holds_all=True))
    uid = random_uid()
    assert tries(uid, lab, *fan(2)) == [True, False]
    assert tries(uid, lab, fan(1)[0], port=587) == [False]


def test_a_verdict_ends_with_the_heartbeat(lab: Lab) -> None:
    credits_ = begin(lab, networks(1, holds=True))
    uid = random_uid()
    assert tries(uid, lab, *fan(2), fan(1)[0]) == [True, False, False]
    credits_.maps.beat(boottime_ns() - 2 * NS - 1)
    assert tries(uid, lab, *fan(3)) == [True] * 3


def test_dry_run_and_who_is_only_told_have_no_keys(lab: Lab) -> None:
    credits_ = begin(lab, networks())
    uid = random_uid()
    credits_.maps.replace_told([(uid + 1, uid + 1)])
    assert tries(uid + 1, lab, *fan(14)) == [True] * 14
    lab.source.guard.set_enforcing(on=False)
    assert tries(uid, lab, *fan(14)) == [True] * 14
    assert credits_.keys.read(uid, 0) == {}
    assert credits_.keys.read(uid + 1, 0) == {}


def test_a_rule_that_stays_keeps_its_keys_and_a_changed_one_begins_with_the_engines(lab: Lab) -> None:
    credits_ = begin(lab, networks())
    uid = random_uid()
    assert tries(uid, lab, *fan(6)) == [True] * 6
    burst = CreditRule(ports=PORT25, limit=99, window_ns=60 * NS)
    credits_.start([burst, networks(8)], boottime_ns())
    assert tries(uid, lab, *fan(10)) == [True] * 8 + [False] * 2
    other = networks(8, window_s=60)
    keys = {network_of(ipaddress.ip_address(address).packed): boottime_ns() for address in fan(7, start=40)}
    window = KeyWindow(uid=uid, index=0, keys=keys, emptied_ns=0)
    credits_.start([other], boottime_ns(), keys=[window])
    assert tries(uid, lab, *fan(3), fan(1, start=40)[0]) == [True, False, False, True]
    credits_.on_time(boottime_ns(), 0, 0)
    credits_.reset(uid, 0, boottime_ns())
    credits_.start([other], boottime_ns())  # what was emptied stays so
    assert tries(uid, lab, *fan(9, start=60)) == [True] * 8 + [False]


def test_a_full_map_is_counted_and_refuses_nobody() -> None:
    with open_lab(key_users=4) as lab:
        lab.source.guard.set_enforcing(on=True)
        BpfDeny(lab.source.guard).apply_exemptions(Exemptions())
        credits_ = begin(lab, networks(2))
        uid = random_uid()
        for number in range(6):
            tries(uid + number, lab, *fan(2))
        assert credits_.keys.count_unkeyed() > 0
        assert tries(uid + 5, lab, *fan(5)) == [True] * 5
        assert tries(uid, lab, *fan(3)) == [True, True, False]


@pytest.mark.parametrize("rule", [BLOCK, replace(BLOCK, count="connections")], ids=["networks", "connections"])
def test_what_came_before_limits_began_and_was_not_read_takes_its_part_of_them(rule: Rule) -> None:
    """Nobody reads after the beginning: who stands still then finds it all in the kernel."""
    with open_lab() as lab:
        lab.source.guard.set_enforcing(on=True)
        BpfDeny(lab.source.guard).apply_exemptions(Exemptions())
        uid = random_uid()
        known = People([person(uid, "tenant", "web")])
        engine = engine_of(rule, people=known)
        limits = ExactLimits(cast("AccountDirectory", known), engine, boottime_ns)
        limits.attach(lab.source)

        def catch_up() -> None:
            judge(lab, engine, limits, lab.source.read())

        limits.judge_unread = catch_up
        assert tries(uid, lab, *fan(4)) == [True] * 4
        limits.refresh(settings_of(rule), (), trusted=True, anew=True)
        assert tries(uid, lab, *fan(LIMIT + 3)[4:]) == [True] * (LIMIT - 4) + [False] * 3


@pytest.mark.parametrize("rule", [BLOCK, replace(BLOCK, count="connections")], ids=["networks", "connections"])
def test_a_verdict_that_the_ring_lost_is_found_by_looking(rule: Rule) -> None:
    with open_lab(ring_bytes=4096) as lab:
        lab.source.guard.set_enforcing(on=True)
        BpfDeny(lab.source.guard).apply_exemptions(Exemptions())
        uid = random_uid()
        engine, limits = guarded(lab, uid, rule)
        tries(uid + 1, lab, *["198.18.1.1"] * 60, port=2525)  # the ring is full
        assert tries(uid, lab, *fan(LIMIT + 1), fan(1)[0]) == [True] * LIMIT + [False] * 2
        assert uid not in {event.uid for event in lab.events()}
        lab.source.read()  # what came before has been read
        overdue = limits.take_overdue(boottime_ns() + NS)
        assert [event.uid for event in overdue] == [uid]
        verdicts = [d for d in judge(lab, engine, limits, overdue) if isinstance(d, Verdict)]
        assert [(verdict.rule, verdict.count, verdict.limit) for verdict in verdicts] == [("fanout", 11, 10)]
        assert [block.kind for block in engine.blocks_of(Subject(id=uid))] == ["block"]
        assert limits.take_overdue(boottime_ns() + 3 * NS) == []


def test_a_later_refusal_brings_the_verdict_that_the_ring_lost(lab: Lab) -> None:
    uid = random_uid()
    engine, limits = guarded(lab, uid, BLOCK)
    tries(uid, lab, *fan(LIMIT + 1), fan(1)[0])
    later = lab.events()[-1]
    assert later.address == ipaddress.ip_address(fan(1)[0]).packed
    found = judge(lab, engine, limits, [later])
    assert [(d.count, d.limit, d.connect.address) for d in found if isinstance(d, Verdict)] == [
        (11, 10, ipaddress.ip_address(fan(LIMIT + 1)[-1]).packed)
    ]


def test_what_a_verdict_held_does_not_settle_it_when_it_is_reported_first(lab: Lab) -> None:
    uid = random_uid()
    engine, limits = guarded(lab, uid, BLOCK)
    tries(uid, lab, *fan(LIMIT + 1), fan(1)[0])
    *before, verdict, later = lab.events()
    credits_ = limits._credits
    assert credits_ is not None
    credits_.keys._verdicts.delete(pack_subject(uid, 0))  # the other CPU has not come to it yet
    judge(lab, engine, limits, [*before, later])
    assert tries(uid, lab, fan(1)[0]) == [False]
    found = judge(lab, engine, limits, [verdict])
    assert [(d.count, d.limit) for d in found if isinstance(d, Verdict)] == [(11, 10)]
    assert tries(uid, lab, fan(1)[0]) == [True]


@pytest.mark.parametrize("count", ["networks", "destinations", "connections"])
def test_what_is_attempted_while_a_rule_begins_counts(lab: Lab, monkeypatch: pytest.MonkeyPatch, count: Count) -> None:
    uid = random_uid()
    rule = replace(BLOCK, count=count)
    known = People([person(uid, "tenant", "web")])
    engine = engine_of(rule, people=known)
    limits = ExactLimits(cast("AccountDirectory", known), engine, boottime_ns)
    limits.attach(lab.source)
    set_crediting = CreditMaps.set_crediting
    tries(uid, lab, *fan(2))
    judge(lab, engine, limits, lab.events())
    tries(uid, lab, *fan(2, start=2))  # unread

    def meanwhile(self: CreditMaps, *, on: bool) -> None:
        if on:
            assert tries(uid, lab, *fan(2, start=4)) == [True] * 2
        set_crediting(self, on=on)
        if on:
            assert tries(uid, lab, *fan(2, start=6)) == [True] * 2

    monkeypatch.setattr(CreditMaps, "set_crediting", meanwhile)
    limits.refresh(settings_of(rule), (), trusted=True, anew=True)
    assert limits._credits is not None
    assert limits._credits.unread_ns is not None
    limits.on_time(limits._credits.unread_ns)
    assert begins(limits), "what came before is not read yet"
    judge(lab, engine, limits, lab.events())
    limits.on_time(boottime_ns())
    assert not begins(limits)
    assert tries(uid, lab, *fan(4, start=8)) == [True] * 2 + [False] * 2
    found = judge(lab, engine, limits, lab.events())
    assert [(d.count, d.limit) for d in found if isinstance(d, Verdict)] == [(11, 10)]


def test_a_flood_does_not_keep_limits_from_beginning(lab: Lab) -> None:
    uid = random_uid()
    known = People([person(uid, "tenant", "web")])
    limits = ExactLimits(cast("AccountDirectory", known), engine_of(BLOCK), boottime_ns)
    limits.attach(lab.source)
    limits.refresh(settings_of(BLOCK), (), trusted=True, anew=True)
    assert limits._credits is not None
    begun_ns = limits._credits.unread_ns
    assert begun_ns is not None
    limits.on_time(begun_ns + NS // 4)
    assert begins(limits)
    limits.on_time(begun_ns + NS)
    assert not begins(limits)
    assert tries(uid, lab, *fan(LIMIT + 1)) == [True] * LIMIT + [False]


def test_without_a_limit_the_last_keys_are_kept(lab: Lab) -> None:
    uid = random_uid()
    credits_ = begin(lab, networks(), limits={uid: {0: NO_LIMIT}})
    assert tries(uid, lab, *fan(80)) == [True] * 80
    ended_ns = boottime_ns()
    assert tries(uid, lab, *fan(6, start=80)) == [True] * 6  # before we have heard that the allowance is over
    credits_.ledger.empty(uid, 0, ended_ns)
    credits_.set_limits(uid, {}, boottime_ns())
    assert tries(uid, lab, *fan(5, start=86), fan(81)[80]) == [True] * 4 + [False, True]


@dataclass
class Told:
    """The window read literally: keys with the time of their last attempt that was let through."""

    limit: int
    window_ns: int
    last: dict[bytes, int]

    def passes(self, key: bytes, now_ns: int) -> bool:
        alive = {known for known, at_ns in self.last.items() if at_ns > now_ns - self.window_ns}
        return key in alive or len(alive) < self.limit


def run_history(lab: Lab, seed: int, *, processes: int) -> None:
    """Random attempts and pauses of one user under two rules; the oracle has the times that the kernel told."""
    dice = random.Random(seed)
    rules = [networks(dice.randint(0, 4), window_s=0.003), destinations(dice.randint(0, 6), window_s=0.002)]
    Credits(lab.source.guard, boottime_ns()).start(rules, boottime_ns(), anew=True)
    uid = 100_000 + seed
    works = [[f"198.18.{dice.randint(1, 5)}.{dice.randint(1, 3)}" for _ in range(30)] for _ in range(processes)]
    pauses = [dice.choice([0, 0, 0, 0.0005, 0.001, 0.003]) for _ in range(30)]

    def client(addresses: list[str]) -> Callable[[], None]:
        def run() -> None:
            for address, pause in zip(addresses, pauses, strict=True):
                dial(address, nonblocking=True)
                time.sleep(pause)

        return run

    if processes == 1:
        run_as(uid, lab.cgroup, client(works[0]))
    else:
        together(lab, uid, works)
    events = [event for event in lab.events() if event.uid == uid]
    assert len(events) == 30 * processes
    told = [Told(rule.limit, rule.window_ns, {}) for rule in rules]
    for event in sorted(events, key=lambda event: event.time_ns):
        keys = [network_of(event.address), event.address]
        fine = [one.passes(key, event.time_ns) for one, key in zip(told, keys, strict=True)]
        assert (event.result == "allowed") == all(fine), (seed, event)
        assert event.result == "allowed" or event.rule == fine.index(False)
        for one, key in zip(told, keys, strict=True):
            if event.result == "allowed":
                one.last[key] = event.time_ns


@pytest.mark.parametrize("processes", [1, 2])
def test_random_histories_are_as_the_window_read_literally(lab: Lab, processes: int) -> None:
    for seed in range(50):
        run_history(lab, seed, processes=processes)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("processes", [1, 2])
def test_ten_thousand_random_histories(processes: int) -> None:
    for first in range(1000, 11_000, 200):  # all users of a lab are looked at whenever limits begin anew
        with refusing_lab() as lab:
            for seed in range(first, first + 200):
                run_history(lab, seed, processes=processes)
