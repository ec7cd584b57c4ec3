"""Notifications as kernel 6.18 sent them: nft changed a table that holds 1001 and 100000-165535 in `blocked`."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpguard.decode.netlink.messages import render_attribute, render_message, render_nest
from smtpguard.decode.netlink.nft_notify import MAX_PENDING, NftEvent, NotifyDecoder, _Transaction
from smtpguard.decode.netlink.nft_numbers import INET, SUBSYSTEM, render_name
from smtpguard.errors import DecodeError

RECORDS = Path(__file__).parent.parent / "golden" / "nft_notify"
RANGE = (100000, 165535)
EXPECTED: dict[str, list[tuple[str, str | None, tuple[tuple[int, int], ...]]]] = {
    "flush-ruleset": [("lost", None, ())],
    "delete-table": [("lost", None, ())],
    "reload": [("lost", None, ())],
    "flush-chain": [("damaged", None, ())],
    "dormant": [("damaged", None, ())],
    "delete-element": [("deleted", "blocked", ((1001, 1001),))],
    "delete-range": [("deleted", "blocked", (RANGE,))],
    "flush-set": [("deleted", "blocked", ((1001, 1001), RANGE))],
    "refresh": [("changed", "blocked", ())],
    "touch": [("changed", "blocked", ())],
    "cut-a-hole": [("deleted", "blocked", ((150000, 159999),)), ("changed", "blocked", ())],
    "last-uid": [("deleted", "throttled", ((4294967000, 4294967295),))],
    "neighbours": [("changed", "throttled", ())],
    "delete-between-neighbours": [("deleted", "throttled", ((2, 2),))],
    "insert-rule": [("altered", None, ())],
    "other-tables": [],
}


def datagrams(name: str) -> list[bytes]:
    return [bytes.fromhex(line) for line in (RECORDS / f"{name}.hex").read_text("ascii").splitlines()]


def test_every_record_is_expected() -> None:
    assert {path.stem for path in RECORDS.glob("*.hex")} == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_record(name: str) -> None:
    decoder = NotifyDecoder("smtpguard")
    events = [event for datagram in datagrams(name) for event in decoder.feed(datagram)]
    assert [(event.kind, event.set, event.ranges) for event in events] == EXPECTED[name]
    assert all(event.comm == b"nft" and event.pid for event in events)


def tell(*messages: tuple[int, bytes]) -> bytes:
    """One transaction as the kernel tells it: messages of our table, and NEWGEN."""
    parts = [render_message(SUBSYSTEM << 8 | kind, 0, 1, INET + body) for kind, body in (*messages, (15, b""))]
    return b"".join(parts)


def element(name: str, key: int, *, gone: bool = False) -> tuple[int, bytes]:
    item = render_nest(1, render_nest(1, render_attribute(1, key.to_bytes(4, "big"))))
    return (14 if gone else 12), render_name(1, "smtpguard") + render_name(2, name) + render_nest(3, item)


RULE = (6, render_name(1, "smtpguard") + render_name(2, "output"))


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([element("blocked", 7)], [("changed", False)]),
        ([element("blocked", 7), RULE], [("altered", False), ("changed", True)]),
        ([element("exempt", 7)], [("damaged", False)]),
        ([element("blocked_587", 7)], [("changed", False)]),
        ([element("root", 0, gone=True)], [("damaged", False)]),
        ([element("ratecap", 7)], []),
        ([element("of_an_administrator", 7)], []),
    ],
)
def test_what_a_hand_did_and_what_a_file_brought_are_told_apart(
    messages: list[tuple[int, bytes]], expected: list[tuple[str, bool]]
) -> None:
    events = NotifyDecoder("smtpguard").feed(tell(*messages))
    assert [(event.kind, event.loaded) for event in events] == expected


def test_what_others_do_to_theirs_is_not_read_and_hides_nothing_of_ours() -> None:
    decoder = NotifyDecoder("smtpguard")
    item = render_nest(1, render_nest(1, render_attribute(1, bytes(4))))
    foreign = render_message(
        SUBSYSTEM << 8 | 12, 0, 1, INET + render_name(1, "foreign") + render_name(2, "listed") + render_nest(3, item)
    )
    whole = tell(element("blocked", 7))
    ours, end = whole[: whole.rindex(INET) - 16], whole[whole.rindex(INET) - 16 :]
    kinds = [event.kind for datagram in (foreign * 300, ours, foreign, end) for event in decoder.feed(datagram)]
    assert kinds == ["changed"]
    assert [event.kind for event in decoder.feed(foreign + whole)] == ["changed"]


@pytest.mark.parametrize("name", ["delete-element", "flush-ruleset", "cut-a-hole"])
def test_nothing_is_said_before_the_transaction_ends(name: str) -> None:
    decoder = NotifyDecoder("smtpguard")
    *parts, last = datagrams(name)
    assert [event for part in parts for event in decoder.feed(part)] == []
    assert decoder.feed(last)


def test_lost_notifications_drop_what_was_collected() -> None:
    decoder = NotifyDecoder("smtpguard")
    *parts, last = datagrams("delete-element")
    for part in parts:
        decoder.feed(part)
    assert decoder.lose() == NftEvent(kind="unknown")
    assert decoder.feed(last) == []


def test_an_endless_transaction_is_bounded_and_unknown() -> None:
    decoder = NotifyDecoder("smtpguard")
    first, last = datagrams("delete-element")
    decoder.feed(first)
    decoder._transaction.gone.update({(b"blocked", uid, False) for uid in range(2000, 2000 + MAX_PENDING)})
    size = len(decoder._transaction.gone)
    decoder.feed(first)
    assert len(decoder._transaction.gone) == size
    assert [event.kind for event in decoder.feed(last)] == ["unknown"]
    assert isinstance(decoder._transaction, _Transaction)


@given(st.sampled_from(sorted(EXPECTED)), st.data())
@settings(max_examples=300)
def test_broken_bytes_raise_nothing_but_decode_error(name: str, data: st.DataObject) -> None:
    decoder = NotifyDecoder("smtpguard")
    for datagram in datagrams(name):
        raw = bytearray(datagram)
        for _ in range(data.draw(st.integers(0, 4))):
            raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
        cut = data.draw(st.integers(0, len(raw)))
        try:
            decoder.feed(bytes(raw[:cut]))
        except DecodeError:
            decoder.lose()
