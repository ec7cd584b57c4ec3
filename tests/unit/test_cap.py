"""The cap's bucket beside the kernel's, and the counts that `status` shows."""

from collections.abc import Callable

import pytest

from smtpguard.daemon.enforce.cap_counts import CapCounts
from smtpguard.model import NS, Connect
from smtpguard.policy import cap as cap_module
from smtpguard.policy.cap import CapBuckets
from smtpguard.policy.engine import Engine
from smtpguard.settings import Cap, Settings
from tests.support.policy import T0, People

CAP = Cap(rate=2, per_ns=NS, burst=3)


def capping(
    *counts: Callable[[], dict[int, int]], settings: Settings | None = None, clock: Callable[[], float] = lambda: 0.0
) -> CapCounts:
    settings = settings or Settings(dry_run=False, rules=(), cap=CAP)
    people = People(owners={700_003: 1001})
    engine = Engine(settings=settings, directory=people, why_exempt=lambda a: "loopback" if a[0] == 127 else None)
    return CapCounts(settings, people, engine, in_force=lambda: True, counts=counts, clock=clock)


def attempt(uid: int = 1001, *, sensor: str = "nflog", port: int = 25, address: bytes = b"\xc0\x00\x02\x01") -> Connect:
    return Connect(time_ns=T0, uid=uid, port=port, address=address, sensor=sensor)


def test_a_bucket_holds_its_burst_and_refills_at_its_rate() -> None:
    buckets = CapBuckets(CAP)
    assert [buckets.take(1, T0) for _ in range(5)] == [True] * 3 + [False] * 2
    assert not buckets.take(1, T0 + NS // 2 - 1)
    assert buckets.take(1, T0 + NS // 2)
    assert not buckets.take(1, T0 + NS // 2)
    assert [buckets.take(1, T0 + 60 * NS) for _ in range(4)] == [True] * 3 + [False]
    assert buckets.take(2, T0)


def test_buckets_are_bounded_and_the_one_used_longest_ago_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cap_module, "MAX_USERS", 2)
    buckets = CapBuckets(CAP)
    for uid in (1, 2, 1, 1, 3):
        assert buckets.take(uid, T0)
    assert not buckets.take(1, T0)
    assert len(buckets._full_ns) == 2


def test_only_what_gets_as_far_as_the_rule_takes_a_token() -> None:
    found = capping()
    for other in (
        attempt(sensor="bpf"),
        attempt(uid=0),
        attempt(port=80),
        attempt(address=b"\x7f\x00\x00\x01"),
    ):
        assert [found.mark(other) for _ in range(9)] == [other] * 9
    marked = [found.mark(attempt()).result for _ in range(5)]
    assert marked == [None] * 3 + ["refused"] * 2
    assert found.mark(attempt()).refused_by == "cap"


def test_in_dry_run_nothing_is_capped() -> None:
    found = capping(settings=Settings(dry_run=True, rules=(), cap=CAP))
    assert found.cap is None
    assert {found.mark(attempt()).result for _ in range(9)} == {None}


def test_counts_of_both_means_and_of_subordinate_uids_add_up_for_the_owner() -> None:
    found = capping(lambda: {1001: 5, 700_003: 2, 1002: 1}, lambda: {1001: 10})
    assert found.read() == {1001: 17, 1002: 1}


def test_counts_that_take_long_to_read_are_read_seldom() -> None:
    now = [100.0]
    asked: list[float] = []

    def slow() -> dict[int, int]:
        asked.append(now[0])
        now[0] += 0.5
        return {1001: len(asked)}

    found = capping(slow, clock=lambda: now[0])
    assert found.read() == {1001: 1}
    now[0] = 110.0
    assert found.read() == {1001: 1}
    now[0] = 110.5
    assert found.read() == {1001: 2}
