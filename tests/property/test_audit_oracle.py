"""Both readers of audit logs against one that shares nothing with them: all forms, architectures and interleavings."""

import io
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpguard.decode.audit import AuditDecoder
from smtpguard.decode.audit_forms import BOM, make_unwrapper
from smtpguard.model import Connect
from smtpguard.sources.replay import ReplaySource
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
