from dataclasses import FrozenInstanceError, asdict, dataclass, field, fields

import pytest

from smtpguard.fast_dataclass import quick_maker
from smtpguard.model import Connect, Refusal

NEEDED = {"time_ns": 1, "uid": 2, "port": 25, "address": b"abcd", "sensor": "audit"}


@pytest.mark.parametrize("kind", [Connect, Refusal])
def test_what_is_made_quickly_is_the_same_in_every_respect(kind: type[Connect] | type[Refusal]) -> None:
    names = [each.name for each in fields(kind)]
    values = {name: number for number, name in enumerate(names)}
    quick, made = quick_maker(kind, *names)(*values.values()), kind(**values)  # type: ignore[arg-type]
    assert type(quick) is kind
    assert (quick, hash(quick), repr(quick), asdict(quick)) == (made, hash(made), repr(made), asdict(made))
    with pytest.raises(FrozenInstanceError):
        setattr(quick, names[0], 3)


def test_defaults_are_those_of_the_class() -> None:
    assert quick_maker(Connect, *NEEDED)(*NEEDED.values()) == Connect(**NEEDED)  # type: ignore[arg-type]
    assert quick_maker(Connect, *NEEDED, "pid")(*NEEDED.values(), 7) == Connect(**NEEDED, pid=7)  # type: ignore[arg-type]


def test_what_can_not_be_made_is_said_at_once() -> None:
    with pytest.raises(TypeError, match=r"Connect\.time_ns must be given"):
        quick_maker(Connect, "uid")
    with pytest.raises(TypeError, match="Connect has no field nose"):
        quick_maker(Connect, *NEEDED, "nose")

    @dataclass(frozen=True, slots=True)
    class Listed:
        items: list[int] = field(default_factory=list)

    with pytest.raises(TypeError, match=r"Listed\.items must be given"):
        quick_maker(Listed)
