"""`block.verdict: tell` on the real kernel: a refused sender hears 421 and why, and nobody else hears anything."""

import ctypes
import errno
import ipaddress
import os
import select
import smtplib
import socket
import threading
import time
from collections.abc import Generator
from dataclasses import dataclass, field
from functools import partial

import pytest

from smtpguard.actions import tell_server
from smtpguard.actions.base import Exemptions
from smtpguard.actions.bpf_deny import BpfDeny
from smtpguard.actions.tell_server import TellServer
from smtpguard.clock import boottime_ns
from smtpguard.errors import EnforceError
from smtpguard.model import NS
from smtpguard.policy.credit_rules import CreditRule
from smtpguard.settings import Cap
from smtpguard.sources.bpf.kernel_credits import Credits
from smtpguard.sources.bpf.tell_hooks import TellHooks
from tests.kernel.bpf_lab import (
    ADDRESS4,
    ADDRESS6,
    MPTCP,
    OTHER4,
    Lab,
    block,
    dial,
    dials,
    open_lab,
    random_uid,
    run_as,
    unshare_net,
    unshare_user,
)

pytestmark = pytest.mark.kernel

REPLY = b"421 4.7.0 stopped, uid %d\r\n"
TCP_FASTOPEN_CONNECT = 30


@dataclass(slots=True, kw_only=True)
class Desk:
    """A responder that runs in a thread, as in the daemon's loop, and the program that leads to it."""

    lab: Lab
    telling: TellHooks
    responder: TellServer
    credits: Credits
    enforcer: BpfDeny
    stopping: threading.Event = field(default_factory=threading.Event)
    thread: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()

    def stop(self) -> None:
        """Until nobody serves any more."""
        self.stopping.set()
        self.thread.join()

    def _serve(self) -> None:
        while not self.stopping.is_set():
            ready, _, _ = select.select(self.responder.filenos(), [], [], 0.02)
            for fileno in ready:
                self.responder.on_ready(fileno)
            self.responder.on_time(boottime_ns())
            self.credits.maps.beat(boottime_ns())


@pytest.fixture
def desk() -> Generator[Desk]:
    with open_lab() as lab:
        guard = lab.source.guard
        guard.set_enforcing(on=True)
        telling = TellHooks(guard)
        responder = TellServer(telling.find_owner, lambda uid: f"stopped, uid {uid}", boottime_ns)
        telling.start(responder.port)
        credits_, enforcer = Credits(guard, boottime_ns()), BpfDeny(guard)
        enforcer.apply_exemptions(Exemptions())
        credits_.maps.beat(boottime_ns())
        desk = Desk(lab=lab, telling=telling, responder=responder, credits=credits_, enforcer=enforcer)
        try:
            yield desk
        finally:
            desk.stop()
            responder.close()


def hear(sock: socket.socket) -> bytes:
    """All that the peer says until it hangs up."""
    heard = b""
    while data := sock.recv(4096):
        heard += data
    return heard


@pytest.mark.parametrize("port", [25, 587, 2525])
@pytest.mark.parametrize("address", [ADDRESS4, ADDRESS6, f"::ffff:{ADDRESS4}"])
def test_a_refused_sender_hears_why_and_sees_the_peer_he_asked_for(desk: Desk, address: str, port: int) -> None:
    uid = random_uid()
    desk.enforcer.apply_deny(block(uid))

    def client() -> tuple[bytes, str, int]:
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as sock:
            sock.connect((address, port))
            peer = sock.getpeername()
            return hear(sock), peer[0], peer[1]

    assert run_as(uid, desk.lab.cgroup, client) == (REPLY % uid, address, port)
    assert [(event.result, event.refused_by) for event in desk.lab.events()] == [("refused", "block")]
    assert desk.lab.source.take_reports() == []


@pytest.mark.parametrize("way", ["nonblocking", "mptcp", "fast-open", "bound", "user-namespace"])
def test_however_he_connects(desk: Desk, way: str) -> None:
    uid = random_uid()
    desk.enforcer.apply_deny(block(uid))

    def client() -> bytes:
        if way == "user-namespace":
            unshare_user()
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM, MPTCP if way == "mptcp" else 0) as sock:
            if way == "bound":
                sock.bind((ADDRESS4, 0))
            if way == "nonblocking":
                sock.settimeout(5)
            if way == "fast-open":
                sock.setsockopt(socket.IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1)
            sock.connect((ADDRESS4, 25))
            if way == "fast-open":
                sock.sendall(b"EHLO x\r\n")
            return hear(sock)

    assert run_as(uid, desk.lab.cgroup, client) == REPLY % uid


def test_a_mail_library_explains_itself(desk: Desk) -> None:
    uid = random_uid()
    desk.enforcer.apply_deny(block(uid))

    def client() -> str:
        with pytest.raises(smtplib.SMTPConnectError) as caught:
            smtplib.SMTP(ADDRESS4, 25, local_hostname="x", timeout=10)
        return f"{caught.value.smtp_code} {caught.value.smtp_error!r}"

    assert run_as(uid, desk.lab.cgroup, client) == f"421 b'4.7.0 stopped, uid {uid}'"


def test_465_containers_and_the_cap_are_refused_without_a_word(desk: Desk) -> None:
    uid = random_uid()
    desk.enforcer.apply_deny(block(uid, ranges=((200_000, 10),)))
    assert dials(uid, desk.lab.cgroup, ADDRESS4, port=465) == [errno.EPERM]

    def contained() -> int:
        unshare_net()
        os.setresuid(200_005, 200_005, 200_005)
        return dial()

    assert run_as(0, desk.lab.cgroup, contained) == errno.EPERM
    desk.credits.maps.set_cap(Cap(rate=1, per_ns=3600 * NS, burst=1))
    assert dials(uid + 1, desk.lab.cgroup, ADDRESS4, ADDRESS4) == [errno.ECONNREFUSED, errno.EPERM]


def test_a_refusal_by_credit_is_told_and_subordinate_uids_hear_of_their_owner(desk: Desk) -> None:
    uid = random_uid()
    desk.lab.source.guard.replace_owners([(200_000, 10, uid)])
    desk.credits.start([CreditRule(ports=frozenset({25}), limit=0, window_ns=NS)], boottime_ns())

    def client() -> bytes:
        with socket.create_connection((ADDRESS4, 25)) as sock:
            return hear(sock)

    assert run_as(200_003, desk.lab.cgroup, client) == REPLY % uid


def test_a_stopped_or_absent_responder_and_a_silent_daemon_mean_refused(desk: Desk) -> None:
    uid = random_uid()
    desk.enforcer.apply_deny(block(uid))
    desk.telling.stop()
    assert dials(uid, desk.lab.cgroup, ADDRESS4) == [errno.EPERM]
    desk.telling.start(desk.responder.port)
    desk.stop()
    desk.responder.close()
    assert dials(uid, desk.lab.cgroup, ADDRESS4) == [errno.ECONNREFUSED]
    desk.credits.maps.beat(boottime_ns() - 3 * NS)
    assert dials(uid, desk.lab.cgroup, ADDRESS4) == [errno.EPERM]


def test_who_was_not_led_there_is_turned_away(desk: Desk) -> None:
    def client(address: str) -> str:
        with socket.create_connection((address, desk.responder.port)) as sock:
            try:
                return repr(sock.recv(100))
            except ConnectionResetError:
                return "reset"

    for address in ("127.0.0.1", "::1"):
        assert run_as(random_uid(), desk.lab.cgroup, partial(client, address)) == "reset"
    assert (desk.responder.told, desk.responder.turned_away) == (0, 2)


def test_others_see_their_real_peers(desk: Desk) -> None:
    desk.enforcer.apply_deny(block(61_400))

    def client() -> tuple[str, int]:
        with socket.create_connection((ADDRESS4, 2525)) as sock:
            peer = sock.getpeername()
            return peer[0], peer[1]

    with socket.create_server((ADDRESS4, 2525)):
        assert run_as(random_uid(), desk.lab.cgroup, client) == (ADDRESS4, 2525)


def test_a_socket_that_goes_on_elsewhere_sees_its_new_peer(desk: Desk) -> None:
    uid = random_uid()
    desk.enforcer.apply_exemptions(Exemptions(networks=(ipaddress.ip_network(f"{OTHER4}/32"),)))
    desk.enforcer.apply_deny(block(uid))

    def client() -> tuple[bytes, int, tuple[str, int]]:
        with socket.socket() as sock:
            sock.connect((ADDRESS4, 25))
            heard = hear(sock)
            disconnected = libc.connect(sock.fileno(), bytes(16), 16)  # AF_UNSPEC
            sock.connect((OTHER4, 2525))
            return heard, disconnected, sock.getpeername()

    libc = ctypes.CDLL(None)
    with socket.create_server((OTHER4, 2525)):
        assert run_as(uid, desk.lab.cgroup, client) == (REPLY % uid, 0, (OTHER4, 2525))


def test_a_flood_is_told_twenty_times_and_then_refused(desk: Desk) -> None:
    uid = random_uid()
    desk.enforcer.apply_deny(block(uid))
    begun = time.monotonic()
    results = dials(uid, desk.lab.cgroup, *[ADDRESS4] * 60)
    took_s = time.monotonic() - begun
    assert set(results) == {0, errno.EPERM}
    assert results[:20] == [0] * 20
    assert results.count(0) <= 20 + 5 * took_s + 1  # five a second come back


def test_one_user_takes_few_seats_and_nobody_stays(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tell_server, "MAX_OPEN_PER_USER", 3)
    monkeypatch.setattr(tell_server, "STAY_NS", 2 * NS)
    monkeypatch.setattr(tell_server, "MAX_HEARD_BYTES", 1000)
    uid = random_uid()
    desk.enforcer.apply_deny(block(uid))

    def client() -> list[str]:
        socks = [socket.create_connection((ADDRESS4, 25)) for _ in range(5)]
        heard = []
        for sock in socks:
            try:
                heard.append(repr(sock.recv(10)))
            except ConnectionResetError:
                heard.append("reset")
        for sock, size, word in ((socks[0], 1000, "talked too much"), (socks[1], 1, "shown out")):
            begun = time.monotonic()
            try:
                while time.monotonic() < begun + 3 * 2:
                    sock.sendall(b"x" * size)
                    time.sleep(0.005 if size > 1 else 0.1)
                heard.append("stays")
            except OSError:
                heard.append(word)
        return heard

    told = repr(b"421 4.7.0 ")
    assert run_as(uid, desk.lab.cgroup, client) == [told] * 3 + ["reset"] * 2 + ["talked too much", "shown out"]


def test_a_port_that_anybody_could_take_is_not_used(desk: Desk) -> None:
    with pytest.raises(EnforceError, match="anybody"):
        desk.telling.start(2025)


def test_the_next_free_port_is_taken(desk: Desk) -> None:
    second = TellServer(lambda _: None, str, boottime_ns, ports=(desk.responder.port, 1002))
    assert second.port == 1002
    second.close()
    second.close()
    with pytest.raises(EnforceError, match="no free port"):
        TellServer(lambda _: None, str, boottime_ns, ports=(desk.responder.port,))
