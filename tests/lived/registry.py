"""What may happen to a host: each thing a small function with a name, and nothing else to be told where.

    @happening
    def ruleset_flushed(world: World) -> None:
        ...

A function that yields begins something, and ends it when it is resumed, up to three happenings later: two things that
last may so overlap. Each says to the model what it changes; that everybody gets what the model says is looked at after
each happening, by the schedule.
"""

from collections.abc import Iterator
from typing import Protocol, TypeVar

from tests.lived.world import World


class Happening(Protocol):
    """Does something to the host."""

    __name__: str

    def __call__(self, world: World) -> Iterator[None] | None: ...


HAPPENINGS: dict[str, Happening] = {}
_H = TypeVar("_H", bound=Happening)


def happening(function: _H) -> _H:
    """Register something that may happen, under its own name."""
    assert function.__name__ not in HAPPENINGS, f"there are two of {function.__name__}"
    HAPPENINGS[function.__name__] = function
    return function
