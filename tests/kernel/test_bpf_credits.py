"""Credits and the cap against the real kernel: exactly N, on all CPUs, for the right people, while the daemon lives."""

import errno
import ipaddress
import mmap
import os
import struct
import time
from collections.abc import Callable, Generator

import pytest

from smtpguard.actions.base import Exemptions
from smtpguard.actions.bpf_deny import BpfDeny
from smtpguard.clock import boottime_ns
from smtpguard.model import NS, Connect
from smtpguard.policy.credit_rules import NO_LIMIT, CreditRule
from smtpguard.settings import Cap
from smtpguard.sources.bpf.credit_maps import Usage
from smtpguard.sources.bpf.kernel_credits import Credits
from smtpguard.sources.bpf.maps import COUNT_UNCREDITED
from tests.kernel.bpf_lab import ADDRESS4, OTHER4, Lab, dial, dials, open_lab, random_uid, run_as, unshare_net

pytestmark = pytest.mark.kernel

OPEN, REFUSED = errno.ECONNREFUSED, errno.EPERM
LIMIT = 5
RULE = CreditRule(ports=frozenset({25}), limit=LIMIT, window_ns=60 * NS)


@pytest.fixture
def lab() -> Generator[Lab]:
    with open_lab() as lab:
        lab.source.guard.set_enforcing(on=True)
        BpfDeny(lab.source.guard).apply_exemptions(Exemptions())
        yield lab


@pytest.fixture
def credits_(lab: Lab) -> Credits:
    credits_ = Credits(lab.source.guard, boottime_ns())
    credits_.start([RULE], boottime_ns())
    return credits_


def passed(results: list[int]) -> int:
    assert set(results) <= {OPEN, REFUSED}
    return results.count(OPEN)


def turn(lab: Lab, credits_: Credits) -> list[Connect]:
    """One turn of a daemon's loop: reads, notes, beats. Returns the attempts."""
    events = lab.events()
    for event in events:
        if event.result == "allowed" and event.uid:
            credits_.note(event.uid, event, entered=True)
    credits_.on_time(boottime_ns(), lab.source.stats.lost, lab.source.drained_ns)
    return events


def start_clients(
    lab: Lab, uid: int, many: int, each: int, *, before: Callable[[int], None] = lambda _: None
) -> Callable[[], list[int]]:
    """Start so many processes with so many connects each; the returned function collects how many passed in each.

    Args:
        lab: Where.
        uid: Who they are.
        many: How many processes.
        each: How many connects of each.
        before: Called before each connect, with its number.
    """

    def connect(number: int) -> bool:
        before(number)
        return dial(nonblocking=True) != REFUSED

    readers = []
    for _ in range(many):
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            count = -1
            try:
                (lab.cgroup / "cgroup.procs").write_text(str(os.getpid()))
                os.setresuid(uid, uid, uid)
                count = sum(map(connect, range(each)))
            finally:
                os.write(writer, count.to_bytes(4, "little", signed=True))
                os._exit(0)
        os.close(writer)
        readers.append((reader, child))

    def collect() -> list[int]:
        counts = []
        for reader, child in readers:
            counts.append(int.from_bytes(os.read(reader, 4), "little", signed=True))
            os.close(reader)
            os.waitpid(child, 0)
        return counts

    return collect


def test_attempt_n_plus_1_is_refused_and_says_by_which_rule(lab: Lab, credits_: Credits) -> None:
    del credits_
    uid = random_uid()
    assert dials(uid, lab.cgroup, *[ADDRESS4] * 8) == [OPEN] * LIMIT + [REFUSED] * 3
    events = lab.events()
    assert [event.credits for event in events] == [1] * LIMIT + [0] * 3
    assert [(event.refused_by, event.rule) for event in events[LIMIT:]] == [("credit", 0)] * 3
    assert dials(uid, lab.cgroup, ADDRESS4, port=587) == [OPEN]
    assert dials(uid + 1, lab.cgroup, ADDRESS4) == [OPEN]


def test_six_processes_get_exactly_n_and_again_when_the_window_has_slid(lab: Lab) -> None:
    limit, window_ns = 5000, 5 * NS  # many, so that one lost update would show
    credits_ = Credits(lab.source.guard, boottime_ns())
    credits_.start([CreditRule(ports=frozenset({25}), limit=limit, window_ns=window_ns)], boottime_ns())
    uid = random_uid()
    times: list[int] = []
    for again in (False, True):
        while again and credits_.ledger.next_deadline() is not None:
            turn(lab, credits_)
            time.sleep(0.02)
        begun_ns = boottime_ns()
        collect = start_clients(lab, uid, 6, 2000)
        seen, before = 0, lab.source.stats.lost  # refusals beyond their budget of events are counted alone
        while seen + lab.source.stats.lost - before < 12_000 and boottime_ns() < begun_ns + 60 * NS:
            events = turn(lab, credits_)
            seen += len(events)
            times += [event.time_ns for event in events if event.result == "allowed"]
            time.sleep(0.0005)
        passed_through = sum(collect())
        if boottime_ns() - begun_ns < window_ns:  # else the window slid under the flood, and times must tell
            assert passed_through == limit
    times.sort()
    assert len(times) >= 2 * limit
    assert all(later - earlier >= window_ns for earlier, later in zip(times, times[limit:], strict=False))


def test_no_window_of_event_times_holds_more_than_n_while_it_slides(lab: Lab) -> None:
    limit, window_ns = 40, NS // 2
    credits_ = Credits(lab.source.guard, boottime_ns())
    credits_.start([CreditRule(ports=frozenset({25}), limit=limit, window_ns=window_ns)], boottime_ns())
    uid = random_uid()
    collect = start_clients(lab, uid, 4, 5000)
    times: list[int] = []
    seen = 0
    deadline = time.monotonic() + 60
    while seen + lab.source.stats.lost < 20_000 and time.monotonic() < deadline:
        for event in lab.events():
            seen += 1
            if event.result == "allowed":
                times.append(event.time_ns)
                credits_.note(uid, event, entered=True)
        credits_.on_time(boottime_ns(), lab.source.stats.lost, lab.source.drained_ns)
        time.sleep(0.0005)
    collect()
    times.sort()
    assert len(times) >= limit
    assert all(later - earlier >= window_ns for earlier, later in zip(times, times[limit:], strict=False))
    time.sleep(window_ns / NS)
    turn(lab, credits_)
    assert passed(dials(uid, lab.cgroup, *[ADDRESS4] * (limit + 9))) == limit  # all credits have come back


def test_who_begins_anew_with_the_same_rules_lets_nobody_through_meanwhile(lab: Lab) -> None:
    """Accounts change, a configuration is read again: tenants can have the first happen as often as they like."""
    limit, each = 300, 3000
    rules = [CreditRule(ports=frozenset({25}), limit=limit, window_ns=3600 * NS)]
    credits_ = Credits(lab.source.guard, boottime_ns())
    credits_.start(rules, boottime_ns())
    uid = random_uid()
    shared = mmap.mmap(-1, 4)

    def wait(number: int) -> None:
        """No client is done before it has begun anew 30 times: however seldom this process has its turn."""
        while int.from_bytes(shared[:4], "little") * each < number * 30 and boottime_ns() < begun_ns + 60 * NS:
            time.sleep(0.0002)

    begun_ns, anew = boottime_ns(), 0
    collect = start_clients(lab, uid, 3, each, before=wait)
    times: list[int] = []
    usage = None
    while boottime_ns() < begun_ns + 60 * NS and (usage is None or usage.used[0] + usage.by_credit < 3 * each):
        times += [event.time_ns for event in turn(lab, credits_) if event.result == "allowed"]
        credits_.start(rules, boottime_ns(), windows=[(uid, 0, times)])
        anew += 1
        shared[:4] = anew.to_bytes(4, "little")
        usage = credits_.maps.read_usage(uid)
    assert sum(collect()) == limit
    assert anew > 20
    times += [event.time_ns for event in turn(lab, credits_) if event.result == "allowed"]
    assert len(times) == credits_.count_missing(uid, 0) + limit == limit, "all are known, none twice"


def test_a_refusal_by_one_rule_takes_no_credit_of_another(lab: Lab) -> None:
    rules = [
        CreditRule(ports=frozenset({25, 587}), limit=6, window_ns=60 * NS),
        CreditRule(ports=frozenset({25}), limit=2, window_ns=60 * NS),
    ]
    Credits(lab.source.guard, boottime_ns()).start(rules, boottime_ns())
    uid = random_uid()
    assert passed(dials(uid, lab.cgroup, *[ADDRESS4] * 9)) == 2
    assert passed(dials(uid, lab.cgroup, *[ADDRESS4] * 9, port=587)) == 4
    refused = [event.rule for event in lab.events() if event.result == "refused"]
    assert refused == [1] * 7 + [0] * 5


def test_limits_of_ones_own_end_for_who_never_connected(lab: Lab) -> None:
    credits_ = Credits(lab.source.guard, boottime_ns())
    uid = random_uid()
    credits_.start([RULE], boottime_ns(), limits={uid: {0: NO_LIMIT}})
    credits_.start([RULE], boottime_ns())
    assert passed(dials(uid, lab.cgroup, *[ADDRESS4] * 9)) == LIMIT


def test_limit_0_refuses_the_first(lab: Lab) -> None:
    credits_ = Credits(lab.source.guard, boottime_ns())
    credits_.start([CreditRule(ports=frozenset({25}), limit=0, window_ns=NS)], boottime_ns())
    assert dials(random_uid(), lab.cgroup, ADDRESS4) == [REFUSED]


def test_a_daemon_that_is_silent_for_2_s_refuses_nobody(lab: Lab, credits_: Credits) -> None:
    uid = random_uid()
    assert passed(dials(uid, lab.cgroup, *[ADDRESS4] * 9)) == LIMIT
    credits_.maps.beat(boottime_ns() - 2 * NS - 1)
    assert passed(dials(uid, lab.cgroup, *[ADDRESS4] * 9)) == 9
    credits_.maps.beat(boottime_ns())
    assert passed(dials(uid, lab.cgroup, *[ADDRESS4] * 9)) == 0


def test_dry_run_takes_no_credits(lab: Lab, credits_: Credits) -> None:
    uid = random_uid()
    lab.source.guard.set_enforcing(on=False)
    assert passed(dials(uid, lab.cgroup, *[ADDRESS4] * 9)) == 9
    assert credits_.maps.read_usage(uid) is None


def test_exempt_people_and_places_take_no_credits(lab: Lab, credits_: Credits) -> None:
    uid = random_uid()
    enforcer = BpfDeny(lab.source.guard)
    enforcer.apply_exemptions(Exemptions(uids=((uid + 1, uid + 1),), networks=(ipaddress.ip_network(f"{OTHER4}/32"),)))
    credits_.maps.replace_told([(uid + 2, uid + 5)])
    assert passed(dials(uid, lab.cgroup, *[OTHER4] * 9)) == 9
    assert passed(dials(uid, lab.cgroup, *["127.0.0.1"] * 9)) == 9
    assert passed(dials(uid + 1, lab.cgroup, *[ADDRESS4] * 9)) == 9
    assert passed(dials(uid + 3, lab.cgroup, *[ADDRESS4] * 9)) == 9
    assert passed(dials(0, lab.cgroup, *[ADDRESS4] * 9)) == 9
    assert credits_.maps.read_uids() == []
    assert passed(dials(uid, lab.cgroup, *[ADDRESS4] * 9)) == LIMIT
    assert credits_.maps.read_uids() == [uid]


def test_subordinate_uids_share_their_owners_credits(lab: Lab, credits_: Credits) -> None:
    uid = random_uid()
    lab.source.guard.replace_owners([(200_000, 65_536, uid)])
    assert sum(passed(dials(200_000 + n, lab.cgroup, ADDRESS4, ADDRESS4)) for n in range(6)) == LIMIT
    assert dials(uid, lab.cgroup, ADDRESS4) == [REFUSED]
    assert credits_.maps.read_uids() == [uid]


def test_another_namespaces_uid_has_no_account_and_a_subordinate_one_has_its_owners(
    lab: Lab, credits_: Credits
) -> None:
    uid = random_uid()
    lab.source.guard.replace_owners([(200_000, 65_536, uid)])

    def contained(who: int) -> int:
        def client() -> list[int]:
            unshare_net()
            os.setresuid(who, who, who)
            return [dial() for _ in range(9)]

        return passed(run_as(0, lab.cgroup, client))

    assert contained(uid) == 9
    assert contained(200_001) == LIMIT
    assert credits_.maps.read_uids() == [uid]


def test_a_reset_and_limits_of_ones_own_hold_at_once(lab: Lab, credits_: Credits) -> None:
    uid = random_uid()
    assert passed(dials(uid, lab.cgroup, *[ADDRESS4] * 9)) == LIMIT
    turn(lab, credits_)
    credits_.reset(uid, None, boottime_ns())
    assert passed(dials(uid, lab.cgroup, *[ADDRESS4] * 9)) == LIMIT
    turn(lab, credits_)
    credits_.set_limits(uid, {0: 8}, boottime_ns())
    assert passed(dials(uid, lab.cgroup, *[ADDRESS4] * 9)) == 3
    credits_.set_limits(uid + 1, {0: 2}, boottime_ns())  # before the user was ever seen
    assert passed(dials(uid + 1, lab.cgroup, *[ADDRESS4] * 9)) == 2


def test_a_new_set_of_rules_keeps_the_windows(lab: Lab, credits_: Credits) -> None:
    uid = random_uid()
    assert passed(dials(uid, lab.cgroup, *[ADDRESS4] * 9)) == LIMIT
    turn(lab, credits_)
    other = CreditRule(ports=frozenset({587}), limit=2, window_ns=60 * NS)
    wider = CreditRule(ports=frozenset({25}), limit=LIMIT + 2, window_ns=60 * NS)
    times = list(credits_.ledger._lanes[uid][0].times)
    credits_.start([other, wider], boottime_ns(), windows=[(uid, 1, times)])
    assert passed(dials(uid, lab.cgroup, *[ADDRESS4] * 9)) == 2
    assert passed(dials(uid, lab.cgroup, *[ADDRESS4] * 9, port=587)) == 2
    credits_.stop()
    assert passed(dials(uid, lab.cgroup, *[ADDRESS4] * 9)) == 9


def test_credits_of_lost_events_come_back() -> None:
    with open_lab(ring_bytes=4096) as lab:
        lab.source.guard.set_enforcing(on=True)
        BpfDeny(lab.source.guard).apply_exemptions(Exemptions())
        credits_ = Credits(lab.source.guard, boottime_ns())
        credits_.start([CreditRule(ports=frozenset({25}), limit=200, window_ns=NS // 2)], boottime_ns())
        uid = random_uid()
        assert passed(dials(uid, lab.cgroup, *[ADDRESS4] * 300)) == 200
        lab.source._next_check_ns = 0
        deadline = time.monotonic() + 20
        while credits_.missed == 0 and time.monotonic() < deadline:
            turn(lab, credits_)
            time.sleep(0.01)
        assert 100 < credits_.missed <= 200
        while credits_.ledger.next_deadline() is not None and time.monotonic() < deadline:
            turn(lab, credits_)
            time.sleep(0.01)
        assert passed(dials(uid, lab.cgroup, *[ADDRESS4] * 201)) == 200


def test_the_cap_is_exactly_the_bucket_on_all_cpus(lab: Lab, credits_: Credits) -> None:
    credits_.stop()
    credits_.maps.set_cap(Cap(rate=1, per_ns=3600 * NS, burst=30))
    uid = random_uid()
    assert sum(start_clients(lab, uid, 6, 500)()) == 30
    usage = credits_.maps.read_usage(uid)
    assert usage is not None
    assert (usage.by_cap, usage.by_credit) == (2970, 0)
    assert {event.refused_by for event in lab.events()} == {None, "cap"}
    assert dials(0, lab.cgroup, ADDRESS4) == [OPEN]
    assert dials(uid + 1, lab.cgroup, ADDRESS4) == [OPEN]


def test_the_cap_refills_at_its_rate_and_holds_without_a_daemon(lab: Lab, credits_: Credits) -> None:
    credits_.maps.set_cap(Cap(rate=4, per_ns=2 * NS, burst=3))
    credits_.stop()
    credits_.maps.beat(0)
    uid = random_uid()

    def burst() -> tuple[int, int]:
        """How many of nine passed, and how many tokens came back meanwhile: none, unless it was held up."""
        begun_ns = boottime_ns()
        codes = [dial() for _ in range(9)]
        return passed(codes), (boottime_ns() - begun_ns) * 2 // NS

    for bucket in ((3,), (2, 3)):
        through, refilled = run_as(uid, lab.cgroup, burst)
        assert min(bucket) <= through <= max(bucket) + refilled
        time.sleep(1.1)
    credits_.maps.set_cap(None)
    assert passed(dials(uid, lab.cgroup, *[ADDRESS4] * 9)) == 9


def test_a_refusal_by_credit_takes_no_token_and_one_by_cap_no_credit(lab: Lab, credits_: Credits) -> None:
    credits_.maps.set_cap(Cap(rate=1, per_ns=3600 * NS, burst=LIMIT + 1))
    uid = random_uid()
    assert passed(dials(uid, lab.cgroup, *[ADDRESS4] * 9)) == LIMIT
    assert passed(dials(uid, lab.cgroup, *[ADDRESS4] * 9, port=587)) == 1
    credits_.set_limits(uid, {0: 99}, boottime_ns())
    assert dials(uid, lab.cgroup, ADDRESS4) == [REFUSED]
    usage = credits_.maps.read_usage(uid)
    assert usage is not None
    assert (usage.used[0], usage.by_credit, usage.by_cap) == (LIMIT, 4, 9)


def test_a_removed_account_begins_anew(lab: Lab, credits_: Credits) -> None:
    uid = random_uid()
    assert passed(dials(uid, lab.cgroup, *[ADDRESS4] * 9)) == LIMIT
    credits_.maps.remove(uid)
    assert credits_.maps.read_usage(uid) is None
    assert passed(dials(uid, lab.cgroup, *[ADDRESS4] * 9)) == LIMIT
    assert lab.source.guard.read_count(COUNT_UNCREDITED) == 0


def test_of_many_accounts_only_those_that_lost_events_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    with open_lab(ring_bytes=4096) as lab:
        lab.source.guard.set_enforcing(on=True)
        BpfDeny(lab.source.guard).apply_exemptions(Exemptions())
        credits_ = Credits(lab.source.guard, boottime_ns())
        credits_.start([CreditRule(ports=frozenset({25}), limit=200, window_ns=60 * NS)], boottime_ns())
        blank = bytes(lab.source.guard.map("accounts").value_bytes)
        for other in range(200_000, 210_000):
            lab.source.guard.map("accounts").update(struct.pack("=IIQ", other, 0, 0), blank)
        uid = random_uid()
        assert passed(dials(uid, lab.cgroup, *[ADDRESS4] * 300)) == 200
        read: list[int] = []
        read_usage = credits_.maps.read_usage

        def note(of: int) -> Usage | None:
            read.append(of)
            return read_usage(of)

        monkeypatch.setattr(credits_.maps, "read_usage", note)
        lab.source._next_check_ns = 0
        deadline = time.monotonic() + 20
        while credits_.missed == 0 and time.monotonic() < deadline:
            turn(lab, credits_)
            time.sleep(0.01)
        for _ in range(5):
            turn(lab, credits_)
        assert 100 < credits_.missed <= 200
        assert set(read) == {uid}
        assert len(read) <= 2
