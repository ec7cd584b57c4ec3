"""What a set holds beside what it ought to hold."""

import random

import pytest

from smtpguard.actions.nft.difference import Difference, find_difference
from smtpguard.actions.nft.elements import PERMANENT_NS, Element, Interval
from smtpguard.model import NS

NOW = 1_000 * NS
YEAR = 365 * 86_400


def element(first: int, last: int | None = None, seconds: float = 600) -> Element:
    until_ns = PERMANENT_NS if seconds < 0 else NOW + int(seconds * NS)
    return Element(first=first, last=first if last is None else last, until_ns=until_ns)


@pytest.mark.parametrize(
    ("wanted", "held", "strangers", "longer", "missing"),
    [
        ([], [], [], [], []),
        ([element(5)], [element(5)], [], [], []),
        ([element(5)], [element(5, seconds=601.5)], [], [], []),
        ([element(5)], [], [], [], [(5, 5)]),
        ([], [element(5)], [element(5)], [], []),
        ([], [element(5, seconds=1)], [], [], []),
        ([element(5, seconds=1)], [], [], [], []),
        ([element(5)], [element(5, seconds=900)], [], [element(5, seconds=900)], []),
        ([element(5)], [element(5, seconds=-1)], [], [element(5, seconds=-1)], []),
        ([element(5)], [element(5, seconds=300)], [], [], [(5, 5)]),
        ([element(5, seconds=20 * YEAR)], [element(5, seconds=10 * YEAR)], [], [], []),
        ([element(10, 19)], [element(10, 14), element(15, 19)], [], [], []),
        ([element(10, 19)], [element(12, 24)], [element(20, 24)], [], [(10, 11)]),
        ([element(10, 19)], [element(0, 100)], [element(0, 9), element(20, 100)], [], []),
        ([element(3), element(10, 12)], [element(2, 3), element(5)], [element(2), element(5)], [], [(10, 12)]),
    ],
)
def test_find_difference(
    wanted: list[Element],
    held: list[Element],
    strangers: list[Element],
    longer: list[Element],
    missing: list[Interval],
) -> None:
    found = find_difference(wanted, held, NOW)
    assert found == Difference(strangers=tuple(strangers), longer=tuple(longer), missing=tuple(missing))
    assert bool(found) is bool(strangers or longer or missing)


def test_it_is_what_a_look_at_each_uid_gives() -> None:
    for seed in range(300):
        chance = random.Random(seed)

        def some(chance: random.Random = chance) -> list[Element]:
            edges = sorted(chance.sample(range(40), 2 * chance.randrange(6)))
            return [
                element(a, b - 1, chance.choice([300, 600, -1])) for a, b in zip(edges[::2], edges[1::2], strict=True)
            ]

        wanted, held = some(), some()

        def end(elements: list[Element], uid: int) -> int:
            return next((e.until_ns for e in elements if e.first <= uid <= e.last), 0)

        found = find_difference(wanted, held, NOW)

        def covers(uid: int, parts: tuple[Element, ...] | tuple[Interval, ...]) -> bool:
            spans = [(p.first, p.last) if isinstance(p, Element) else p for p in parts]
            return any(a <= uid <= b for a, b in spans)

        for uid in range(45):
            ours, theirs = end(wanted, uid), end(held, uid)
            assert covers(uid, found.strangers) == (theirs > 0 and ours == 0)
            assert covers(uid, found.longer) == (0 < ours < theirs)
            assert covers(uid, found.missing) == (ours > theirs)
