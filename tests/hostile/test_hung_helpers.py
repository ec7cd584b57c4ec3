"""Attack 12: four users hang all eight helpers, and no script of anybody is named any more."""

from collections import Counter

from smtpguard.enrich.looker.client import ABANDONED, ABANDONED_PER_USER
from smtpguard.enrich.looker.question_queue import Hanging


def hang(hanging: Hanging, owner: int) -> None:
    """As often as the guard lets them."""
    for _ in range(ABANDONED):
        if hanging.allow(owner):
            hanging.add(owner)


def test_four_who_work_together_leave_the_others_their_share() -> None:
    hanging = Hanging(per_user=ABANDONED_PER_USER, total=ABANDONED, counts=Counter())
    for owner in (1001, 1002, 1003, 1004):
        hang(hanging, owner)
    assert hanging.off_users() == (1001, 1002, 1003, 1004)
    assert hanging.allow(1005)
    assert hanging.allow(1006)
    hang(hanging, 1005)
    assert hanging.allow(1006)


def test_however_many_there_are_it_is_bounded() -> None:
    hanging = Hanging(per_user=ABANDONED_PER_USER, total=ABANDONED, counts=Counter())
    for owner in range(1000, 1100):
        hang(hanging, owner)
    assert hanging.all() == ABANDONED
    assert not hanging.allow(5000)


def test_who_came_back_is_looked_at_again() -> None:
    hanging = Hanging(per_user=ABANDONED_PER_USER, total=ABANDONED, counts=Counter())
    for owner in (1001, 1002, 1003):
        hang(hanging, owner)
    hanging.forget(1003)
    assert hanging.allow(1003)
    assert hanging.off_users() == (1001, 1002)
