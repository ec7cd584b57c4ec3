"""Pairing, for any connections, sensors and delays."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from smtpguard.model import NS, Connect
from smtpguard.policy.sensor_pairs import SensorPairs
from tests.support.policy import T0

SENSORS = ["bpf", "nflog", "proc"]

connections = st.lists(
    st.tuples(
        st.integers(0, 2),  # where to
        st.integers(0, 200),  # when, in steps of 5 s: far enough apart or at the very same place and time
        st.integers(1, 3),  # whose
        st.sets(st.sampled_from(SENSORS), min_size=1),
        st.lists(st.integers(0, 400), min_size=3, max_size=3),  # jitter of each sensor, ms
    ),
    max_size=40,
)


def events_of(script: list[tuple[int, int, int, set[str], list[int]]], *, same_uid: bool) -> list[Connect]:
    return [
        Connect(
            time_ns=T0 + step * 5 * NS + jitter * 1_000_000,
            uid=uid if same_uid or sensor == "bpf" else 0,
            port=25,
            address=bytes([192, 0, 2, where]),
            sensor=sensor,
        )
        for where, step, uid, sensors, jitters in script
        for sensor, jitter in zip(SENSORS, jitters, strict=True)
        if sensor in sensors
    ]


@given(connections, st.booleans())
def test_each_connection_counts_once(script: list[tuple[int, int, int, set[str], list[int]]], same_uid: bool) -> None:
    """Of connections to one place at one time as many count as the sensor that saw most of them has seen."""
    events = sorted(events_of(script, same_uid=same_uid), key=lambda event: event.time_ns)
    pairing = SensorPairs(SENSORS)
    out: list[Connect] = []
    for event in events:
        out += pairing.tick(event.time_ns)
        if event.sensor != "bpf":
            pairing.beside(event)
        elif pairing.lead(event):
            out.append(event)
    out += pairing.tick(T0 + 10_000 * NS)

    def moment(event: Connect) -> tuple[bytes, int]:
        return (event.address, (event.time_ns - T0) // (5 * NS))

    counted = Counter(moment(event) for event in out)
    told: dict[tuple[bytes, int], Counter[str]] = {}
    for event in events:
        told.setdefault(moment(event), Counter())[event.sensor] += 1
    assert counted == {key: max(sensors.values()) for key, sensors in told.items()}
    assert len(out) + pairing.paired == len(events)
    assert pairing.late == pairing.dropped == 0


@given(connections)
def test_the_leader_alone_passes_everything_in_order(script: list[tuple[int, int, int, set[str], list[int]]]) -> None:
    events = [event for event in events_of(script, same_uid=True) if event.sensor == "bpf"]
    pairing = SensorPairs(SENSORS)
    assert [event for event in events if pairing.lead(event)] == events
