"""Whose a uid is: one answer for everybody who asks."""

from typing import TYPE_CHECKING, cast

import pytest

from smtpguard.daemon.enforce.exact_limits import ExactLimits
from smtpguard.model import Connect, Subject
from smtpguard.policy.subjects import FOREIGN, OF_ROOT, account_of, subject_of
from tests.support.policy import BURST, People, connect, engine_of, person

if TYPE_CHECKING:
    from smtpguard.enrich.accounts.directory import AccountDirectory
    from smtpguard.sources.bpf.kernel_credits import Credits

OWNERS = {100_033: 0, 200_001: 1001}


def people() -> People:
    return People([person(0, "root", "root"), person(1001, "tenant", "web01"), person(89, "mta", "postfix")], OWNERS)


@pytest.mark.parametrize(
    ("uid", "scope", "subject"),
    [
        (1001, None, Subject(id=1001)),
        (1001, 7, Subject(id=1001, scope=7)),
        (200_001, None, Subject(id=1001)),
        (200_001, 7, Subject(id=1001)),
        (100_033, None, Subject(id=100_033)),
        (100_033, 7, Subject(id=100_033, scope=7)),
        (0, None, Subject(id=0)),
        (0, 7, Subject(id=0, scope=7)),
    ],
)
def test_whom_an_attempt_counts_for(uid: int, scope: int | None, subject: Subject) -> None:
    assert subject_of(people(), uid, scope) == subject


@pytest.mark.parametrize(
    ("subject", "name", "standing", "reason"),
    [
        (Subject(id=1001), "web01", "tenant", ""),
        (Subject(id=1001, scope=7), None, "container", FOREIGN),
        (Subject(id=89, scope=7), None, "container", FOREIGN),
        (Subject(id=100_033), None, "container", OF_ROOT),
        (Subject(id=100_033, scope=7), None, "container", FOREIGN),
        (Subject(id=0), "root", "root", ""),
        (Subject(id=0, scope=7), "root", "root", ""),
    ],
)
def test_whose_account_that_is(subject: Subject, name: str | None, standing: str, reason: str) -> None:
    account = account_of(people(), subject)
    assert (account.uid, account.name, account.standing, account.reason) == (subject.id, name, standing, reason)


def test_an_administrators_word_exempts_a_range_of_roots_on_this_host_and_no_number_elsewhere() -> None:
    known = People([person(100_033, "exempt", "x")], OWNERS)
    assert account_of(known, Subject(id=100_033)).standing == "exempt"
    assert account_of(known, Subject(id=100_033, scope=7)).standing == "container"


def test_credits_taken_by_an_owners_uid_in_a_namespace_of_its_own_come_back() -> None:
    """The kernel takes the owner's credit there; an attempt the ledger never hears of is a credit lost for ever."""
    noted: list[tuple[int, int | None]] = []

    class Ledger:
        def note(self, uid: int, connect: Connect, *, entered: bool) -> None:
            assert entered
            noted.append((uid, connect.netns))

    engine = engine_of(BURST, people=people())
    crediting = ExactLimits(cast("AccountDirectory", people()), engine, lambda: 0)
    crediting._credits = cast("Credits", Ledger())
    crediting._rules = [BURST]
    for uid, netns in ((200_001, 7), (1001, 7), (100_033, None), (1001, None)):
        subject = subject_of(people(), uid, netns)
        crediting.note(connect(0, uid=uid, netns=netns, credits=1), subject, [])
    assert noted == [(1001, 7), (100_033, None), (1001, None)]
