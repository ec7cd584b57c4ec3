"""Ends of sessions beside the loop: what takes long holds nobody, says so, and what fails is tried again."""

import logging
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from smtpguard.actions import session_thread, session_walk
from smtpguard.actions.base import Deny, Exemptions
from smtpguard.actions.session_thread import SessionThread
from smtpguard.actions.session_walk import EndRequest, Matcher
from smtpguard.actions.sessions import SessionEnder
from smtpguard.clock import boottime_ns
from smtpguard.decode.netlink.sock_diag import Session
from smtpguard.errors import EnforceError, SourceError
from smtpguard.kernel.netns import Namespaces
from smtpguard.model import NS, Subject
from tests.fakes.sockets import SESSION

USER, OTHER = 1001, 1002
PORTS = frozenset({25, 587})


class Kernel:
    """sock_diag whose walk lasts until it may go on."""

    def __init__(self, *sessions: Session) -> None:
        self.sockets = list(sessions)
        self.destroyed: list[int] = []
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.fails = 0
        self.walks = 0

    def sessions(self, ports: frozenset[int], **_: Any) -> Iterator[Session]:  # noqa: ANN401
        self.walks += 1
        self.begun.set()
        assert self.go_on.wait(10)
        if self.fails:
            self.fails -= 1
            raise SourceError("gone")
        yield from [session for session in self.sockets if session.port in ports]

    def destroy(self, session: Session) -> bool:
        self.destroyed.append(session.cookie)
        self.sockets = [sock for sock in self.sockets if sock.cookie != session.cookie]
        return True

    def close(self) -> None:
        pass


class Here:
    """The thread, with a kernel of a list."""

    def __init__(self, *sessions: Session) -> None:
        self.kernel = Kernel(*sessions)
        self.ended = 0
        self.thread = SessionThread(Matcher(Exemptions()), self._count)
        self.thread.diag = self.kernel  # type: ignore[assignment]
        self.waits: list[float] = []
        sound = self.thread._patience_s

        def patience_s(now: float) -> float:
            self.waits.append(sound(now))
            return self.waits[-1]

        self.thread._patience_s = patience_s  # type: ignore[method-assign]

    def _count(self, sessions: int) -> None:
        self.ended += sessions

    def end(self, uid: int = USER, ports: frozenset[int] = PORTS, seconds: float | None = None) -> EndRequest:
        now_ns = boottime_ns()
        until_ns = None if seconds is None else now_ns + int(seconds * NS)
        wish = EndRequest(who=uid, uids=((uid, uid),), ports=ports, until_ns=until_ns, asked_ns=now_ns)
        self.thread.end([wish])
        return wish


@pytest.fixture
def here() -> Iterator[Here]:
    made = Here(SESSION, replace(SESSION, cookie=8, uid=OTHER), replace(SESSION, cookie=9, port=587))
    yield made
    made.kernel.go_on.set()
    made.thread.close()


def test_what_is_quick_is_done_when_it_returns(
    here: Here, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_thread, "PATIENCE_S", 10.0)
    here.kernel.go_on.set()
    here.end()
    assert (here.kernel.destroyed, here.ended, here.thread.trouble()) == ([7, 9], 2, None)
    assert not caplog.text


def test_what_takes_long_holds_nobody_and_says_so(here: Here, caplog: pytest.LogCaptureFixture) -> None:
    here.end(USER)
    assert here.kernel.begun.wait(10)
    for uid in range(USER + 1, USER + 100):  # would never return if they waited for the walk
        here.end(uid)
    assert here.waits == [session_thread.PATIENCE_S], "for the first of them, and while that goes on for no other"
    trouble = here.thread.trouble()
    assert trouble is not None
    assert "uid 1001: those open at the block are being ended" in trouble
    here.kernel.go_on.set()
    here.thread.wait()
    assert sorted(here.kernel.destroyed) == [7, 8, 9]
    assert here.kernel.walks == 2, "one for all who wait"
    assert here.thread.trouble() is None
    assert re.search(r"uid 1001: blocked; 2 open sessions ended up to \d+\.\d\d s later", caplog.text)
    assert "uid 1002, 1003, 1004 and 96 more: blocked; 1 open sessions ended" in caplog.text


def test_waiting_takes_no_more_of_a_turn_for_many_than_for_one(here: Here) -> None:
    here.kernel.go_on.set()
    slow = here.kernel.sessions

    def sessions(ports: frozenset[int], **_: Any) -> Iterator[Session]:  # noqa: ANN401
        time.sleep(0.015)
        return slow(ports)

    here.kernel.sessions = sessions  # type: ignore[method-assign]
    waited_s = 0.0
    for _ in range(100):
        before, begun = len(here.waits), time.monotonic()
        here.end()
        waited_s += min(time.monotonic() - begun, sum(here.waits[before:]))
    assert waited_s < 25 * session_thread.PATIENCE_S


def test_a_block_that_ends_meanwhile_ends_nobodys_sessions(here: Here) -> None:
    wish = here.end()
    here.end(OTHER)
    here.thread.cancel([wish])
    here.kernel.go_on.set()
    here.thread.wait()
    assert here.kernel.destroyed == [8]


def test_a_block_whose_time_is_over_ends_nobodys_sessions(here: Here) -> None:
    here.end(seconds=0.05)
    time.sleep(0.1)
    here.end(OTHER)
    here.kernel.go_on.set()
    here.thread.wait()
    assert here.kernel.destroyed == [8]


def test_what_fails_at_once_is_raised(
    here: Here, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_thread, "PATIENCE_S", 10.0)
    here.kernel.go_on.set()
    here.kernel.fails = 1
    with pytest.raises(SourceError, match="gone"):
        here.end()
    assert here.thread.trouble() == "gone"
    assert not caplog.text, "the loop tells it, and asks again"


def test_what_fails_late_is_told_and_tried_again(
    here: Here, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_thread, "SockDiag", lambda: here.kernel)
    here.thread._pause_s = 0.01
    here.kernel.fails = 1
    here.end()
    here.kernel.go_on.set()
    deadline = time.monotonic() + 5
    while here.kernel.destroyed != [7, 9]:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    here.thread.wait()
    assert "uid 1001: blocked; open sessions have not ended yet: gone" in caplog.text
    assert here.thread.trouble() is None


def test_more_than_one_walk_holds_end_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_walk, "MAX_FOUND", 3)
    here = Here(*(replace(SESSION, cookie=number) for number in range(10)))
    here.kernel.go_on.set()
    here.end()
    here.thread.wait()
    assert (sorted(here.kernel.destroyed), here.kernel.walks, here.ended) == (list(range(10)), 4, 10)
    here.thread.close()


def test_the_enforcer_takes_back_what_it_wished_for(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    ender = SessionEnder(PORTS, find_namespaces=lambda _: Namespaces(fds=(), missed=0))
    kernel = Kernel(SESSION, replace(SESSION, cookie=8, uid=OTHER))
    ender._diag = kernel  # type: ignore[assignment]
    until_ns = boottime_ns() + 60 * NS
    for uid in (USER, OTHER):
        ender.apply_deny(Deny(subject=Subject(id=uid), kind="block", until_ns=until_ns))
    ender.apply_release(Subject(id=USER), "throttle")
    ender.apply_release(Subject(id=USER), "block", 25)
    ender.apply_release(Subject(id=USER), "block")
    kernel.go_on.set()
    ender.wait()
    assert kernel.destroyed == [8]
    kernel.fails = 1
    monkeypatch.setattr(session_thread, "PATIENCE_S", 10.0)
    with pytest.raises(EnforceError, match="gone"):
        ender.apply_deny(Deny(subject=Subject(id=USER), kind="block", until_ns=until_ns))
    ender.close()


def test_what_is_remembered_of_blocks_is_bounded() -> None:
    ender = SessionEnder(PORTS, find_namespaces=lambda _: Namespaces(fds=(), missed=0))
    kernel = Kernel()
    kernel.go_on.set()
    ender._diag = kernel  # type: ignore[assignment]
    for uid in range(2000):
        ender.apply_deny(Deny(subject=Subject(id=5000 + uid), kind="block", until_ns=boottime_ns() + 60 * NS))
        if uid % 100 == 0:
            ender.wait()
    ender.wait()
    assert len(ender._wishes) < 1000
    ender.close()
