"""What changes around a guard is told until somebody has taken it."""

import pytest

from smtpguard.daemon.surroundings import Surroundings
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
