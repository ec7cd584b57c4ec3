"""How often a lost table is put back: the clock is the test's."""

from smtpguard.actions.nft.heal_limiter import MINUTE_NS, HealLimiter
from smtpguard.model import NS


def heal(limiter: HealLimiter, now_ns: int) -> tuple[int, bool]:
    at_ns = limiter.next_heal_ns(now_ns)
    return at_ns, limiter.record(at_ns)


def test_ten_a_minute_are_at_once_and_then_one_a_second() -> None:
    limiter = HealLimiter()
    for i in range(10):
        assert heal(limiter, i) == (i, False)
    assert heal(limiter, 10) == (9 + NS, True)
    assert heal(limiter, 11 + NS) == (9 + 2 * NS, False)
    assert limiter.slowed
    assert heal(limiter, 30 * NS) == (30 * NS, False), "long enough after the last one"


def test_told_again_only_after_a_calm_time() -> None:
    limiter = HealLimiter(per_minute=2)
    assert [heal(limiter, i)[1] for i in range(5)] == [False, False, True, False, False]
    later = 10 * MINUTE_NS
    assert [heal(limiter, later + i)[1] for i in range(4)] == [False, False, True, False]


def test_single_heals_are_never_slowed() -> None:
    limiter = HealLimiter()
    for i in range(100):
        now_ns = i * 7 * NS
        assert heal(limiter, now_ns) == (now_ns, False)
