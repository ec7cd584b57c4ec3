from dataclasses import FrozenInstanceError, asdict, fields

import pytest

from smtpguard.decode.quick import Draft, seal
from smtpguard.model import Connect

NEEDED = {"time_ns": 1, "uid": 2, "port": 25, "address": b"abcd", "sensor": "audit"}


def test_a_sealed_draft_is_a_connect_in_every_respect() -> None:
    names = [each.name for each in fields(Connect)]
    values = {name: number for number, name in enumerate(names)}
    sealed, made = seal(Draft(**values)), Connect(**values)  # type: ignore[arg-type]
    assert type(sealed) is Connect
    assert (sealed, hash(sealed), repr(sealed), asdict(sealed)) == (made, hash(made), repr(made), asdict(made))
    with pytest.raises(FrozenInstanceError):
        sealed.uid = 3  # type: ignore[misc]


def test_defaults_are_those_of_connect() -> None:
    assert seal(Draft(**NEEDED)) == Connect(**NEEDED)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        Draft(uid=1)
