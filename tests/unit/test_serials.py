import random

from smtpguard.decode.audit.serials import LATENESS, SerialGaps


def test_a_hole_counts_once_it_is_too_late_for_it() -> None:
    gaps = SerialGaps()
    for serial in [1, 2, 5]:
        gaps.note(serial)
    assert gaps.missing == 0
    for serial in range(6, 6 + LATENESS):
        gaps.note(serial)
    assert gaps.missing == 2


def test_late_serials_are_not_missing() -> None:
    gaps = SerialGaps()
    serials = list(range(10_000))
    for start in range(0, len(serials), 500):
        part = serials[start : start + 500]
        random.Random(start).shuffle(part)
        serials[start : start + 500] = part
    for serial in serials:
        gaps.note(serial)
        gaps.note(serial)
    gaps.sweep()
    gaps.sweep()
    # What was shuffled to before the first serial noted is not from our time.
    assert gaps.missing == 0


def test_a_large_hole_counts_at_once_but_for_its_end() -> None:
    gaps = SerialGaps()
    gaps.note(1)
    gaps.note(1_000_001)
    assert gaps.missing == 999_999 - LATENESS
    gaps.sweep()
    assert gaps.missing == 999_999 - LATENESS
    gaps.sweep()
    assert gaps.missing == 999_999
    assert not gaps._late


def test_another_counter_is_no_hole() -> None:
    gaps = SerialGaps()
    for serial in (50_000_000, 1, 2, 90_000_000, 90_000_001):
        gaps.note(serial)
        gaps.sweep()
    assert gaps.missing == 0


def test_memory_is_bounded() -> None:
    gaps = SerialGaps()
    for serial in range(0, 3_000_000, 7):
        gaps.note(serial)
        assert len(gaps._late) <= LATENESS
