"""Conversations with the kernel's audit, from recorded answers: nobody locks a real machine."""

import errno
import os
import socket
import struct
from collections.abc import Callable, Iterator
from typing import cast

import pytest

from smtpguard.decode.netlink.audit import (
    AUDIT_ADD_RULE,
    AUDIT_DEL_RULE,
    AUDIT_GET,
    AUDIT_LIST_RULES,
    AUDIT_SET,
    AuditStatus,
    parse_error,
    parse_status,
    render_status,
)
from smtpguard.errors import DecodeError, PrivilegeError, SourceError
from smtpguard.settings import Settings
from smtpguard.sources.audit.control import AuditControl, RefusedError
from smtpguard.sources.audit.netlink import AuditSource
from smtpguard.sources.audit.switch import AuditSwitch

STATUS = struct.pack("=11I", 0, 1, 1, 0, 0, 64, 3, 0, 0x7F, 15000, 0)
"""Kernel 6.18's answer to AUDIT_GET, auditing on."""
LOCKED_STATUS = STATUS[:4] + struct.pack("=I", 2) + STATUS[8:]


def message(kind: int, sequence: int, payload: bytes) -> bytes:
    return struct.pack("=IHHII", 16 + len(payload), kind, 0, sequence, 0) + payload


def answer(code: int = 0, *payloads: tuple[int, bytes]) -> Callable[[int, int], list[bytes]]:
    """The acknowledgement, then what was asked for; an error ends it, as the kernel does it."""

    def make(kind: int, sequence: int) -> list[bytes]:
        echoed = struct.pack("=IHHII", 16, kind, 5, sequence, 0)
        return [
            message(2, sequence, struct.pack("=i", -code) + echoed),
            *(message(kind_, sequence, payload) for kind_, payload in payloads),
        ]

    return make


class Kernel:
    """Stands for the netlink socket: gives recorded answers."""

    def __init__(self, **answers: Callable[[int, int], list[bytes]]) -> None:
        names = {
            "get": AUDIT_GET,
            "set": AUDIT_SET,
            "add": AUDIT_ADD_RULE,
            "delete": AUDIT_DEL_RULE,
            "list": AUDIT_LIST_RULES,
        }
        self.answers = {
            AUDIT_GET: answer(0, (AUDIT_GET, STATUS)),
            AUDIT_SET: answer(),
            AUDIT_ADD_RULE: answer(),
            AUDIT_DEL_RULE: answer(),
            AUDIT_LIST_RULES: answer(0, (3, b"")),
        } | {names[name]: made for name, made in answers.items()}
        self.queue: list[bytes] = []
        self.asked: list[tuple[int, bytes]] = []

    def send(self, data: bytes) -> int:
        _, kind, _, sequence, _ = struct.unpack_from("=IHHII", data)
        self.asked.append((kind, data[16:]))
        self.queue += self.answers[kind](kind, sequence)
        return len(data)

    def recv(self, size: int) -> bytes:
        del size
        if not self.queue:
            raise TimeoutError
        return self.queue.pop(0)

    def settimeout(self, seconds: float) -> None:
        del seconds

    def close(self) -> None:
        pass

    def control(self) -> AuditControl:
        return AuditControl(cast("socket.socket", self))


def test_status_is_read() -> None:
    status = Kernel().control().read_status()
    assert status == AuditStatus(
        enabled=1, failure=1, pid=0, backlog_limit=64, lost=3, backlog=0, backlog_wait_time=15000
    )
    assert parse_status(STATUS[:32]).backlog_wait_time is None


def test_answers_to_given_up_requests_are_passed_over() -> None:
    kernel = Kernel()
    kernel.queue.append(message(2, 77, struct.pack("=i", -1)))
    assert kernel.control().read_status().lost == 3


def test_refusals_say_what_and_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    with pytest.raises(RefusedError) as caught:
        Kernel(add=answer(errno.EPERM)).control().add_rule(b"")
    assert (caught.value.code, "locked" in str(caught.value)) == (errno.EPERM, True)
    with pytest.raises(RefusedError, match="EINVAL"):
        Kernel(add=answer(errno.EINVAL)).control().add_rule(b"")
    with pytest.raises(RefusedError, match="namespace"):
        Kernel(get=answer(errno.ECONNREFUSED)).control().read_status()


def test_a_missing_capability_is_a_privilege_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(PrivilegeError, match="CAP_AUDIT_CONTROL"):
        Kernel(get=answer(errno.EPERM)).control().read_status()


def test_rules_that_are_there_or_not_are_no_errors() -> None:
    assert Kernel(add=answer(errno.EEXIST)).control().add_rule(b"x") is False
    assert Kernel(delete=answer(errno.ENOENT)).control().delete_rule(b"x") is False
    assert Kernel().control().add_rule(b"x") is True


def test_rules_are_listed() -> None:
    listed = answer(0, (AUDIT_LIST_RULES, b"one"), (AUDIT_LIST_RULES, b"two"), (3, b""))
    assert Kernel(list=listed).control().list_rules() == [b"one", b"two"]


@pytest.mark.parametrize("answers", [[], [b"\0" * 16], [message(2, 1, b"")], [message(2, 1, struct.pack("=i", 5))]])
def test_silence_and_nonsense_are_source_errors(answers: list[bytes]) -> None:
    with pytest.raises(SourceError):
        Kernel(get=lambda _kind, _sequence: list(answers)).control().read_status()
    with pytest.raises(SourceError):
        Kernel(get=answer(0, (AUDIT_GET, b"short"))).control().read_status()


def test_only_what_is_given_is_changed() -> None:
    assert struct.unpack("=10I", render_status(enabled=0))[:2] == (1, 0)
    assert struct.unpack("=10I", render_status(backlog_limit=9, backlog_wait_time=0)) == (
        0x30,
        0,
        0,
        0,
        0,
        9,
        0,
        0,
        0,
        0,
    )


@pytest.fixture
def _deaf(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A source that listens to nobody, so that no capability is needed."""
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    left.setblocking(False)  # noqa: FBT003 - its signature
    monkeypatch.setattr(AuditSource, "_listen", lambda _: left)
    yield
    left.close()
    right.close()


@pytest.mark.usefixtures("_deaf")
def test_locked_rules_are_said_and_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    kernel = Kernel(get=answer(0, (AUDIT_GET, LOCKED_STATUS)), add=answer(errno.EPERM), delete=answer(errno.EPERM))
    source = AuditSource(Settings(), control=kernel.control())
    source.open()
    assert "locked until the next boot (auditctl -e 2)" in caplog.text
    source.read()
    source._check()
    source.close()
    assert {kind for kind, _ in kernel.asked} <= {AUDIT_GET, AUDIT_LIST_RULES}, "nothing was asked for that is refused"


@pytest.mark.usefixtures("_deaf")
def test_rules_that_get_locked_meanwhile_are_told_once(caplog: pytest.LogCaptureFixture) -> None:
    kernel = Kernel()
    source = AuditSource(Settings(audit_uid=61001), control=kernel.control())
    source.open()
    kernel.answers[AUDIT_ADD_RULE] = kernel.answers[AUDIT_DEL_RULE] = answer(errno.EPERM)
    for _ in range(3):
        source._check()
    assert caplog.text.count("can't be put back") == 1
    source.close()


def test_auditing_that_others_came_to_use_stays_on() -> None:
    off = STATUS[:4] + bytes(4) + STATUS[8:]
    with_auditd = struct.pack("=11I", 0, 1, 1, os.getpid(), 0, 64, 3, 0, 0x7F, 0, 0)
    kernel = Kernel(get=answer(0, (AUDIT_GET, off)))
    switch = AuditSwitch(kernel.control(), set)
    with pytest.raises(SourceError, match="switched off"):
        switch.turn_on(allowed=False)
    switch.turn_on(allowed=True)
    kernel.answers[AUDIT_GET] = answer(0, (AUDIT_GET, with_auditd))
    kernel.asked.clear()
    switch.turn_back()
    assert [kind for kind, _ in kernel.asked] == [AUDIT_GET]


def test_auditing_is_switched_off_after_the_death_of_auditd_too() -> None:
    alive = struct.pack("=11I", 0, 0, 1, os.getpid(), 0, 64, 3, 0, 0x7F, 0, 0)
    dead = struct.pack("=11I", 0, 1, 1, 0, 0, 8192, 3, 0, 0x7F, 0, 0)
    kernel = Kernel(get=answer(0, (AUDIT_GET, alive)))
    switch = AuditSwitch(kernel.control(), set)
    switch.turn_on(allowed=True)
    kernel.answers[AUDIT_GET] = answer(0, (AUDIT_GET, dead))
    kernel.asked.clear()
    switch.turn_back()
    assert [kind for kind, _ in kernel.asked] == [AUDIT_GET, AUDIT_SET]
    assert struct.unpack_from("=6I", kernel.asked[-1][1]) == (0x31, 0, 0, 0, 0, 64)


def test_errors_are_negative() -> None:
    assert parse_error(struct.pack("=i", -13)) == 13
    with pytest.raises(DecodeError):
        parse_error(struct.pack("=i", 13))
