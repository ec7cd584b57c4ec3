"""Several sensors, one connection counted once."""

from collections import Counter
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from smtpguard.model import NS, Connect
from smtpguard.policy.sensor_pairs import SensorPairs

SENSORS = ("bpf", "nflog", "audit")


def connect(sensor: str, at_s: float, port: int = 25, last: int = 1, uid: int = 1001) -> Connect:
    return Connect(time_ns=round(at_s * NS), uid=uid, port=port, address=bytes([192, 0, 2, last]), sensor=sensor)


def test_what_both_see_counts_once_whatever_the_uid() -> None:
    pairing = SensorPairs(SENSORS)
    assert pairing.lead(connect("bpf", 1.0))
    pairing.beside(connect("nflog", 1.2, uid=0))
    assert pairing.tick(10 * NS) == []
    assert pairing.paired == 1


def test_the_order_of_reports_does_not_matter() -> None:
    pairing = SensorPairs(SENSORS)
    pairing.beside(connect("nflog", 1.0))
    assert pairing.lead(connect("bpf", 0.9))
    assert pairing.tick(10 * NS) == []


def test_what_the_leader_missed_counts_at_the_next_tick_and_once() -> None:
    pairing = SensorPairs(SENSORS)
    pairing.beside(connect("nflog", 1.0))
    pairing.beside(connect("audit", 1.1))
    assert pairing.tick(round(1.9 * NS)) == []
    assert pairing.next_deadline() == 2 * NS
    assert [c.sensor for c in pairing.tick(2 * NS)] == ["nflog"]
    assert pairing.tick(10 * NS) == []
    assert pairing.unpaired == 1


def test_a_late_leader_does_not_count_again() -> None:
    pairing = SensorPairs(SENSORS)
    pairing.beside(connect("nflog", 1.0))
    assert len(pairing.tick(2 * NS)) == 1
    assert not pairing.lead(connect("bpf", 1.0))


def test_more_than_a_second_apart_are_two() -> None:
    pairing = SensorPairs(SENSORS)
    assert pairing.lead(connect("bpf", 1.0))
    pairing.beside(connect("nflog", 2.5))
    assert len(pairing.tick(10 * NS)) == 1


def test_held_connections_are_bounded_and_those_left_out_are_counted() -> None:
    pairing = SensorPairs(SENSORS, max_held=10)
    for number in range(100):
        pairing.beside(connect("nflog", 1.0 + number / 1000, last=number))
    assert len(pairing.tick(10 * NS)) + pairing.dropped == 100
    assert pairing.dropped > 90, "what is beyond one user's share of the memory might count twice"
    pairing.tick(20 * NS)
    assert not pairing._kept
    assert not pairing._due_of


@dataclass(frozen=True)
class Real:
    """A connection that was made, and the sensors that saw it."""

    at: int
    port: int
    last: int
    seen_by: frozenset[str]


reals = st.lists(
    st.builds(
        Real,
        at=st.integers(0, 5000),
        port=st.sampled_from([25, 587]),
        last=st.integers(1, 3),
        seen_by=st.sets(st.sampled_from(SENSORS), min_size=1).map(frozenset),
    ),
    max_size=30,
)


@given(reals)
def test_each_connection_counts_once_when_they_are_apart(found: list[Real]) -> None:
    """Connections to one place that are more than two seconds apart can't be mistaken for each other."""
    last: dict[tuple[int, int], int] = {}
    kept = []
    for real in sorted(found, key=lambda r: r.at):
        if real.at - last.get((real.port, real.last), -10_000) > 2000:
            last[real.port, real.last] = real.at
            kept.append(real)
    pairing = SensorPairs(SENSORS)
    counted: Counter[tuple[int, int]] = Counter()
    for real in kept:
        at = real.at / 1000
        for c in pairing.tick(real.at * 1_000_000):
            counted[c.port, c.address[-1]] += 1
        for sensor in SENSORS:
            if sensor in real.seen_by:
                c = connect(sensor, at, real.port, real.last)
                if sensor == "bpf":
                    counted[c.port, c.address[-1]] += pairing.lead(c)
                else:
                    pairing.beside(c)
    for c in pairing.tick(100 * NS):
        counted[c.port, c.address[-1]] += 1
    assert counted == Counter((real.port, real.last) for real in kept)


@given(reals)
def test_never_more_than_any_sensor_saw_and_never_less_than_the_leader(found: list[Real]) -> None:
    pairing = SensorPairs(SENSORS)
    counted = 0
    for real in sorted(found, key=lambda r: r.at):
        counted += len(pairing.tick(real.at * 1_000_000))
        for sensor in sorted(real.seen_by):
            c = connect(sensor, real.at / 1000, real.port, real.last)
            if sensor == "bpf":
                counted += pairing.lead(c)
            else:
                pairing.beside(c)
    counted += len(pairing.tick(100 * NS))
    saw = Counter(sensor for real in found for sensor in real.seen_by)
    assert saw["bpf"] <= counted <= len(found)
