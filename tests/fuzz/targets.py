"""What fuzzing feeds: every decoder, with what must hold whatever it is fed. Only DecodeError is let through.

A target takes bytes and raises for anything else than DecodeError, or where a promise does not hold. Seeds are what the
kernel and programs really write: the golden files, and messages rendered by the encoders.
"""

import contextlib
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

from smtpguard.decode import bpf_event
from smtpguard.decode.audit.decoder import AuditDecoder
from smtpguard.decode.audit.fields import is_same_address, parse_text, parse_user
from smtpguard.decode.audit.forms import ExportUnwrapper, LineUnwrapper
from smtpguard.decode.audit.line_buffer import LineBuffer
from smtpguard.decode.audit.retries import Retries
from smtpguard.decode.audit.rule import connect_rules, parse_rule, render_rule
from smtpguard.decode.audit.serials import SerialGaps
from smtpguard.decode.dns import parse_answer, render_query
from smtpguard.decode.netlink import audit as netlink_audit
from smtpguard.decode.netlink import messages, nflog
from smtpguard.decode.netlink import sock_diag as sockdiag
from smtpguard.decode.netlink.nft_notify import NotifyDecoder
from smtpguard.decode.sockaddr import parse_sockaddr, parse_sockaddr_hex
from smtpguard.errors import DecodeError
from smtpguard.model import Connect

GOLDEN = Path(__file__).parent.parent / "golden" / "data"
PORTS = frozenset({25, 465, 587, 2525})
Target = Callable[[bytes], None]
TARGETS: dict[str, Target] = {}
SEEDS: dict[str, Callable[[], Iterator[bytes]]] = {}


def target(name: str, seeds: Callable[[], Iterator[bytes]] | None = None) -> Callable[[Target], Target]:
    def keep(function: Target) -> Target:
        TARGETS[name] = function
        if seeds is not None:
            SEEDS[name] = seeds
        return function

    return keep


def recorded_logs() -> Iterator[bytes]:
    """Events of the recorded audit logs, each by itself and some together, behind a byte that sets the chunk size."""
    for path in sorted((GOLDEN / "audit").glob("*.log")):
        lines = path.read_bytes().splitlines(keepends=True)
        for start in range(0, len(lines), 3):
            yield b"\x07" + b"".join(lines[start : start + 4])
        yield b"\xff" + b"".join(lines[:30])


@target("audit", recorded_logs)
def audit(data: bytes) -> None:
    """Any bytes, cut anywhere: whole Connects on our ports or nothing; in one piece or many the same ones."""
    size = 1 + data[0] * 3 if data else 1
    buffer = LineBuffer(chunk_bytes=256, max_line_bytes=4096)
    cut = AuditDecoder(ports=PORTS, sensor="fuzz", retries=Retries(), buffer=buffer)
    connects = [
        one for start in range(1, len(data), size) for one in cut.feed(data[start : start + size])
    ] + cut.finish()
    for connect in connects:
        check_connect(connect)
    whole = AuditDecoder(ports=PORTS, sensor="fuzz", retries=Retries())
    together = whole.feed(data[1:]) + whole.finish()
    # A line that is too long for one of the buffers may have been an event in the other.
    if not cut.overlong and len(data) < 1 << 15:
        assert connects == together, "chunks matter"


def check_connect(connect: Connect) -> None:
    assert connect.port in PORTS
    assert len(connect.address) in {4, 16}
    assert connect.time_ns >= 0
    assert connect.pid is not None
    assert all(uid is None or 0 <= uid < 10**10 for uid in (connect.uid, connect.euid))


@target("audit-fields", lambda: iter([b'"php"', b"41424300", b"(null)", b'UID="web01" AUID="unset"']))
def audit_fields(data: bytes) -> None:
    with contextlib.suppress(DecodeError):
        if data and b" " not in data and b"\n" not in data:
            parse_text(data)
    parse_user(data)
    is_same_address(data, 25, bytes(4))
    is_same_address(b"SADDR={ saddr_fam=inet6 laddr=" + data + b" lport=25 }", 25, bytes(16))


@target("sockaddr", lambda: iter([bytes.fromhex("02000019c0000201") + bytes(8), bytes([10, 0, 0, 25]) + bytes(24)]))
def sockaddr(data: bytes) -> None:
    outcomes = []
    for parse, given in ((parse_sockaddr, data), (parse_sockaddr_hex, data.hex().encode())):
        try:
            outcomes.append(parse(given))
        except DecodeError:
            outcomes.append(None)  # type: ignore[arg-type]
    assert outcomes[0] == outcomes[1]
    with contextlib.suppress(DecodeError):
        port, address = parse_sockaddr_hex(data)
        assert 0 <= port < 1 << 16
        assert len(address) in {4, 16}


def some_rules() -> Iterator[bytes]:
    for rule in connect_rules("x86_64", key=b"smtpguard-1-2-3", uid=61001, by_family=True):
        yield render_rule(rule)


@target("audit-rule", some_rules)
def audit_rule(data: bytes) -> None:
    with contextlib.suppress(DecodeError):
        parse_rule(data)


def some_messages() -> Iterator[bytes]:
    yield netlink_audit.render_request(netlink_audit.AUDIT_GET, 1)
    yield struct.pack("=IHHII", 60, 1000, 0, 1, 0) + struct.pack("=11I", 0, 1, 1, 0, 0, 64, 3, 0, 127, 15000, 0)
    yield struct.pack("=IHHIIi", 36, 2, 256, 1, 0, -1) + bytes(16)
    yield struct.pack("=IHHII", 28, 1024, 0, 1, 0) + struct.pack("=HHIHH", 8, 1, 7, 4, 2)


@target("netlink", some_messages)
def netlink_messages(data: bytes) -> None:
    with contextlib.suppress(DecodeError):
        for message in messages.split_messages(data):
            for parse in (netlink_audit.parse_status, netlink_audit.parse_error):
                with contextlib.suppress(DecodeError):
                    parse(message.body)
            for value in messages.split_attributes(message.body).values():
                with contextlib.suppress(DecodeError):
                    messages.read_u32(value)
                with contextlib.suppress(DecodeError):
                    messages.read_string(value)


def some_packets() -> Iterator[bytes]:
    tcp = struct.pack(">HHIIBB", 40000, 25, 1, 0, 0x50, 2) + bytes(6)
    ip = bytes([0x45, 0, 0, 40]) + bytes(5) + b"\x06" + bytes(2) + bytes([192, 0, 2, 1, 192, 0, 2, 2])
    ip6 = bytes([0x60, 0, 0, 0, 0, 20, 6, 64]) + bytes(32)
    for packet in (ip + tcp, ip6 + tcp):
        payload = struct.pack("=HH", 4 + len(packet), 9) + packet
        uid = struct.pack("=HH", 8, 11) + struct.pack(">I", 1001)
        body = bytes(4) + uid + payload
        yield struct.pack("=IHHII", 16 + len(body), nflog.PACKET, 0, 0, 0) + body


@target("nflog", some_packets)
def nflog_packets(data: bytes) -> None:
    decoder = nflog.NflogDecoder()
    with contextlib.suppress(DecodeError):
        first = decoder.feed(data, 1)
        assert decoder.feed(data, 2) == [], "a SYN that was sent again"
        assert all(len(syn.address) in {4, 16} for syn in first)


@target("nft-notify", some_messages)
def nft_notify(data: bytes) -> None:
    decoder = NotifyDecoder("smtpguard")
    for size in (len(data) or 1, 64):
        for start in range(0, len(data), size):
            with contextlib.suppress(DecodeError):
                decoder.feed(data[start : start + size])


def some_sessions() -> Iterator[bytes]:
    body = struct.pack("=BBBB", 2, 1, 0, 0) + struct.pack(">HH", 40000, 25) + bytes(60)
    yield struct.pack("=IHHII", 16 + len(body), 20, 2, 1, 0) + body


@target("sock-diag", some_sessions)
def sock_diag(data: bytes) -> None:
    with contextlib.suppress(DecodeError):
        for message in messages.split_messages(data):
            session = sockdiag.parse_session(message)
            sockdiag.render_destroy(session, 1)


def some_samples() -> Iterator[bytes]:
    for kind in range(4):
        sample = bytearray(bpf_event.EVENT_BYTES + 8)
        sample[bpf_event._KIND_OFFSET] = kind
        yield bytes(sample)


@target("bpf-event", some_samples)
def bpf_samples(data: bytes) -> None:
    with contextlib.suppress(DecodeError):
        bpf_event.decode(data)


@target("serials")
def serials(data: bytes) -> None:
    """Numbers in any order: never more are missing than there was room for."""
    gaps = SerialGaps()
    numbers = [number for (number,) in struct.iter_unpack("=I", data[: len(data) // 4 * 4])]
    for number in numbers:
        gaps.note(number)
        if number % 7 == 0:
            gaps.sweep()
        assert gaps.missing >= 0
    if numbers:
        assert gaps.missing <= len(numbers) * 10_000_000


@target("lines", recorded_logs)
def lines(data: bytes) -> None:
    """Lines short enough come out whole, in order and once, however they were cut."""
    size = 1 + data[0] if data else 1
    buffer = LineBuffer(chunk_bytes=64, max_line_bytes=512)
    out = b""
    for start in range(1, len(data), size):
        piece = data[start : start + size]
        while piece:
            room = buffer.room()
            count = min(len(room), len(piece))
            room[:count] = piece[:count]
            begin, end = buffer.commit(count)
            out += buffer.data[begin:end]
            piece = piece[count:]
    begin, end = buffer.finish()
    out += buffer.data[begin:end]
    given = data[1:]
    if all(len(line) < 512 for line in given.split(b"\n")):
        assert out == given + (b"\n" if given and not given.endswith(b"\n") else b"")
    assert not out or out.endswith(b"\n")


def dns_answers() -> Iterator[bytes]:
    """An answer with an alias and an address, one that is cut, and one with a text."""
    question = render_query(7, "relay.example", "A")[12:]
    alias = b"\xc0\x0c\0\5\0\1\0\0\0\x3c\0\5\2p1\xc0\x12"
    address = b"\2p1\xc0\x12\0\1\0\1\0\0\0\x3c\0\4\1\2\3\4"
    yield b"\0\7\x81\x80\0\1\0\2\0\0\0\0" + question + alias + address
    yield b"\0\7\x83\x80\0\1\0\0\0\0\0\0" + question
    text = b"\xc0\x0c\0\x10\0\1\0\0\0\x3c\0\7\2ab\3cde"
    yield b"\0\7\x81\x80\0\1\0\1\0\0\0\0" + render_query(7, "relay.example", "TXT")[12:] + text


@target("dns", dns_answers)
def dns(data: bytes) -> None:
    """Any bytes: whole addresses of the kind that was asked for, with a lifetime, or nothing; texts no longer."""
    with contextlib.suppress(DecodeError):
        if sum(map(len, parse_answer(data, 7, "relay.example", "TXT").texts)) > len(data):
            raise AssertionError("a text longer than the answer")
    try:
        answer = parse_answer(data, 7, "relay.example", "A")
    except DecodeError:
        return
    if any(len(address) != 4 for address in answer.addresses):
        raise AssertionError("an address of another kind")
    if (answer.ttl_s is None) != (not answer.addresses):
        raise AssertionError("addresses without a lifetime")


def wrapped_logs() -> Iterator[bytes]:
    """The small logs in other forms, behind a byte that sets the size of the pieces."""
    for path in sorted((GOLDEN / "audit_forms").glob("*.log")):
        yield b"\x07" + path.read_bytes()[:1500]
    entry = (
        b"__CURSOR=x\nMESSAGE\n\x05\0\0\0\0\0\0\0a\nb=c\n_AUDIT_ID=41\n_SOURCE_REALTIME_TIMESTAMP=1700000000100000\n\n"
    )
    yield b"\x01" + entry


@target("audit-forms", wrapped_logs)
def audit_forms(data: bytes) -> None:
    """Whatever wraps a log, cut anywhere: the same lines come out, and each is whole."""
    size = 1 + data[0] * 3 if data else 1
    for make in (LineUnwrapper, ExportUnwrapper):
        cut, whole = make(), make()
        lines = b"".join(cut.feed(data[start : start + size]) for start in range(1, len(data), size)) + cut.finish()
        assert lines == whole.feed(data[1:]) + whole.finish(), "pieces matter"
        assert (cut.records, cut.garbled, cut.unreadable) == (whole.records, whole.garbled, whole.unreadable)
        assert all(line.startswith((b"type=", b"node=")) for line in lines.split(b"\n") if line)
        decoder = AuditDecoder(ports=PORTS, sensor="fuzz", retries=Retries())
        for connect in decoder.feed(lines) + decoder.finish():
            check_connect(connect)
