"""Own addresses: rtnetlink messages by hand, hostile ones too."""

import contextlib
import socket
import struct
import time
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpguard.enrich.own_addresses import OwnAddresses, parse_address
from smtpguard.errors import DecodeError


def attribute(kind: int, value: bytes) -> bytes:
    padded = value + bytes(-len(value) % 4)
    return struct.pack("=HH", 4 + len(value), kind) + padded


def ifaddrmsg(family: int, *attributes: bytes) -> bytes:
    return struct.pack("=BBBBI", family, 24, 0, 0, 1) + b"".join(attributes)


V4 = socket.inet_pton(socket.AF_INET, "192.0.2.1")
OTHER = socket.inet_pton(socket.AF_INET, "192.0.2.9")
V6 = socket.inet_pton(socket.AF_INET6, "2001:db8::1")


@pytest.mark.parametrize(
    ("payload", "address"),
    [
        (ifaddrmsg(socket.AF_INET, attribute(1, V4)), "192.0.2.1"),
        (ifaddrmsg(socket.AF_INET, attribute(1, OTHER), attribute(2, V4)), "192.0.2.1"),
        (ifaddrmsg(socket.AF_INET, attribute(3, b"eth0\0"), attribute(2, V4)), "192.0.2.1"),
        (ifaddrmsg(socket.AF_INET6, attribute(1, V6)), "2001:db8::1"),
        (ifaddrmsg(socket.AF_INET6, attribute(1, V4)), None),
        (ifaddrmsg(socket.AF_INET), None),
        (ifaddrmsg(7, attribute(1, V4)), None),
    ],
)
def test_address(payload: bytes, address: str | None) -> None:
    assert parse_address(payload) == (None if address is None else ip_address(address))


@pytest.mark.parametrize(
    "payload",
    [
        b"\x02",
        b"",
        ifaddrmsg(socket.AF_INET, struct.pack("=HH", 0, 1)),
        ifaddrmsg(socket.AF_INET, struct.pack("=HH", 60000, 1)),
    ],
)
def test_cut_off(payload: bytes) -> None:
    with pytest.raises(DecodeError):
        parse_address(payload)


@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    with contextlib.suppress(DecodeError):
        parse_address(data)


def test_reading_never_waits() -> None:
    """It is done in the daemon's loop, where two seconds are two seconds of unjudged connects."""
    own = OwnAddresses()
    own.open()
    try:
        took: list[float] = []
        for _ in range(3):
            began = time.monotonic()
            own.read()
            took.append(time.monotonic() - began)
        assert min(took) < 1, "each time, and not as long as this process stood still"
    finally:
        own.close()
