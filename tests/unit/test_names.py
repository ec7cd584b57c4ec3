"""Accounts outside /etc/passwd: asked in the background, bounded, never waited for on the verdict path."""

import threading

from smtpguard.enrich import names
from smtpguard.enrich.names import NamedAccount, NameService, ask_system

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
    never = threading.Event()
    asked: list[int | str] = []

    def hang(key: int | str) -> NamedAccount | None:
        asked.append(key)
        never.wait(30)
        return None

    service = NameService(ask=hang)
    try:
        for uid in range(names.MAX_WAITING + 100):
            assert service.find(uid) is None
        assert service.wait_for("bob", 0.01) is None
        assert service.dropped >= 99
        assert len(asked) == 1
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
    now[0] = names.KEEP_S + 1
    assert service.find(70_000) == BOB
    settle(service)
    assert service.find(70_000) is None
    assert service.take_news() == {70_000}


def test_answers_are_bounded() -> None:
    service = NameService(ask=lambda _: None)
    service._answers = dict.fromkeys(range(names.MAX_KEPT), (0.0, None))
    service.wait_for("x", 10)
    assert len(service._answers) == names.MAX_KEPT
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
