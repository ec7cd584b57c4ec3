"""sock_diag's bytes, and the sources and actions above them with a kernel of lists."""

import struct
from dataclasses import replace
from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpguard.actions import session_thread
from smtpguard.actions.base import Deny, Exemptions
from smtpguard.actions.session_walk import EndRequest, Matcher, WantedSessions, end_sessions
from smtpguard.actions.sessions import SessionEnder
from smtpguard.decode.netlink.messages import HEADER, split_messages
from smtpguard.decode.netlink.sock_diag import (
    AF_INET,
    AF_INET6,
    ESTABLISHED,
    SOCK_DIAG_BY_FAMILY,
    Session,
    Totals,
    parse_session,
    read_cookie,
    read_storage,
    read_uid,
    render_destroy,
    render_dump,
    render_port_filter,
)
from smtpguard.errors import DecodeError, EnforceError, SourceError
from smtpguard.kernel.netns import Namespaces
from smtpguard.kernel.openers import Opener
from smtpguard.model import NS, Subject
from smtpguard.settings import Settings
from smtpguard.sources.proc import BUSY_NS, IDLE_NS, ProcSource
from tests.fakes.sockets import SESSION


def runs(code: bytes, port: int) -> bool:
    """The kernel's inet_diag_bc_run() for these three instructions."""
    offset, left = 0, len(code)
    while left > 0:
        op, yes, no = struct.unpack_from("=BBH", code, offset)
        operand = struct.unpack_from("=BBH", code, offset + 4)[2] if op in (4, 5) else 0
        holds = {1: False, 4: port >= operand, 5: port <= operand}[op]
        step = yes if holds else no
        offset, left = offset + step, left - step
    return left == 0


@given(st.sets(st.integers(1, 65535), min_size=1, max_size=30), st.integers(1, 65535))
def test_the_port_filter_takes_these_ports_and_no_other(ports: set[int], other: int) -> None:
    code = render_port_filter(ports)
    assert all(runs(code, port) for port in ports)
    assert runs(code, other) == (other in ports)


def answer(family: int, source: bytes, address: bytes, uid: int = 5, inode: int = 6, state: int = 1) -> bytes:
    body = struct.pack("=BBBB", family, state, 0, 0) + struct.pack(
        ">HH16s16s", 40000, 25, source.ljust(16, b"\0"), address.ljust(16, b"\0")
    )
    body += struct.pack("=I", 0) + struct.pack("=Q", 77) + struct.pack("=IIIII", 0, 0, 0, uid, inode)
    return HEADER.pack(HEADER.size + len(body), SOCK_DIAG_BY_FAMILY, 0, 1, 0) + body


def parse(raw: bytes) -> Session:
    [message] = split_messages(raw)
    return parse_session(message)


@pytest.mark.parametrize(("family", "state"), [(AF_INET, 32), (AF_INET, 255), (3, 1)])
def test_what_no_kernel_says_is_a_decode_error(family: int, state: int) -> None:
    with pytest.raises(DecodeError):
        parse(answer(family, bytes(4), bytes(4), state=state))


def test_addresses_are_4_bytes_where_they_are_ipv4() -> None:
    mapped = bytes(10) + b"\xff\xff" + bytes([192, 0, 2, 1])
    plain, six = parse(answer(AF_INET, b"\x0a\0\0\1", bytes([192, 0, 2, 1]))), parse(answer(AF_INET6, mapped, mapped))
    assert plain.address == six.address == bytes([192, 0, 2, 1])
    assert len(parse(answer(AF_INET6, b"\x20\1", b"\x20\1")).address) == 16


@pytest.mark.parametrize(
    ("uid", "inode", "expected"),
    [(1001, 9, (1001, 9)), (0, 9, (0, 9)), (1001, 0, (1001, None)), (0, 0, (None, None)), (2**32 - 1, 9, (None, 9))],
)
def test_what_the_kernel_does_not_know_is_none(uid: int, inode: int, expected: tuple[int | None, int | None]) -> None:
    session = parse(answer(AF_INET, b"", b"", uid, inode))
    assert (session.uid, session.inode) == expected


@given(st.binary(max_size=120))
def test_any_bytes_raise_nothing_but_decode_error(raw: bytes) -> None:
    for datagram in (raw, HEADER.pack(HEADER.size + len(raw), SOCK_DIAG_BY_FAMILY, 0, 1, 0) + raw):
        try:
            for message in split_messages(datagram):
                parse_session(message)
        except DecodeError:
            continue


def test_ending_a_mapped_socket_names_it_as_the_kernel_does() -> None:
    raw = render_destroy(replace(SESSION, family=AF_INET6), 1)
    assert raw.count(b"\xff\xff" + SESSION.address) == 1
    assert raw[HEADER.size] == AF_INET6


class Kernel:
    """sock_diag with sockets of a list."""

    def __init__(self, *sessions: Session) -> None:
        self.sockets = list(sessions)
        self.listened: set[int] = set()
        self.destroyed: list[int] = []
        self.unseen = 0
        self.fails = False

    def sessions(self, ports: frozenset[int], states: object = None, **options: object) -> list[Session]:
        del states, options
        if self.fails:
            raise SourceError("gone")
        return [session for session in self.sockets if session.port in ports]

    def is_listened(self, session: Session) -> bool:
        return session.source_port in self.listened

    def destroy(self, session: Session) -> bool:
        self.destroyed.append(session.cookie)
        return True

    def close(self) -> None:
        pass


@pytest.fixture(autouse=True)
def _proc_waits_for_its_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which takes a thread: held for some hundredths of a second, it would have its answer with the next poll."""
    monkeypatch.setattr("smtpguard.sources.proc._WAIT_S", 10)


def source(kernel: Kernel, clock: list[int]) -> ProcSource:
    made = ProcSource(Settings(), make_diag=lambda: kernel, now_ns=lambda: clock[0])  # type: ignore[arg-type]
    made.open()
    return made


def test_proc_tells_each_new_session_once_and_none_that_was_there() -> None:
    kernel, clock = Kernel(SESSION), [5 * NS]
    made = source(kernel, clock)
    assert made.read() == []
    kernel.sockets.append(replace(SESSION, cookie=8, uid=1002, address=bytes(16), inode=3))
    clock[0] = 6 * NS
    [connect] = made.read()
    assert (connect.uid, connect.address, connect.inode, connect.cookie) == (1002, bytes(16), 3, 8)
    assert (connect.time_ns, connect.sensor, connect.pid, connect.result) == (6 * NS, "proc", None, None)
    assert made.read() == []
    assert made.stats.events == 1


def test_proc_tells_a_socket_again_when_it_is_used_again() -> None:
    kernel = Kernel(SESSION)
    made = source(kernel, [0])
    kernel.sockets = [replace(SESSION, source_port=40001)]
    assert len(made.read()) == 1
    kernel.sockets = []
    made.read()
    kernel.sockets = [SESSION]
    assert len(made.read()) == 1, "what is gone is forgotten"


def test_proc_does_not_guess_whose_an_orphan_is() -> None:
    kernel = Kernel()
    made = source(kernel, [0])
    kernel.sockets = [replace(SESSION, uid=None, inode=None)]
    assert made.read() == []
    assert made.stats.notes["nobodys"] == 1


def test_proc_looks_often_only_while_there_is_something_to_see() -> None:
    kernel, clock = Kernel(), [0]
    made = source(kernel, clock)
    assert made.next_poll_ns() == IDLE_NS
    kernel.sockets = [SESSION]
    clock[0] = IDLE_NS
    made.read()
    assert made.next_poll_ns() == IDLE_NS + BUSY_NS
    assert list(made.filenos()) == []


def test_proc_dies_loudly() -> None:
    kernel = Kernel()
    made = source(kernel, [0])
    kernel.unseen = 12
    made.read()
    assert made.stats.lost == 12
    kernel.fails = True
    with pytest.raises(SourceError):
        made.read()
    made.close()
    made.close()
    with pytest.raises(SourceError, match="not open"):
        made.read()


def test_only_the_users_sessions_to_these_ports_are_ended() -> None:
    kernel = Kernel(
        SESSION,
        replace(SESSION, cookie=2, uid=1002),
        replace(SESSION, cookie=3, port=80),
        replace(SESSION, cookie=4, uid=None),
        replace(SESSION, cookie=5, uid=0),
        replace(SESSION, cookie=6, uid=100_500),
    )
    wish = EndRequest(who=1001, uids=((0, 1001), (100_000, 165_535)), ports=frozenset({25}), until_ns=None)
    count = end_sessions(kernel, WantedSessions([wish]), Matcher(Exemptions()))  # type: ignore[arg-type]
    assert (count, kernel.destroyed) == (2, [7, 6])


@pytest.mark.parametrize(
    ("address", "exemptions", "expected"),
    [
        ("192.0.2.1", Exemptions(), False),
        ("127.0.0.5", Exemptions(), True),
        ("127.0.0.5", Exemptions(loopback=False), False),
        ("::1", Exemptions(), True),
        ("::1", Exemptions(loopback=False), False),
        ("192.0.2.1", Exemptions(networks=(ip_network("192.0.2.0/24"),)), True),
        ("192.0.3.1", Exemptions(networks=(ip_network("192.0.2.0/24"),)), False),
        ("192.0.2.1", Exemptions(networks=(ip_network("::ffff:192.0.2.0/120"),)), True),
        ("2001:db8::5", Exemptions(networks=(ip_network("2001:db8::/32"),)), True),
        ("2001:db9::5", Exemptions(networks=(ip_network("2001:db8::/32"),)), False),
        ("192.0.2.1", Exemptions(networks=(ip_network("0.0.0.0/0"),)), True),
        ("2001:db9::5", Exemptions(networks=(ip_network("0.0.0.0/0"),)), False),
        ("192.0.2.1", Exemptions(uids=((1000, 1001),)), True),
    ],
)
def test_what_passes_is_left_alone(address: str, exemptions: Exemptions, expected: bool) -> None:
    packed = ip_network(address).network_address.packed
    assert Matcher(exemptions)(replace(SESSION, address=packed)) is expected


def test_throttles_root_and_other_namespaces_end_nothing_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_thread, "PATIENCE_S", 10.0)
    ender = SessionEnder(frozenset({25}), find_namespaces=lambda _: Namespaces(fds=(), missed=0))
    kernel = Kernel(SESSION, replace(SESSION, uid=0))
    ender._diag = kernel  # type: ignore[assignment]
    try:
        ender.apply_deny(Deny(subject=Subject(id=1001), kind="throttle", until_ns=9))
        ender.apply_deny(Deny(subject=Subject(id=0), kind="block", until_ns=9))
        ender.apply_deny(Deny(subject=Subject(id=1001, scope=4), kind="block", until_ns=9))
        ender.wait()
        assert (kernel.destroyed, ender.ended, ender.trouble) == ([], 0, None)
        ender.apply_deny(Deny(subject=Subject(id=1001), kind="block", until_ns=9))
        ender.wait()
        assert (kernel.destroyed, ender.ended) == ([7], 1)
        kernel.fails = True
        with pytest.raises(EnforceError, match="gone"):
            ender.apply_deny(Deny(subject=Subject(id=1001), kind="block", until_ns=9))
        assert ender.trouble == "gone"
    finally:
        ender.close()
        ender.close()


def test_containers_that_cannot_be_entered_are_told(caplog: pytest.LogCaptureFixture) -> None:
    ender = SessionEnder(frozenset({25}), find_namespaces=lambda _: Namespaces(fds=(), missed=3))
    ender._diag = Kernel()  # type: ignore[assignment]
    try:
        ender.apply_deny(Deny(subject=Subject(id=1001), kind="block", until_ns=9, ranges=((100_000, 65_536),)))
        ender.wait()
        assert ender.trouble is not None
        assert "3 processes" in ender.trouble
        assert "uid 1001 is blocked" in caplog.text
    finally:
        ender.close()


def test_what_a_bpf_program_keeps_with_a_socket_is_asked_for_and_told() -> None:
    request = render_dump(AF_INET, [ESTABLISHED], (), 1, storage_fd=9)
    assert request.endswith(struct.pack("=HHHHI", 12, 2 | 0x8000, 8, 1, 9))
    assert len(request) == struct.unpack_from("=I", request)[0]
    value = struct.pack("=HHI", 8, 2, 77) + struct.pack("=HH", 4 + 5, 3) + b"kept!" + bytes(3)
    storages = struct.pack("=HH", 8 + len(value), 20) + struct.pack("=HH", 4 + len(value), 1) + value
    raw = answer(AF_INET, bytes(4), bytes(4), uid=5) + storages
    [message] = split_messages(struct.pack("=I", len(raw)) + raw[4:])
    assert (read_uid(message), read_cookie(message), read_storage(message)) == (5, 77, b"kept!")
    [plain] = split_messages(answer(AF_INET, bytes(4), bytes(4)))
    assert read_storage(plain) is None


def test_who_opened_a_session_and_who_made_its_socket_are_both_meant() -> None:
    wanted = WantedSessions(
        [EndRequest(who=1001, uids=((1001, 1001), (5000, 5009)), ports=frozenset({25}), until_ns=None)]
    )
    exemptions = Matcher(Exemptions(uids=((0, 0), (89, 89))))
    lent, root_made, orphan = (replace(SESSION, uid=uid) for uid in (1002, 0, None))
    by = {uid: Opener(uid=uid, owner=1001 if uid >= 5000 else uid) for uid in (0, 89, 1001, 1002, 5003, 7000)}
    for session in (lent, root_made, orphan):
        assert [uid for uid, opener in by.items() if wanted.covers(session, opener, exemptions)] == [1001, 5003, 7000]
        assert not wanted.covers(session, None, exemptions)
    assert wanted.covers(SESSION, by[1002], exemptions), "made by the blocked user, lent to another"
    assert not wanted.covers(replace(lent, port=587), by[1001], exemptions)
    assert not wanted.covers(replace(lent, address=bytes([127, 0, 0, 1])), by[1001], exemptions)


@pytest.mark.parametrize(
    ("info", "totals"),
    [
        (b"", None),
        (bytes(104), None),  # struct tcp_info of kernels that did not count bytes
        (
            bytes(100) + struct.pack("=I", 3) + bytes(16) + struct.pack("=QQ", 500, 600) + bytes(40),
            Totals(bytes_sent=500, bytes_received=600, retransmissions=3),
        ),
    ],
)
def test_totals_are_told_where_the_kernel_counts_them(info: bytes, totals: Totals | None) -> None:
    raw = answer(AF_INET, bytes(4), bytes(4))
    if info:
        raw += struct.pack("=HH", 4 + len(info), 2) + info
    raw = struct.pack("=I", len(raw)) + raw[4:]
    assert parse(raw).totals == totals
