"""Several sensors at once: each connection counts once."""

import pytest

from smtpguard.model import NS, Connect
from smtpguard.policy.sensor_pairs import MEMORY_NS, SensorPairs
from tests.support.policy import T0, connect

RELAY = bytes([192, 0, 2, 1])


def seen(sensor: str, at_s: float, uid: int | None = 1001, address: bytes = RELAY) -> Connect:
    return connect(at_s, uid=uid, sensor=sensor, address=address)


def at(at_s: float) -> int:
    return T0 + round(at_s * NS)


class Both(SensorPairs):
    """A pairing whose first sensor leads."""

    def feed(self, event: Connect) -> list[Connect]:
        if event.sensor == self._sensors[0]:
            return [event] if self.lead(event) else []
        self.beside(event)
        return []


@pytest.fixture
def both() -> Both:
    return Both(["bpf", "nflog"])


def test_leader_counts_at_once(both: Both) -> None:
    event = seen("bpf", 0)
    assert both.feed(event) == [event]
    assert both.next_deadline() is None
    assert both.tick(at(5)) == []


@pytest.mark.parametrize("order", ["leader first", "leader last"])
def test_a_connection_that_both_saw_counts_once(both: Both, order: str) -> None:
    events = [seen("bpf", 0), seen("nflog", 0.0003)]
    out = [counted for event in (events if order == "leader first" else events[::-1]) for counted in both.feed(event)]
    assert [event.sensor for event in out + both.tick(at(3))] == ["bpf"]
    assert both.paired == 1


def test_what_the_leader_missed_counts_at_the_tick_after_a_second(both: Both) -> None:
    assert both.feed(seen("nflog", 0)) == []
    assert both.next_deadline() == at(1)
    assert both.tick(at(0.999)) == []
    [event] = both.tick(at(1))
    assert event.sensor == "nflog"
    assert both.tick(at(2)) == []
    assert both.unpaired == 1


def test_pairs_are_one_to_one(both: Both) -> None:
    both.feed(seen("bpf", 0))
    for _ in range(3):
        both.feed(seen("nflog", 0.1))
    assert len(both.tick(at(2))) == 2


def test_uids_may_differ_within_a_pair(both: Both) -> None:
    both.feed(seen("bpf", 0, uid=1001))
    both.feed(seen("nflog", 0, uid=0))
    assert both.tick(at(2)) == []


def test_partners_of_the_same_uid_come_first(both: Both) -> None:
    both.feed(seen("nflog", 0, uid=1002))  # missed by the leader
    both.feed(seen("nflog", 0.1, uid=1001))
    both.feed(seen("bpf", 0.2, uid=1001))
    assert [event.uid for event in both.tick(at(2))] == [1002]


def test_another_address_port_or_second_is_another_connection(both: Both) -> None:
    both.feed(seen("bpf", 0))
    both.feed(seen("nflog", 0, address=bytes([192, 0, 2, 2])))
    both.feed(connect(0, sensor="nflog", port=587))
    both.feed(seen("nflog", 1.1))
    assert len(both.tick(at(3))) == 3


def test_three_sensors_count_once_whoever_saw_it() -> None:
    three = Both(["bpf", "nflog", "proc"])
    assert three.feed(seen("nflog", 0)) == []
    assert three.feed(seen("proc", 0.5)) == []
    [event] = three.tick(at(2))
    assert event.sensor == "nflog"
    three.feed(seen("bpf", 10))
    three.feed(seen("nflog", 10))
    three.feed(seen("proc", 10.9))
    assert three.tick(at(13)) == []


def test_leader_that_is_late_does_not_count_again(both: Both) -> None:
    both.feed(seen("nflog", 0))
    assert len(both.tick(at(1))) == 1
    assert both.feed(seen("bpf", 0)) == []


def test_follower_later_than_the_memory_is_left_out(both: Both) -> None:
    both.feed(seen("bpf", 0))
    both.feed(seen("bpf", 60))
    both.feed(seen("nflog", 0))
    assert both.tick(at(100)) == []
    assert both.late == 1


def test_follower_that_is_some_seconds_late_is_still_paired(both: Both) -> None:
    for second in range(8):
        both.feed(seen("bpf", second))
        both.tick(at(second))
    for second in range(8):
        both.feed(seen("nflog", second))
    assert both.tick(at(9)) == []
    assert both.paired == 8


def test_sensor_that_takes_over_does_not_count_what_the_old_leader_counted(both: Both) -> None:
    both.lead(seen("bpf", 0))
    assert not both.lead(seen("nflog", 0.1))
    assert both.lead(seen("nflog", 0.2))


def test_flood_of_one_user_hides_nobody_elses() -> None:
    both = Both(["bpf", "nflog"], max_held=800)
    for n in range(5000):
        both.feed(seen("bpf", n / 5000, uid=6666))
    for n in range(5000):
        both.feed(seen("nflog", n / 5000, uid=6666))
    both.feed(seen("nflog", 0.5, uid=1001, address=bytes([192, 0, 2, 9])))
    assert [event.uid for event in both.tick(at(2))] == [1001]  # and nothing of the flood counts twice
    assert both.dropped > 4000


def test_flood_that_only_one_sensor_sees_counts_early_and_once() -> None:
    both = Both(["bpf", "nflog"], max_held=800)
    for n in range(5000):
        both.feed(seen("nflog", n / 5000, uid=6666, address=bytes([10, 0, n >> 8, n & 255])))
    both.feed(seen("nflog", 0.999, uid=1001))
    assert both._waits <= 101
    assert not both.lead(seen("bpf", 0, uid=6666, address=bytes([10, 0, 0, 0])))  # the leader was only slow
    assert both.lead(seen("bpf", 0.999, uid=1001))  # that second is not over
    assert both.early + both.dropped == 4900  # beyond what is remembered of one user nothing more is added


def test_memory_is_bounded_and_empties() -> None:
    both = Both(["bpf", "nflog"], max_held=1000)
    for n in range(5000):
        both.feed(seen("bpf", n / 5000, uid=n, address=bytes([10, 0, n >> 8, n & 255])))
        both.feed(seen("nflog", n / 5000, uid=n, address=bytes([10, 1, n >> 8, n & 255])))
    assert len(both._kept) == 1000
    assert both._waits <= 1000
    both.tick(at(3) + 2 * MEMORY_NS)
    for shelf in (both._counted, both._counted_anyhow, both._waiting):
        assert not shelf._events
    assert not both._kept
    assert not both._kept_of
    assert not both._due_of
    assert both.dropped > 0
    both.feed(seen("nflog", 60))
    assert len(both.tick(at(62))) == 1
