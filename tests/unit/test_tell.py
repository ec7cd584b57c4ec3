"""What the responder says: one line, whatever it is given."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpguard.actions.tell_server import render_reply


def test_the_reply_is_the_code_and_the_text() -> None:
    assert render_reply("Stopped until 14:09 UTC. Reference 17.") == (
        b"421 4.7.0 Stopped until 14:09 UTC. Reference 17.\r\n"
    )


@pytest.mark.parametrize("text", ["a\r\n250 ok", "a\n", "\0", "\x1b[31m", "\x85\u2028", "\udce9", "ä"])
def test_what_could_be_another_line_or_worse_is_not_said(text: str) -> None:
    assert b"?" in render_reply(text)


@given(st.text(max_size=2000))
def test_it_is_always_one_printable_line_of_at_most_512_octets(text: str) -> None:
    reply = render_reply(text)
    assert len(reply) <= 512
    assert reply.startswith(b"421 4.7.0 ")
    assert reply.endswith(b"\r\n")
    assert all(0x20 <= byte <= 0x7E for byte in reply[:-2])
