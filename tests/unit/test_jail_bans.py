"""Which ports a ban refuses: those of the verdict that it follows, all where nobody knows."""

from dataclasses import replace
from unittest.mock import Mock

import pytest

from smtpguard.daemon.serve.jail_bans import JAIL, JailBans, Ports, covers, join_ports
from smtpguard.model import NS, Block, Subject, Verdict
from tests.support.policy import T0, WEB, block_of, connect, person


@pytest.mark.parametrize(
    ("some", "joined"),
    [
        ([(25,)], (25,)),
        ([(25,), (587, 25)], (25, 587)),
        ([(25,), None], None),
        ([None], None),
    ],
)
def test_ports_are_joined_and_all_swallows_them(some: list[Ports], joined: Ports) -> None:
    assert join_ports(*some) == joined


@pytest.mark.parametrize(
    ("ports", "others", "expected"),
    [
        ((25,), (25,), True),
        ((25, 587), (587,), True),
        ((25,), (587,), False),
        (None, (25,), True),
        ((25,), None, False),
    ],
)
def test_what_covers_what(ports: Ports, others: Ports, expected: bool) -> None:
    assert covers(ports, others) is expected


def test_a_ban_has_the_ports_of_all_its_verdicts_once() -> None:
    held: list[Block] = []
    begun: list[Block] = []
    orders = Mock()
    orders.blocks_of = lambda _: held
    orders.begin = begun.append
    bans = JailBans(orders)
    subject = Subject(id=WEB)

    def left(at_s: float, *ports: int) -> None:
        bans.left(verdict(at_s, ports))

    left(0, 25)
    left(0.3, 587)  # before fail2ban has acted on the first
    assert bans.ports_of(subject, JAIL, T0) == (25, 587)
    assert bans.ports_of(subject, JAIL, T0) is None, "a ban by hand right after it follows no verdict"
    left(10, 25)
    assert bans.ports_of(subject, JAIL, T0 + 20 * NS) is None, "of another time"
    left(30, 25)
    assert bans.ports_of(subject, "fail2ban:other", T0 + 30 * NS) is None
    held.append(block_of(JAIL, ports=(25,)))
    left(31, 25)
    assert begun == [], "it has these ports"
    left(32, 587)
    assert [(block.ports, block.until_ns) for block in begun] == [((587,), held[0].until_ns)]


def test_of_very_many_users_the_first_verdicts_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smtpguard.daemon.serve.jail_bans.MAX_USERS", 2)
    bans = JailBans(Mock(blocks_of=Mock(return_value=[])))
    for uid in range(3):
        bans.left(replace(verdict(0, (25,)), subject=Subject(id=uid)))
    assert [bans.ports_of(Subject(id=uid), JAIL, T0) for uid in range(3)] == [None, (25,), (25,)]


def verdict(at_s: float, ports: tuple[int, ...]) -> Verdict:
    attempt = connect(at_s)
    return Verdict(
        time_ns=attempt.time_ns,
        subject=Subject(id=WEB),
        account=person(WEB, "tenant"),
        rule="mx",
        count=11,
        limit=10,
        window_ns=NS,
        action="block",
        until_ns=attempt.time_ns + NS,
        mode="enforce",
        connect=attempt,
        ports=ports,
    )
