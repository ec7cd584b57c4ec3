"""DNS answers: what fits the question counts, and no bytes at all do harm."""

import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpguard.decode.dns import DnsAnswer, Kind, parse_answer, render_query
from smtpguard.enrich.resolver import Resolved, ask_question, ask_servers, is_in_hosts, parse_servers
from smtpguard.errors import DecodeError
from tests.support.host import wait_for

NAME = "relay.example"
QUESTION = render_query(7, NAME, "A")[12:]
OWNER = b"\xc0\x0c"


def record(owner: bytes, kind: int, data: bytes, ttl_s: int = 60) -> bytes:
    return owner + struct.pack("!HHIH", kind, 1, ttl_s, len(data)) + data


def answer(*records: bytes, number: int = 7, flags: int = 0x8180, question: bytes = QUESTION) -> bytes:
    return struct.pack("!HHHHHH", number, flags, 1, len(records), 0, 0) + question + b"".join(records)


def wire(name: str) -> bytes:
    return b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"


def test_a_question_is_what_rfc_1035_says() -> None:
    assert render_query(7, NAME, "A") == b"\0\x07\x01\0\0\x01\0\0\0\0\0\0\x05relay\x07example\0\0\x01\0\x01"
    assert render_query(7, NAME, "AAAA")[-4:] == b"\0\x1c\0\x01"
    for bad in ("", "a..b", "a" * 64 + ".example", "a." * 127 + "b"):
        with pytest.raises(DecodeError):
            render_query(1, bad, "A")


def test_addresses_and_the_shortest_lifetime() -> None:
    data = answer(record(OWNER, 1, b"\1\2\3\4", 300), record(OWNER, 1, b"\1\2\3\5", 40))
    assert parse_answer(data, 7, "Relay.EXAMPLE", "A") == DnsAnswer(
        code=0, addresses=(b"\1\2\3\4", b"\1\2\3\5"), ttl_s=40
    )
    assert parse_answer(answer(), 7, NAME, "A") == DnsAnswer(code=0)
    assert parse_answer(answer(flags=0x8183), 7, NAME, "A") == DnsAnswer(code=3)
    assert parse_answer(answer(flags=0x8380), 7, NAME, "A").is_cut


def test_aliases_are_followed_and_strangers_left_out() -> None:
    data = answer(
        record(OWNER, 5, wire("pool.example"), 20),
        record(wire("pool.example"), 5, wire("p1.example"), 90),
        record(wire("evil.example"), 1, b"\6\6\6\6"),
        record(wire("P1.example"), 1, b"\1\2\3\4"),
        record(wire("p1.example"), 28, b"\0" * 16),
        record(wire("p1.example"), 1, b"\1\2\3"),
    )
    assert parse_answer(data, 7, NAME, "A") == DnsAnswer(code=0, addresses=(b"\1\2\3\4",), ttl_s=20)
    loop = answer(record(OWNER, 5, wire("b.example")), record(wire("b.example"), 5, wire(NAME)))
    assert parse_answer(loop, 7, NAME, "A").addresses == ()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0\7",
        answer(number=8),
        answer(flags=0x0180),
        answer(question=render_query(7, "other.example", "A")[12:]),
        answer(question=render_query(7, NAME, "AAAA")[12:]),
        answer(record(OWNER, 1, b"\1\2\3\4"))[:-2],
        answer(record(b"\xc0\xff", 1, b"\1\2\3\4")),
        answer(record(b"\x80a", 1, b"\1\2\3\4")),
        answer(record(wire(".".join(["a" * 60] * 5)), 1, b"\1\2\3\4")),
    ],
)
def test_what_is_no_answer_is_refused(data: bytes) -> None:
    with pytest.raises(DecodeError):
        parse_answer(data, 7, NAME, "A")


@given(st.binary(max_size=300) | st.binary(max_size=200).map(answer))
def test_any_bytes_are_an_answer_or_refused(data: bytes) -> None:
    try:
        found = parse_answer(data, 7, NAME, "A")
    except DecodeError:
        return
    assert all(len(address) == 4 for address in found.addresses)


@given(st.lists(st.binary(max_size=300), max_size=4), st.binary(max_size=30))
def test_any_texts_are_no_longer_than_what_came(rows: list[bytes], rest: bytes) -> None:
    question = render_query(7, NAME, "TXT")[12:]
    data = answer(*(record(OWNER, 16, row) for row in rows), question=question) + rest
    found = parse_answer(data, 7, NAME, "TXT")
    assert len(found.texts) == len(rows)
    assert all(len(text) <= len(row) for text, row in zip(found.texts, rows, strict=True))
    assert found.addresses == ()


def test_files_of_the_resolver() -> None:
    conf = "# nameserver 192.0.2.9\nsearch x\nnameserver 192.0.2.1\nnameserver fe80::1%eth0\nnameserver x\n"
    assert parse_servers(conf + "nameserver ::1\nnameserver 192.0.2.4\n") == ["192.0.2.1", "fe80::1%eth0", "::1"]
    assert parse_servers("") == ["127.0.0.1"]
    hosts = "127.0.0.1 localhost\n192.0.2.7 relay.example relay # other.example\n#192.0.2.8 gone.example\n"
    assert is_in_hosts("Relay.example", hosts)
    assert not is_in_hosts("other.example", hosts)
    assert not is_in_hosts("192.0.2.7", hosts)
    assert not is_in_hosts("gone.example", hosts)


@contextmanager
def server(folder: Path, zone: str) -> Iterator[int]:
    """The tests' name server on loopback; gives its port."""
    (folder / "zone").write_text(zone)
    program = Path(__file__).parents[1] / "support" / "dns_server.py"
    words = [sys.executable, str(program), "127.0.0.1", "0", str(folder / "zone"), str(folder / "log")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        try:
            yield int(child.stdout.readline().split()[1])
        finally:
            child.kill()


ZONE = """{
  "both.example": {"ttl": 50, "addresses": ["192.0.2.1", "192.0.2.2", "2001:db8::1"]},
  "four.example": {"ttl": 7, "addresses": ["192.0.2.1"]},
  "cut.example": {"ttl": 5, "addresses": ["192.0.2.1", "2001:db8::1"], "cut": true},
  "dumb.example": {"dumb": true}
}"""


def test_a_real_server(tmp_path: Path) -> None:
    with server(tmp_path, ZONE) as port:

        def ask(name: str, *servers: str, timeout_s: float = 5) -> Resolved | None:
            return ask_servers(name, servers or ["127.0.0.1"], port=port, timeout_s=timeout_s)

        assert ask("both.example") == Resolved(addresses=("192.0.2.1", "192.0.2.2", "2001:db8::1"), ttl_s=50)
        assert ask("four.example") == Resolved(addresses=("192.0.2.1",), ttl_s=7)
        assert ask("cut.example") == Resolved(addresses=("192.0.2.1", "2001:db8::1"), ttl_s=5)
        assert ask("none.example") is None
        assert ask("dumb.example", timeout_s=0.5) is None
        assert wait_for(lambda: (tmp_path / "log").read_text().count("dumb.example A udp") >= 2), "sent once more"
        assert (tmp_path / "log").read_text().count("dumb.example A udp") == 2
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
            silent.bind(("127.0.0.2", port))
            found = None
            for timeout_s in (0.5, 2.5):  # of each of them
                found = found or ask("four.example", "127.0.0.2", "127.0.0.1", timeout_s=timeout_s)
            assert found == Resolved(addresses=("192.0.2.1",), ttl_s=7)
        assert ask("four.example", "127.0.0.3", "127.0.0.1") is not None, "where nobody listens"


def test_a_question_for_texts_and_what_is_no_answer(tmp_path: Path) -> None:
    zone = """{
      "listed.example": {"ttl": 5, "addresses": ["127.0.0.2"], "texts": ["see https://x.example/", "more"]},
      "*.redirected.example": {"ttl": 5, "addresses": ["198.51.100.7"]},
      "ill.example": {"code": 2}, "closed.example": {"code": 5}, "dumb.example": {"dumb": true}
    }"""
    with server(tmp_path, zone) as port:

        def ask(name: str, kind: Kind = "A", *servers: str) -> DnsAnswer:
            timeout_s = 0.5 if name.startswith("dumb") else 5
            return ask_question(name, kind, servers or ["127.0.0.1"], port=port, timeout_s=timeout_s)

        assert ask("listed.example").addresses == (b"\x7f\0\0\2",)
        assert ask("listed.example", "TXT").texts == (b"see https://x.example/", b"more")
        assert ask("5.113.0.203.redirected.example").addresses == (b"\xc6\x33\x64\7",)
        assert ask("none.example") == DnsAnswer(code=3)
        for name, told in (("ill", "SERVFAIL"), ("closed", "REFUSED"), ("dumb", "127.0.0.1 does not answer")):
            with pytest.raises(OSError, match=told):
                ask(f"{name}.example")
        with pytest.raises(OSError, match="Connection refused"):
            ask("listed.example", "A", "127.0.0.3")
        assert ask("listed.example", "A", "127.0.0.3", "127.0.0.1").code == 0


def test_texts_that_lie_about_their_length() -> None:
    def texts(data: bytes) -> tuple[bytes, ...]:
        question = render_query(7, NAME, "TXT")[12:]
        return parse_answer(answer(record(OWNER, 16, data), question=question), 7, NAME, "TXT").texts

    assert texts(b"\2ab\1c") == (b"abc",)
    assert texts(b"\xffab") == (b"ab",)
    assert texts(b"") == (b"",)
    assert texts(b"\0\0") == (b"",)
