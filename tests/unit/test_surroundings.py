"""What changes around a guard is told until somebody has taken it."""

import pytest

from smtpguard.daemon.host_facts import Surroundings
from smtpguard.enrich import own_addresses
from smtpguard.model import NS
from smtpguard.settings import Settings


def test_a_change_that_nobody_could_take_is_told_again_and_nothing_of_it_is_lost() -> None:
    around = Surroundings(Settings(), lambda: NS)
    told: list[bool] = []
    broken = True

    def take(*, accounts: bool) -> None:
        if broken:
            raise TypeError("no such keyword")
        told.append(accounts)

    around.on_change = take
    for accounts in (True, False):
        with pytest.raises(TypeError):
            around._tell(accounts=accounts)
    broken = False
    around.on_time(NS)
    around.on_time(NS)
    assert told == [True]
    around.close()


def test_own_addresses_that_can_not_be_read_are_a_trouble_and_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(groups: int) -> None:
        assert groups
        raise OSError(24, "Too many open files")

    around = Surroundings(Settings(), lambda: NS)
    with monkeypatch.context() as broken:
        broken.setattr(own_addresses, "_open_netlink", fail)
        around.open()
        told = "rtnetlink: own addresses can't be read: [Errno 24] Too many open files: connections to own"
        assert [text for text in around.troubles() if text.startswith(told)]
        around.on_time(around.next_deadline())
        assert around.troubles()
    around.on_time(around.next_deadline())
    assert around.troubles() == []
    assert around._own.fileno() >= 0, "it listens"
    around.close()


def test_what_is_left_out_of_account_files_stands_in_status() -> None:
    around = Surroundings(Settings(), lambda: NS)
    around._problems = tuple(f"/etc/passwd:{line}: left out" for line in range(5))
    assert around.parts()["accounts"].endswith("/etc/passwd:2: left out; and 2 more, see the log")
    around.close()
