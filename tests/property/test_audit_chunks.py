"""However an audit log is cut into chunks, and in whatever order its records come: the same Connects."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from smtpguard.decode.audit.decoder import AuditDecoder
from smtpguard.decode.audit.line_buffer import LineBuffer
from smtpguard.model import Connect
from tests.support.audit_records import Event, log, unix_lines

PORTS = (25, 465, 587, 2525)
LONG = "type=EXECVE msg=audit(1771400000.000:3): argc=2 a0=" + "4B" * 3500

addresses = st.sampled_from(["192.0.2.1", "10.1.2.3", "2001:db8::25", "::ffff:198.51.100.7", "127.0.0.1"])
texts = st.one_of(st.sampled_from([b"php-fpm", b"wp cron", b"K", b"a\nb"]), st.binary(min_size=1, max_size=15))


@st.composite
def event_lists(draw: st.DrawFn) -> list[Event]:
    return [
        Event(
            serial=serial + 10 ** draw(st.integers(4, 6)),
            millis=draw(st.integers(0, 3000)),
            port=draw(st.sampled_from([*PORTS, 443, 53])),
            address=draw(addresses),
            exit_value=draw(st.sampled_from([0, -115, -111, -106, None])),
            pid=serial + 1,
            uid=draw(st.sampled_from([1001, 0, 4294967295])),
            comm=draw(texts),
            node=draw(st.sampled_from(["", "", "web1"])),
            enriched=draw(st.booleans()),
            lower=draw(st.booleans()),
        )
        for serial in range(draw(st.integers(1, 8)))
    ]


def wanted(events: list[Event]) -> list[tuple[int, int]]:
    return sorted((event.pid, event.port) for event in events if event.port in PORTS and event.exit_value != -106)


def summary(connects: list[Connect]) -> list[tuple[int, int]]:
    return sorted((connect.pid or 0, connect.port) for connect in connects)


def chunked(data: bytes, sizes: list[int], buffer: LineBuffer) -> list[Connect]:
    decoder = AuditDecoder(ports=PORTS, sensor="replay", buffer=buffer)
    out: list[Connect] = []
    start = index = 0
    while start < len(data):
        size = sizes[index % len(sizes)]
        out += decoder.feed(data[start : start + size])
        start += size
        index += 1
    return out + decoder.finish()


def shuffled(events: list[Event], seed: int) -> list[str]:
    """Records of all events in any order, with others and lines of 7 kB between them."""
    draw = random.Random(seed)
    lines = [line for event in events for line in event.lines()]
    lines += [line for serial in range(3) for line in unix_lines(serial + 1)] + [LONG] * draw.randrange(3)
    draw.shuffle(lines)
    return lines


@given(
    events=event_lists(),
    seed=st.integers(0, 2**32),
    sizes=st.lists(st.one_of(st.integers(1, 64), st.integers(1, 1 << 20)), min_size=1, max_size=5),
    end=st.sampled_from(["\n", "\r\n"]),
)
@settings(max_examples=150, deadline=None)
def test_any_chunking_and_order_gives_the_same_connects(
    events: list[Event], seed: int, sizes: list[int], end: str
) -> None:
    data = log(shuffled(events, seed), end)
    whole = chunked(data, [len(data)], LineBuffer())
    assert summary(whole) == wanted(events)
    assert chunked(data, sizes, LineBuffer()) == whole
    assert chunked(data, sizes, LineBuffer(chunk_bytes=max(1, sizes[0] % 5000))) == whole


@given(events=event_lists(), seed=st.integers(0, 2**32))
@settings(max_examples=50, deadline=None)
def test_interleaved_and_reversed_is_the_same(events: list[Event], seed: int) -> None:
    draw = random.Random(seed)
    pending = [event.lines() for event in events]
    interleaved = []
    while pending:
        lines = draw.choice(pending)
        interleaved.append(lines.pop(0))
        pending = [rest for rest in pending if rest]
    for lines in (interleaved, interleaved[::-1]):
        assert summary(chunked(log(lines), [997], LineBuffer())) == wanted(events)


@given(events=event_lists(), crlf=st.booleans())
@settings(max_examples=150, deadline=None)
def test_records_that_stand_together_say_what_they_say_apart(events: list[Event], *, crlf: bool) -> None:
    """The quick way of a pair is no other way to read it."""
    end = "\r\n" if crlf else "\n"
    together = log([line for event in events for line in event.lines()], end)
    apart = log([line for event in events for line in (event.call(), LONG, event.sockaddr())], end)
    assert chunked(together, [len(together)], LineBuffer()) == chunked(apart, [len(apart)], LineBuffer())


@given(data=st.binary(max_size=3000), sizes=st.lists(st.integers(1, 500), min_size=1, max_size=4))
@settings(max_examples=100, deadline=None)
def test_no_bytes_let_an_error_out(data: bytes, sizes: list[int]) -> None:
    chunked(data, sizes, LineBuffer(chunk_bytes=64, max_line_bytes=200))


@given(
    seed=st.integers(0, 2**32),
    damage=st.lists(st.tuples(st.integers(0, 10**6), st.binary(max_size=3)), min_size=1, max_size=12),
)
@settings(max_examples=100, deadline=None)
def test_damaged_records_never_make_an_address_that_was_not_there(seed: int, damage: list[tuple[int, bytes]]) -> None:
    events = [Event(serial=2000 + number, pid=number, enriched=bool(number % 2)) for number in range(6)]
    data = bytearray(log(shuffled(events, seed)))
    for place, junk in damage:
        at = place % len(data)
        data[at : at + len(junk)] = junk
    connects = chunked(bytes(data), [777], LineBuffer())
    assert len(connects) <= len(events)
