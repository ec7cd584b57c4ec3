"""The time zone of a module's tests: times for people are local, and tests run anywhere."""

import time
from collections.abc import Callable, Iterator

import pytest


def local_zone(name: str) -> Callable[[pytest.MonkeyPatch], Iterator[None]]:
    """A fixture that each test of a module uses: the zone that its figures are written for.

    Args:
        name: As tzdata calls it.
    """

    @pytest.fixture(autouse=True)
    def zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        monkeypatch.setenv("TZ", name)
        time.tzset()
        yield
        monkeypatch.undo()
        time.tzset()

    return zone
