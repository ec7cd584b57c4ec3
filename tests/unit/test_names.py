"""Accounts outside /etc/passwd: asked in the background, bounded, never waited for on the verdict path."""

import errno
import os
import select
import threading

import pytest

from smtpguard.enrich.accounts import name_service, nss
from smtpguard.enrich.accounts.name_service import NO_ANSWER, NamedAccount, NameService, ask_system
from smtpguard.errors import UnansweredError

BOB = NamedAccount(uid=70_000, name="bob", groups=frozenset({"staff"}))


def settle(service: NameService) -> None:
    """Until all questions asked so far have been answered."""
    for event in list(service._asked.values()):
        assert event.wait(10)


def test_the_first_look_knows_nothing_and_the_next_one_does() -> None:
    service = NameService(ask=lambda key: BOB if key in (70_000, "bob") else None)
    assert service.find(70_000) is None
    settle(service)
    assert service.find(70_000) == BOB
    assert service.take_news() == {70_000}
    assert service.take_news() == set()


def test_a_server_that_never_answers_holds_up_nobody() -> None:
    never, has_asked = threading.Event(), threading.Event()
    asked: list[int | str] = []

    def hang(key: int | str) -> NamedAccount | None:
        asked.append(key)
        has_asked.set()
        never.wait(30)
        return None

    service = NameService(ask=hang)
    try:
        assert service.find(0) is None
        assert has_asked.wait(10), "it is taken out of those that wait, and no other is"
        for uid in range(1, name_service.MAX_WAITING + 100):
            assert service.find(uid) is None
        with pytest.raises(UnansweredError, match="too many"):
            service.wait_for("bob", 0.01)
        assert service.dropped == 99 + 1
        assert asked == [0]
    finally:
        never.set()


def test_waiting_gets_the_answer() -> None:
    service = NameService(ask=lambda key: BOB if key == "bob" else None)
    assert service.wait_for("bob", 10) == BOB
    assert service.wait_for("eve", 10) is None
    assert service.wait_for("bob", 0) == BOB


def test_an_old_answer_holds_until_there_is_a_new_one() -> None:
    now = [0.0]
    answers: list[NamedAccount | None] = [BOB, None]
    service = NameService(ask=lambda _: answers.pop(0), clock=lambda: now[0])
    service.wait_for(70_000, 10)
    service.take_news()
    now[0] = name_service.KEEP_S + 1
    assert service.find(70_000) == BOB
    settle(service)
    assert service.find(70_000) is None
    assert service.take_news() == {70_000}


def test_answers_are_bounded() -> None:
    service = NameService(ask=lambda _: None)
    service._answers = dict.fromkeys(range(name_service.MAX_KEPT), (0.0, None))
    service.wait_for("x", 10)
    assert len(service._answers) == name_service.MAX_KEPT
    assert 0 not in service._answers


def test_the_system_knows_root_and_survives_nonsense() -> None:
    root = ask_system(0)
    assert root is not None
    assert (root.uid, root.name) == (0, "root")
    assert ask_system("root") == root
    assert ask_system("no such user here") is None
    assert ask_system("a\0b") is None
    assert ask_system(-5) is None
    assert ask_system(2**40) is None
    assert ask_system(4_123_456_789) is None


def test_no_answer_is_not_the_answer_that_there_is_nobody() -> None:
    """Today's word for it was `there is no user`, and the account's name and exemption were lost with it."""
    now = [0.0]
    answers: list[NamedAccount | UnansweredError | None] = [BOB, UnansweredError("down"), UnansweredError("down"), None]

    def ask(_: int | str) -> NamedAccount | None:
        answer = answers.pop(0)
        if isinstance(answer, UnansweredError):
            raise answer
        return answer

    service = NameService(ask=ask, clock=lambda: now[0])
    assert service.wait_for("bob", 10) == BOB
    now[0] += name_service.KEEP_S + 1
    service.find("bob")
    settle(service)
    assert service.find("bob") == BOB, "the last good answer holds"
    assert service.trouble() == "down"
    with pytest.raises(UnansweredError, match="down") as caught:
        service.wait_for("eve", 10)
    assert not caught.value.is_pending
    with pytest.raises(UnansweredError, match="down"):
        service.wait_for("eve", 10)
    assert len(answers) == 1, "what has just failed is not asked again at once"
    now[0] += name_service.RETRY_S + 1
    assert service.wait_for("eve", 10) is None
    assert service.trouble() is None


def test_who_must_not_wait_is_told_when_there_is_an_answer() -> None:
    go = threading.Event()

    def ask(_: int | str) -> NamedAccount | None:
        assert go.wait(10)
        return BOB

    service = NameService(ask=ask)
    with pytest.raises(UnansweredError, match=NO_ANSWER) as caught:
        service.wait_for("bob", 0)
    assert caught.value.is_pending
    assert not select.select([service.fileno()], [], [], 0)[0]
    go.set()
    assert select.select([service.fileno()], [], [], 10)[0]
    service.drain()
    assert service.wait_for("bob", 0) == BOB
    assert not select.select([service.fileno()], [], [], 0)[0]


def test_a_person_may_have_made_the_account_a_moment_ago() -> None:
    now = [0.0]
    answers: list[NamedAccount | None] = [None, BOB]
    service = NameService(ask=lambda _: answers.pop(0), clock=lambda: now[0])
    assert service.wait_for("bob", 10) is None
    assert service.wait_for("bob", 10) is None
    now[0] += name_service.FRESH_S + 1
    assert service.wait_for("bob", 10) == BOB


def test_a_look_up_that_hangs_is_told() -> None:
    now = [0.0]
    asked, never = threading.Event(), threading.Event()

    def hang(_: int | str) -> None:
        asked.set()
        never.wait(30)

    service = NameService(ask=hang, clock=lambda: now[0])
    try:
        service.find(70_000)
        assert asked.wait(10)
        assert service.trouble() is None
        now[0] += name_service.RETRY_S + 1
        assert service.trouble() == NO_ANSWER
    finally:
        never.set()


@pytest.mark.parametrize(
    ("code", "failed"), [(0, False), (errno.ENOENT, False), (errno.EIO, True), (errno.EAGAIN, True)]
)
def test_the_c_library_tells_them_apart(monkeypatch: pytest.MonkeyPatch, code: int, *, failed: bool) -> None:
    class Library:
        @staticmethod
        def getpwnam_r(*args: object) -> int:
            del args
            return code

    monkeypatch.setattr(nss, "_library", Library)
    if failed:
        with pytest.raises(UnansweredError, match=os.strerror(code)):
            ask_system("bob")
    else:
        assert ask_system("bob") is None


def test_a_mistake_in_one_question_leaves_no_other_one_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[type[BaseException]] = []
    monkeypatch.setattr(threading, "excepthook", lambda said: told.append(said.exc_type))
    goes_on = threading.Event()

    def ask(key: int | str) -> NamedAccount:
        assert goes_on.wait(10)
        if key == "odd":
            raise TypeError(key)
        return BOB

    service = NameService(ask=ask)
    for key in ("odd", "bob"):
        assert service.find(key) is None
    goes_on.set()
    assert service.wait_for("bob", 10) == BOB
    assert told == [TypeError]


def test_news_wake_whoever_waits_for_them() -> None:
    service = NameService(ask=lambda key: BOB if key == "bob" else None)
    assert service.wait_for("bob", 10) == BOB
    fileno = service.news_fileno()
    assert select.select([fileno], [], [], 0)[0], "those from before, too"
    assert service.take_news() == {"bob"}
    assert not select.select([fileno], [], [], 0)[0]
    service.find("eve")
    assert select.select([fileno], [], [], 10)[0]
    assert service.take_news() == {"eve"}
