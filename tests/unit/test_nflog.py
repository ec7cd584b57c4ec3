"""Logged packets as kernel 6.18 handed them over, and as nobody should."""

import struct
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpguard.decode.netlink.messages import HEADER
from smtpguard.decode.netlink.nflog import IN_ALL, PACKET, PER_USER, REPEAT_NS, NflogDecoder, Syn
from smtpguard.errors import DecodeError
from smtpguard.model import NS

RECORDS = Path(__file__).parent.parent / "golden" / "nflog"
EXPECTED = {
    "ipv4": (61001, "10.66.0.2", 25),
    "ipv6": (61002, "fd66::2", 587),
    "mapped": (61003, "10.66.0.2", 25),
    "root": (0, "10.66.0.3", 25),
    "fastopen": (61004, "10.66.0.2", 25),
    "ip-options": (61005, "10.66.0.2", 25),
    "ipv6-destination-options": (61006, "fd66::2", 25),
}


def record(name: str) -> bytes:
    [line] = (RECORDS / f"{name}.hex").read_text("ascii").splitlines()
    return bytes.fromhex(line)


def datagram(uid: int, source_port: int, *, sequence: int = 7, number: int | None = None, flags: int = 2) -> bytes:
    """A packet as the kernel would log it."""
    ip = bytes([0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2])
    tcp = struct.pack(">HHIIBBHHH", source_port, 25, sequence, 0, 0x50, flags, 0, 0, 0)
    values = [(9, ip + tcp), (11, uid.to_bytes(4, "big"))]
    if number is not None:
        values.append((12, number.to_bytes(4, "big")))
    body = b"\x02\0\0\x19" + b"".join(
        struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4) for kind, value in values
    )
    return HEADER.pack(HEADER.size + len(body), PACKET, 0, 0, 0) + body


def test_every_record_is_expected() -> None:
    assert {path.stem for path in RECORDS.glob("*.hex")} == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_record(name: str) -> None:
    [syn] = NflogDecoder().feed(record(name), 0)
    assert (syn.uid, str(ip_address(syn.address)), syn.port) == EXPECTED[name]
    assert str(ip_address(syn.source)) in ("10.66.0.1", "fd66::1")
    assert syn.gid == syn.uid
    assert syn.interface > 0
    assert syn.number is not None


def test_a_repeated_syn_counts_once_and_a_new_attempt_on_the_same_ends_counts() -> None:
    decoder = NflogDecoder()
    assert len(decoder.feed(datagram(1001, 4000), 0)) == 1
    for second in (1, 3, 7, 15, 31, 63, 127):
        assert decoder.feed(datagram(1001, 4000), second * NS) == []
    assert decoder.repeated == 7
    assert len(decoder.feed(datagram(1001, 4000, sequence=8), 0)) == 1
    assert len(decoder.feed(datagram(1001, 4001), 0)) == 1
    assert len(decoder.feed(datagram(1001, 4000), REPEAT_NS)) == 1, "a sequence number may come again, one day"


def test_gaps_in_the_numbering_are_losses() -> None:
    decoder = NflogDecoder()
    for port, number in ((1, 2**32 - 2), (2, 2**32 - 1), (3, 0), (4, 5), (5, 6)):
        decoder.feed(datagram(1, port, number=number), 0)
    assert decoder.lost == 4


def test_one_users_flood_does_not_make_anothers_repetitions_count() -> None:
    decoder = NflogDecoder()
    decoder.feed(datagram(2002, 9), 0)
    for port in range(1, 5 * PER_USER):
        decoder.feed(datagram(1001, port), 1)
    assert decoder.feed(datagram(2002, 9), 2) == []
    assert decoder.forgotten == 5 * PER_USER - 1 - PER_USER
    assert decoder._size == PER_USER + 1


def test_memory_is_bounded_over_all_users() -> None:
    decoder = NflogDecoder()
    for uid in range(IN_ALL + 5000):
        decoder.feed(datagram(uid, 9), uid)
    assert decoder._size <= IN_ALL
    assert decoder._size == sum(map(len, decoder._memory.values()))
    assert decoder.forgotten > 0
    assert decoder.feed(datagram(IN_ALL + 4999, 9), IN_ALL + 5000) == []


def test_what_is_no_first_syn_is_passed_over_and_counted() -> None:
    decoder = NflogDecoder()
    for flags in (0x10, 0x12, 0x04, 0x01, 0x00):
        assert decoder.feed(datagram(1, 2, flags=flags), 0) == []
    assert decoder.odd == 5
    assert decoder.feed(datagram(1, 2, flags=0xC2), 0)[0].port == 25, "ECN asks with two more bits"


def test_no_uid_is_none() -> None:
    assert NflogDecoder().feed(datagram(0xFFFF_FFFF, 2), 0)[0].uid is None


def test_messages_of_another_kind_are_passed_over() -> None:
    other = HEADER.pack(HEADER.size, 2, 0, 1, 0)
    assert [type(syn) for syn in NflogDecoder().feed(other + datagram(1, 2), 0)] == [Syn]


@given(st.sampled_from(sorted(EXPECTED)), st.data())
@settings(max_examples=300)
def test_broken_bytes_raise_nothing_but_decode_error(name: str, data: st.DataObject) -> None:
    raw = bytearray(record(name))
    for _ in range(data.draw(st.integers(0, 6))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        NflogDecoder().feed(bytes(raw[: data.draw(st.integers(0, len(raw)))]), 0)
    except DecodeError:
        return


@given(st.binary(max_size=200))
def test_any_bytes_raise_nothing_but_decode_error(raw: bytes) -> None:
    try:
        NflogDecoder().feed(HEADER.pack(HEADER.size + len(raw), PACKET, 0, 0, 0) + raw, 0)
    except DecodeError:
        return
