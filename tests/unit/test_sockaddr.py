import pytest

from smtpguard.decode.sockaddr import parse_sockaddr, parse_sockaddr_hex
from smtpguard.errors import DecodeError

V6 = bytes.fromhex("20010db8000000000000000000000001")


@pytest.mark.parametrize(
    ("text", "port", "address"),
    [
        ("02000019C00002010000000000000000", 25, bytes([192, 0, 2, 1])),
        ("020001D1C0000201", 465, bytes([192, 0, 2, 1])),
        ("0200024bc0000201" + "00" * 112, 587, bytes([192, 0, 2, 1])),
        ("0a0009dd00000000" + V6.hex() + "00000000", 2525, V6),
        ("0A00001900000000" + V6.hex(), 25, V6),
        ("0A00001900000000" + "00000000000000000000FFFFC0000201" + "00000000", 25, bytes([192, 0, 2, 1])),
        ("0200001900000000", 25, bytes(4)),
        ("020000197F000001", 25, bytes([127, 0, 0, 1])),
        ("0A00001900000000" + "00" * 15 + "01", 25, bytes(15) + b"\x01"),
    ],
)
def test_address_and_port_are_read(text: str, port: int, address: bytes) -> None:
    assert parse_sockaddr_hex(text.encode()) == (port, address)
    assert parse_sockaddr(bytes.fromhex(text)) == (port, address)


@pytest.mark.parametrize(
    "text", ["", "02", "0200", "0200001", "02000019C00002", "0A000019" + "00" * 19, "01002F72756E", "00020019C0000201"]
)
def test_what_is_no_inet_address_is_a_decode_error(text: str) -> None:
    with pytest.raises(DecodeError):
        parse_sockaddr_hex(text.encode())


@pytest.mark.parametrize("text", [b"02000019C000020g", b"0200 0019C0000201", b"\xff\xfe", b"02000019C0000201\r"])
def test_what_is_not_hex_is_a_decode_error(text: bytes) -> None:
    with pytest.raises(DecodeError):
        parse_sockaddr_hex(text)
