"""Open sessions and the proc source on the real kernel, containers included."""

import errno
import os
import random
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from ipaddress import ip_address, ip_network

import pytest

from smtpguard.actions import session_thread
from smtpguard.actions.base import Deny, Exemptions
from smtpguard.actions.sessions import SessionEnder
from smtpguard.decode.netlink.sock_diag import FIN_WAIT1, SYN_SENT
from smtpguard.errors import EnforceError, SourceError
from smtpguard.kernel.netns import read_cookie
from smtpguard.kernel.sock_diag import SockDiag
from smtpguard.model import NS, Subject
from smtpguard.settings import Settings
from smtpguard.sources.proc import ProcSource
from smtpguard.sources.registry import make_source
from tests.support.netlab import Lab, become, enter, inside, run
from tests.support.proc_looks import look_now

pytestmark = pytest.mark.kernel
USER, OTHER = random.sample(range(61001, 61099), 2)
INNER = 700_000 + random.randrange(60_000)
NEAR, NEAR6 = Lab.ADDRESSES4[0], Lab.ADDRESSES6[0]
PORTS = frozenset({25, 587})
SILENT = "10.66.0.77"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """The guarded host."""
    lab = Lab()
    try:
        lab.open()
        lab.sink(25, 587, 8025)
        lab.sink(25, netns=lab.client)
        yield lab
    finally:
        lab.close()


@pytest.fixture(scope="module")
def container() -> Iterator[Lab]:
    """Another network namespace, with a way of its own to a mail server."""
    lab = Lab()
    try:
        lab.open()
        lab.sink(25)
        yield lab
    finally:
        lab.close()


@pytest.fixture
def ender(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Iterator[SessionEnder]:
    """One whose thread is waited for, however late it has its turn; the loop goes on after 20 ms."""
    monkeypatch.setattr(session_thread, "PATIENCE_S", 10.0)
    ender = SessionEnder(PORTS)
    with inside(lab.client):
        ender._diag = SockDiag()
    yield ender
    ender.close()


@pytest.fixture
def diag(lab: Lab) -> Iterator[SockDiag]:
    with inside(lab.client):
        diag = SockDiag()
    yield diag
    diag.close()


def block(uid: int = USER, netns: int | None = None, ranges: tuple[tuple[int, int], ...] = ()) -> Deny:
    return Deny(subject=Subject(id=uid, scope=netns), kind="block", until_ns=time.monotonic_ns(), ranges=ranges)


def is_aborted(sock: socket.socket) -> bool:
    try:
        sock.send(b"x")
        return sock.recv(1) != b"x"
    except OSError as error:
        return error.errno in (errno.ECONNABORTED, errno.EPIPE)


def wait_for(look: Callable[[], bool], seconds: float = 5) -> None:
    deadline = time.monotonic() + seconds
    while not look():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_blocked_users_sessions_end_at_once_and_nobody_elses(lab: Lab, ender: SessionEnder) -> None:
    mine = [lab.connect(USER, address, port) for address in (NEAR, NEAR6, f"::ffff:{NEAR}") for port in (25, 587)]
    others = [lab.connect(OTHER, NEAR), lab.connect(0, NEAR), lab.connect(USER, NEAR, 8025)]
    ender.apply_deny(block())
    assert [is_aborted(sock) for sock in mine] == [True] * 6
    assert [is_aborted(sock) for sock in others] == [False] * 3
    assert (ender.ended, ender.trouble) == (6, None)


def test_what_passes_is_left_alone(lab: Lab, ender: SessionEnder) -> None:
    exempt, local, other = lab.connect(USER, Lab.ADDRESSES4[1]), lab.connect(USER, "127.0.0.1"), lab.connect(USER, NEAR)
    ender.apply_exemptions(Exemptions(networks=(ip_network(f"{Lab.ADDRESSES4[1]}/32"),)))
    ender.apply_deny(block())
    assert [is_aborted(sock) for sock in (exempt, local, other)] == [False, False, True]


def test_an_attempt_under_way_ends(lab: Lab, ender: SessionEnder, diag: SockDiag) -> None:
    run("ip", "-n", lab.client, "neighbour", "replace", SILENT, "lladdr", "02:00:00:00:00:77", "dev", "v0")
    sock = lab.user_socket(USER)
    sock.settimeout(0)
    assert sock.connect_ex((SILENT, 25)) == errno.EINPROGRESS
    [session] = diag.read_sessions(PORTS, (SYN_SENT,))
    assert (session.uid, session.inode) == (USER, os.fstat(sock.fileno()).st_ino)
    ender.apply_deny(block())
    assert diag.read_sessions(PORTS, (SYN_SENT,)) == []
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNABORTED


def test_what_a_dead_process_left_in_its_send_buffer_ends_too(lab: Lab, ender: SessionEnder, diag: SockDiag) -> None:
    with inside(lab.server):
        deaf = socket.socket()
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.bind((Lab.ADDRESSES4[1], 2526))
        deaf.listen(1)
    try:
        sock = lab.user_socket(USER)
        sock.connect((Lab.ADDRESSES4[1], 2526))
        sock.settimeout(0)
        with suppress(BlockingIOError):
            while True:
                sock.send(b"spam" * 4096)
        sock.close()
        [orphan] = diag.read_sessions((2526,), (FIN_WAIT1,))
        assert (orphan.uid, orphan.inode) == (USER, None)
        ender.ports = frozenset({2526})
        ender.apply_deny(block())
        assert diag.read_sessions((2526,)) == []
    finally:
        deaf.close()


@contextmanager
def resident(netns: str, uid: int) -> Iterator[Callable[[], bytes]]:
    """A process of the uid inside the namespace with a session of its own; the call tells what became of it."""
    reading, writing = os.pipe()
    go_on, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            enter(netns)
            become(uid)
            sock = socket.socket()
            sock.connect((NEAR, 25))
            os.write(writing, b"open.")
            os.read(go_on, 1)
            try:
                sock.send(b"x")
                os.write(writing, b"alive" if sock.recv(1) == b"x" else b"ended")
            except OSError as error:
                os.write(writing, errno.errorcode[error.errno or 0].encode())
        finally:
            os._exit(0)
    try:
        assert os.read(reading, 5) == b"open."

        def ask() -> bytes:
            os.write(told, b"x")
            return os.read(reading, 40)

        yield ask
    finally:
        for fd in (reading, writing, go_on, told):
            os.close(fd)
        os.waitpid(pid, 0)


def test_sessions_of_subordinate_uids_end_in_containers_too(lab: Lab, container: Lab, ender: SessionEnder) -> None:
    del lab
    with resident(container.client, INNER) as mine, resident(container.client, USER) as same_number:
        ender.apply_deny(block(ranges=((700_000, 65_536),)))
        ender.wait()
        assert mine() == b"ECONNABORTED"
        assert same_number() == b"alive", "their number in a container is somebody else"
        assert (ender.ended, ender.trouble) == (1, None)


def test_a_block_in_a_container_ends_sessions_there_and_nowhere_else(
    lab: Lab, container: Lab, ender: SessionEnder
) -> None:
    with inside(container.client):
        cookie = read_cookie()
    with inside(lab.client):
        assert read_cookie() != cookie
    with resident(container.client, USER) as inner, resident(lab.client, USER) as outer:
        ender.apply_deny(block(netns=cookie))
        ender.wait()
        assert (inner(), outer()) == (b"ECONNABORTED", b"alive")


def test_a_host_that_cannot_end_sessions_says_so(lab: Lab, ender: SessionEnder) -> None:
    lab.connect(USER, NEAR)
    assert ender._diag is not None
    ender._diag.close()
    with pytest.raises(EnforceError, match="sock_diag can't be asked"):
        ender.apply_deny(block())
    assert ender.trouble is not None
    ender._diag = None


def test_many_sockets_are_walked_and_found_one_by_one(lab: Lab, diag: SockDiag) -> None:
    mine = [lab.connect(USER, NEAR) for _ in range(50)]
    found = [session for session in diag.read_sessions(PORTS) if session.uid == USER and session.port == 25]
    inodes = {os.fstat(sock.fileno()).st_ino for sock in mine}
    assert inodes <= {session.inode for session in found}
    one = next(session for session in found if session.inode in inodes)
    assert diag.find((one.source, one.source_port), (one.address, one.port)) == one
    assert diag.find((one.source, 1), (one.address, one.port)) is None
    diag._filters = False
    assert {s.cookie for s in diag.read_sessions(PORTS)} == {s.cookie for s in diag.read_sessions(PORTS)}
    assert all(session.port in PORTS for session in diag.read_sessions(PORTS))


def test_a_kernel_that_takes_no_filter_is_asked_without(
    lab: Lab, diag: SockDiag, monkeypatch: pytest.MonkeyPatch
) -> None:
    sock = lab.connect(USER, NEAR)
    monkeypatch.setattr("smtpguard.decode.netlink.sock_diag.render_port_filter", lambda *_, **__: b"\xee\xee\xee\xee")
    inodes = {session.inode for session in diag.read_sessions(PORTS)}
    assert os.fstat(sock.fileno()).st_ino in inodes
    assert not diag._filters


# -- the source --------------------------------------------------------------------------------------------------------


@pytest.fixture
def source(lab: Lab) -> Iterator[ProcSource]:
    source = make_source("proc", Settings())
    assert isinstance(source, ProcSource)
    with inside(lab.client):
        source.open()
    yield source
    source.close()


@pytest.mark.parametrize("address", [NEAR, NEAR6, f"::ffff:{NEAR}"])
def test_proc_sees_who_where_and_which_socket(lab: Lab, source: ProcSource, address: str) -> None:
    sock = lab.connect(USER, address, 587)
    lab.connect(USER, NEAR, 8025)
    [connect] = look_now(source)
    assert (connect.uid, str(ip_address(connect.address)), connect.port) == (USER, address.removeprefix("::ffff:"), 587)
    assert connect.inode == os.fstat(sock.fileno()).st_ino
    assert look_now(source) == []


def test_proc_does_not_see_what_is_over_between_two_looks(lab: Lab, source: ProcSource) -> None:
    lab.connect(USER, NEAR).close()
    wait_for(lambda: not [c for c in source._look() if c.uid == USER])
    assert all(connect.uid != USER for connect in look_now(source))


def test_proc_proves_itself(lab: Lab, source: ProcSource) -> None:
    with inside(lab.client):
        source.probe(2)
        assert look_now(source) == []
        run("ip", "-n", lab.client, "link", "set", "lo", "down")
        try:
            with pytest.raises(SourceError, match="self-test"):
                source.probe(0.1)
        finally:
            run("ip", "-n", lab.client, "link", "set", "lo", "up")


def test_the_clock_of_proc_is_that_of_the_look(lab: Lab, source: ProcSource) -> None:
    before_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    lab.connect(USER, NEAR)
    [connect] = look_now(source)
    assert before_ns < connect.time_ns < before_ns + 5 * NS
