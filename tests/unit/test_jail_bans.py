"""Which ports a ban refuses: those of the verdict that it follows, all where nobody knows."""

import pytest

from smtpguard.daemon.serve.jail_bans import Ports, covers, join_ports


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
