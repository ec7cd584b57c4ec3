"""The decoder of the program's events: each field, each verdict, and nothing but DecodeError for what is wrong."""

import struct
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpguard.decode.bpf_event import EVENT_BYTES, Probe, decode
from smtpguard.errors import DecodeError
from smtpguard.model import Connect, SocketReport

_LAYOUT = "=QQQIIIHHBBBBHBB16s16sII"
_REPORT_LAYOUT = "=QQQIIIHHBBBBI16sQQQQQ16s"
_FIELDS = {
    "time_ns": 5_000_000_001,
    "netns": 4098,
    "cookie": 77,
    "tgid": 1234,
    "uid": 1001,
    "owner": 1001,
    "port": 587,
    "protocol": 6,
    "kind": 1,
    "verdict": 0,
    "family": 2,
    "rule": 0,
    "credited": 0,
    "urgent": 0,
    "reserved": 0,
    "address": bytes([192, 0, 2, 1]),
    "comm": b"php-fpm",
    "creator": 1001,
    "reserved2": 0,
}
_REPORT_FIELDS = {
    "time_ns": 5_000_000_900,
    "netns": 0,
    "cookie": 77,
    "retransmissions": 2,
    "uid": 1001,
    "owner": 1001,
    "port": 25,
    "protocol": 6,
    "kind": 3,
    "outcome": 1,
    "family": 2,
    "reserved": 0,
    "reserved2": 0,
    "address": bytes([192, 0, 2, 1]),
    "connect_ns": 5_000_000_001,
    "latency_ns": 899,
    "bytes_sent": 10,
    "bytes_received": 11,
    "bytes_told": 9,
    "own": bytes([198, 51, 100, 7]),
}


def sample(**changes: int | bytes) -> bytes:
    return struct.pack(_LAYOUT, *(_FIELDS | changes).values())


def report(**changes: int | bytes) -> bytes:
    return struct.pack(_REPORT_LAYOUT, *(_REPORT_FIELDS | changes).values())


def connect(**changes: int | bytes) -> Connect:
    event = decode(sample(**changes))
    assert isinstance(event, Connect)
    return event


def test_every_field_arrives() -> None:
    assert connect() == Connect(
        time_ns=5_000_000_001,
        uid=1001,
        port=587,
        address=bytes([192, 0, 2, 1]),
        sensor="bpf",
        netns=4098,
        pid=1234,
        result="allowed",
        cookie=77,
        creator=1001,
        proc=b"php-fpm",
    )
    assert connect(credited=0b101).credits == 0b101


def test_an_ipv6_address_is_sixteen_bytes() -> None:
    address = bytes(range(16))
    assert connect(family=10, address=address).address == address


@pytest.mark.parametrize(
    ("field", "unknown"), [("netns", 0), ("tgid", 0), ("cookie", 0), ("uid", 0xFFFFFFFF), ("creator", 0xFFFFFFFF)]
)
def test_not_known_is_none(field: str, unknown: int) -> None:
    assert getattr(connect(**{field: unknown}), {"tgid": "pid"}.get(field, field)) is None


def test_uid_0_is_known() -> None:
    assert connect(uid=0).uid == 0


@pytest.mark.parametrize(
    ("verdict", "by", "rule"), [(1, "block", None), (2, "throttle", None), (3, "credit", 5), (4, "cap", None)]
)
def test_each_refusal_says_by_what(verdict: int, by: str, rule: int | None) -> None:
    event = connect(verdict=verdict, rule=5)
    assert (event.result, event.refused_by, event.rule) == ("refused", by, rule)


@pytest.mark.parametrize(
    ("comm", "proc"), [(b"", None), (b"x" * 15, b"x" * 15), (b"y" * 16, b"y" * 16), (b"a\nb\0rest", b"a\nb")]
)
def test_comm_ends_at_its_first_nul(comm: bytes, proc: bytes | None) -> None:
    assert connect(comm=comm).proc == proc


def test_a_probe_is_no_connect() -> None:
    assert decode(sample(kind=2)) == Probe(time_ns=5_000_000_001, cookie=77, netns=4098)
    assert decode(sample(kind=2, netns=0)) == Probe(time_ns=5_000_000_001, cookie=77, netns=None)


@pytest.mark.parametrize("changes", [{"kind": 0}, {"kind": 9}, {"family": 1}, {"verdict": 5}])
def test_what_the_program_never_writes_is_an_error(changes: dict[str, int | bytes]) -> None:
    with pytest.raises(DecodeError):
        decode(sample(**changes))


def test_every_field_of_a_report_arrives() -> None:
    assert decode(report()) == SocketReport(
        time_ns=5_000_000_900,
        kind="established",
        uid=1001,
        netns=None,
        cookie=77,
        connect_time_ns=5_000_000_001,
        port=25,
        address=bytes([192, 0, 2, 1]),
        latency_ns=899,
        bytes_sent=10,
        bytes_received=11,
        bytes_told=9,
        retransmissions=2,
        own=bytes([198, 51, 100, 7]),
    )


@pytest.mark.parametrize(
    ("outcome", "kind", "timed"),
    [
        (1, "established", True),
        (2, "refused", True),
        (3, "timeout", True),
        (4, "gave-up", True),
        (5, "open", False),
        (6, "closed", False),
        (7, "untracked", False),
        (8, "unfollowed", False),
    ],
)
def test_each_outcome(outcome: int, kind: str, timed: bool) -> None:
    news = decode(report(outcome=outcome, family=10, address=bytes(range(16)), uid=0xFFFFFFFF))
    assert isinstance(news, SocketReport)
    assert (news.kind, news.latency_ns is not None, news.uid, len(news.address)) == (kind, timed, None, 16)


@pytest.mark.parametrize(
    ("family", "own", "wanted"),
    [
        (2, bytes([198, 51, 100, 7]), bytes([198, 51, 100, 7])),
        (10, bytes(range(1, 17)), bytes(range(1, 17))),
        (2, bytes(16), None),
        (10, bytes(16), None),
    ],
)
def test_an_own_address_that_the_kernel_does_not_name_is_not_known(
    family: int, own: bytes, wanted: bytes | None
) -> None:
    news = decode(report(family=family, own=own))
    assert isinstance(news, SocketReport)
    assert news.own == wanted


@pytest.mark.parametrize("data", [report(outcome=0), report(outcome=9), report(family=0), report()[:-1]])
def test_a_report_that_the_program_never_writes_is_an_error(data: bytes) -> None:
    with pytest.raises(DecodeError):
        decode(data)


@given(st.binary(max_size=2 * EVENT_BYTES))
def test_any_bytes_give_an_event_or_a_decode_error(data: bytes) -> None:
    data = data[:40] + bytes([len(data) % 5]) + data[41:]
    try:
        event = decode(data)
    except DecodeError:
        return
    assert isinstance(event, Connect | Probe | SocketReport)
    assert len(data) >= EVENT_BYTES


@pytest.mark.parametrize("data", [sample(), report()])
def test_events_leave_nothing_behind(data: bytes) -> None:
    """CPython 3.11 keeps tuples of 20, two thousand of them, and never takes one again: 400 kB."""
    decode(data)
    tracemalloc.start()
    try:
        for _ in range(2000):
            decode(data)
        left, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert left < 10_000
