"""Escaping: one rule for every line (CONTRACT, the log)."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpguard.text import render_address, render_escaped, render_look, render_quoted, render_user


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (None, '"-"'),
        (b"php-fpm", '"php-fpm"'),
        (b"a b", r'"a\x20b"'),
        (b'q"\\', r'"q\x22\x5c"'),
        (b"\n\r\x1b\x00", r'"\x0a\x0d\x1b\x00"'),
        ("\u0085\u2028".encode(), r'"\xc2\x85\xe2\x80\xa8"'),
        (b"\xff", r'"\xff"'),
    ],
)
def test_quoted(raw: bytes | None, shown: str) -> None:
    assert render_quoted(raw) == shown


@given(st.binary(max_size=3000))
def test_escaped_is_one_printable_word(raw: bytes) -> None:
    assert re.fullmatch(r"[\x21\x23-\x7e]*", render_escaped(raw))


@given(st.integers(0, 2**32 - 2), st.one_of(st.none(), st.text(max_size=300)))
def test_user_is_always_a_name(uid: int, name: str | None) -> None:
    shown = render_user(uid, name)
    assert re.fullmatch(r"uid:\d+|[A-Za-z0-9_.%][A-Za-z0-9_.@+%-]{0,254}", shown)
    if not name:
        assert shown == f"uid:{uid}"


@pytest.mark.parametrize(
    ("name", "shown"), [("web01", "web01"), ("a:b", "a%3Ab"), ("50%", "50%25"), ("-x", "%2Dx"), ("uid:7", "uid%3A7")]
)
def test_user(name: str, shown: str) -> None:
    assert render_user(1, name) == shown


def test_address() -> None:
    assert render_address(bytes([192, 0, 2, 1])) == "192.0.2.1"
    assert (
        render_address(bytes.fromhex("2a0014504001 0c21 0000 0000 0000 006c".replace(" ", "")))
        == "2a00:1450:4001:c21::6c"
    )


def test_the_command_to_look_with_can_be_typed() -> None:
    assert render_look("shop17") == "smtpguard why shop17"
    assert render_look("uid:61001") == "smtpguard why uid:61001"
    assert render_look(render_user(1, "web 04")) == "smtpguard blocks"
    assert render_look("uid:61001@4026531840") == "smtpguard blocks"
