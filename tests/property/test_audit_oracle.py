"""Both readers of audit logs against one that shares nothing with them: all forms, architectures and interleavings."""

import io
import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpguard.decode.audit.decoder import AuditDecoder
from smtpguard.decode.audit.forms import BOM, ExportUnwrapper, LineUnwrapper, make_unwrapper
from smtpguard.model import Connect
from smtpguard.sources.audit.replay import ReplaySource
from tests.support.audit_oracle import Found, Oracle
from tests.support.audit_records import Event, unix_lines
from tests.support.audit_wrappings import EVENT_FORMS, LINE_FORMS, RAW_ONLY

PORTS = (25, 465, 587, 2525)
ARCHES = {"c000003e": 42, "40000003": 362, "c00000b7": 203, "c00000f3": 203, "80000016": 362, "80000015": 328}
BIG = ("80000016", "80000015")
addresses = st.sampled_from(["192.0.2.1", "10.1.2.3", "2001:db8::25", "2001:db8:1:2:3:4:5:6", "198.51.100.7"])


@st.composite
def event_lists(draw: st.DrawFn, *, plain_names: bool = False) -> list[Event]:
    """Events of one or two hosts, in the order of their serials."""
    arch = draw(st.sampled_from(sorted(ARCHES)))
    nodes = draw(st.sampled_from([[""], ["web1"], ["web1", "web2.example.net"]]))
    enriched = draw(st.booleans())
    names = [b"php-fpm", b"perl"] if plain_names else [b"php-fpm", b"wp cron", b"K", b'a"b', b"100%", b"a+b"]
    events = []
    for number in range(draw(st.integers(1, 8))):
        event = Event(
            serial=1000 + number,
            millis=number * draw(st.sampled_from([1, 100])),
            arch=arch,
            syscall=ARCHES[arch],
            port=draw(st.sampled_from([*PORTS, 443, 53])),
            address=draw(addresses),
            exit_value=draw(st.sampled_from([0, -115, -111, -106, None])),
            pid=100 + number,
            uid=draw(st.sampled_from([1001, 0, 4294967295])),
            comm=draw(st.sampled_from(names)),
            node=draw(st.sampled_from(nodes)),
            enriched=enriched,
        )
        if arch in BIG:
            digits = event.sockaddr().partition("saddr=")[2].partition("\x1d")[0]
            event.saddr = digits[2:4] + digits[:2] + digits[4:]
        events.append(event)
    return events


def seen(connects: list[Connect]) -> list[Found]:
    return sorted(
        (
            connect.time_ns // 1_000_000,
            (connect.node or b"").decode(),
            4294967295 if connect.uid is None else connect.uid,
            connect.pid or 0,
            connect.port,
            connect.address,
            connect.proc or b"",
            connect.exe or b"",
        )
        for connect in connects
    )


def check(data: bytes, size: int) -> list[Found]:
    """What the oracle finds, once it is sure that ours find the same."""
    wanted = Oracle(PORTS).read(data)
    source = ReplaySource(["-"], ports=frozenset(PORTS), stdin=io.BytesIO(data))
    source.open()
    connects = []
    while not source.done:
        connects += source.read()
    source.close()
    assert seen(connects) == wanted
    assert source.problems == []
    text = data.removeprefix(BOM)
    unwrapper = make_unwrapper(text)
    decoder = AuditDecoder(ports=PORTS, sensor="replay")
    connects = []
    for start in range(0, len(text), size):
        piece = text[start : start + size]
        connects += decoder.feed(piece if unwrapper is None else unwrapper.feed(piece))
    connects += decoder.feed(b"" if unwrapper is None else unwrapper.finish()) + decoder.finish()
    assert seen(connects) == wanted
    return wanted


@pytest.mark.parametrize("form", sorted(LINE_FORMS))
@given(events=event_lists(), seed=st.integers(0, 2**32), size=st.integers(1, 3000))
@settings(max_examples=15, deadline=None)
def test_forms_of_lines(form: str, events: list[Event], seed: int, size: int) -> None:
    draw = random.Random(seed)
    for event in events:
        if form in RAW_ONLY:
            event.node = ""
    pending = [event.lines() for event in events]
    if form not in RAW_ONLY:
        pending.append(unix_lines(7))
    lines: list[str] = []
    while pending:
        chosen = draw.choice(pending[: draw.choice((1, 1, 2, 8))])
        lines.append(chosen.pop(0))
        pending = [rest for rest in pending if rest]
    found = check(LINE_FORMS[form](lines), size)
    assert len(found) == sum(event.port in PORTS and event.exit_value != -106 for event in events)


@pytest.mark.parametrize("form", sorted(EVENT_FORMS))
@given(events=event_lists(plain_names=True), size=st.integers(1, 3000))
@settings(max_examples=15, deadline=None)
def test_forms_of_events(form: str, events: list[Event], size: int) -> None:
    found = check(EVENT_FORMS[form](events), size)
    assert len(found) == sum(event.port in PORTS and event.exit_value != -106 for event in events)


KEYS = [
    *("_AUDIT_ID", "MESSAGE", "_SOURCE_REALTIME_TIMESTAMP", "_HOSTNAME", "ID", "NODE", "SYSCALL", "SOCKADDR", "saddr"),
    *(
        "SADDR",
        "laddr",
        "lport",
        "URINGOP",
        "sequence",
        "timestamp",
        "messages",
        "type",
        "data",
        "auditd",
        "auditd.data",
    ),
    *("arch", "syscall", "exit", "a0", "ARGV", "pid", "uid", "comm", "UID", "@timestamp", "destination", "ip", "port"),
    *("process", "user", "id", "name", "socket", "addr", "log", "host"),
]
VALUES = [
    *("", "x86_64", "0xc000003e", "connect", "\ud800", "SYSCALL arch=c000003e", "1700000000.100:41", "1700000000.100"),
    *(
        "type=SYSCALL msg=audit(1.1:1): x",
        "02000019C63364190000000000000000",
        "%02%00",
        "EINPROGRESS",
        "1.2.3.4",
        "::1",
    ),
    *("9999-12-31T23:59:59Z", "0001-01-01T00:00:00+14:00", "\x1d", '{"ID":"1.1:1","SYSCALL":{}}', "unset"),
]
leaves = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.sampled_from(VALUES), st.text(max_size=6)
)
trees = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.sampled_from(KEYS), inner, min_size=1, max_size=12)
    ),
    max_leaves=30,
)


@given(value=st.dictionaries(st.sampled_from(KEYS), trees, min_size=1, max_size=12))
@settings(max_examples=300, deadline=None)
def test_no_object_lets_an_error_out(value: dict[str, object]) -> None:
    data = json.dumps(value).encode() + b"\n"
    unwrapper = LineUnwrapper()
    decoder = AuditDecoder(ports=PORTS, sensor="replay")
    decoder.feed(unwrapper.feed(data) + unwrapper.finish())


@given(data=st.binary(max_size=400), form=st.sampled_from(sorted(LINE_FORMS)), place=st.integers(0, 10**6))
@settings(max_examples=200, deadline=None)
def test_no_bytes_let_an_error_out(data: bytes, form: str, place: int) -> None:
    whole = LINE_FORMS[form](Event().lines())
    at = place % len(whole)
    for text in (data, whole[:at] + data + whole[at:], whole[:at] + data):
        for unwrapper in (make_unwrapper(text), LineUnwrapper(), ExportUnwrapper()):
            if unwrapper is not None:
                AuditDecoder(ports=PORTS, sensor="replay").feed(unwrapper.feed(text) + unwrapper.finish())
