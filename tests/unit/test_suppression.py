"""A flood's CONNECT lines become one SUPPRESSED line a minute; nobody else's do."""

from smtpguard.actions.suppression import MINUTE_NS, Suppression, highest_limit
from smtpguard.model import NS, Account
from smtpguard.settings import Rule


def account(uid: int) -> Account:
    return Account(uid=uid, name=f"web{uid}", standing="tenant")


def test_the_highest_limit_leaves_bytes_out() -> None:
    rules = [
        Rule(name="a", count="connections", limit=60, window_ns=NS),
        Rule(name="b", count="bytes", limit=10**9, window_ns=NS),
        Rule(name="c", count="networks", limit=600, window_ns=NS),
    ]
    assert highest_limit(rules) == 600
    assert highest_limit([]) == 0


def test_a_flood_is_told_once_a_minute_and_begins_anew() -> None:
    suppression = Suppression()
    assert [suppression.admit(account(1), 0, 30) for _ in range(200)] == [True] * 130 + [False] * 70
    assert suppression.tick(MINUTE_NS - 1) == []
    assert suppression.next_deadline() == MINUTE_NS
    (told,) = suppression.tick(MINUTE_NS)
    assert (told.account.uid, told.count, told.seconds) == (1, 70, 60)
    assert suppression.tick(MINUTE_NS) == []
    assert suppression.next_deadline() is None
    assert suppression.admit(account(1), MINUTE_NS, 30)
    assert suppression.suppressed == 70


def test_a_minute_that_ends_between_ticks_is_told_too() -> None:
    suppression = Suppression()
    for _ in range(101):
        suppression.admit(account(1), 0, 0)
    assert suppression.admit(account(1), MINUTE_NS, 0)
    assert [told.count for told in suppression.tick(MINUTE_NS)] == [1]


def test_neighbours_keep_their_lines() -> None:
    suppression = Suppression()
    for _ in range(10_000):
        suppression.admit(account(1), 0, 0)
    assert suppression.admit(account(2), 0, 0)


def test_who_stays_below_is_never_told() -> None:
    suppression = Suppression()
    assert all(suppression.admit(account(1), n * NS, 0) for n in range(1000))
    assert suppression.tick(1000 * NS) == []


def test_the_table_is_bounded_and_frees_itself() -> None:
    suppression = Suppression(max_users=10)
    admitted = [suppression.admit(account(uid), 0, 0) for uid in range(1000)]
    assert sum(admitted) == 10 + 100  # those beyond share one budget
    assert suppression.crowded == 990
    assert suppression.admit(account(5), 0, 0)
    assert suppression.admit(account(5000), MINUTE_NS, 0)
    assert suppression.crowded == 990
    assert len(suppression._minutes) == 1


def test_the_end_tells_what_is_left() -> None:
    suppression = Suppression()
    for _ in range(105):
        suppression.admit(account(7), 0, 0)
    assert [told.count for told in suppression.close()] == [5]
    assert suppression.close() == []
