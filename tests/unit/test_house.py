"""What `make lint` asks of the package's modules finds what it is to find."""

from pathlib import Path

import pytest

from tests import house


@pytest.fixture
def package(tmp_path: Path) -> Path:
    (tmp_path / "room").mkdir()
    (tmp_path / "room" / "__init__.py").touch()
    (tmp_path / "room" / "pair.py").write_text("class Pair: ...\n" + "\n" * 299)
    return tmp_path


def test_what_is_well_is_not_told(package: Path) -> None:
    assert [*house.find_long(package), *house.find_twice(package), *house.find_gerunds(package)] == []


def test_a_long_module(package: Path) -> None:
    (package / "room" / "long.py").write_text("\n" * 301)
    assert list(house.find_long(package)) == ["room/long.py"]


def test_a_class_that_is_there_twice(package: Path) -> None:
    (package / "room" / "other.py").write_text("def make():\n    class Pair: ...\n")
    assert list(house.find_twice(package)) == ["Pair"]


def test_a_gerund(package: Path) -> None:
    for name in ("pairing", "table_healing", "string_of"):
        (package / "room" / f"{name}.py").touch()
    assert list(house.find_gerunds(package)) == ["room/table_healing.py"]


def test_an_exception_that_is_not_needed_any_more_is_an_error() -> None:
    assert house.compare("too long", ["a.py"], ["a.py"]) == []
    assert house.compare("too long", ["a.py"], []) == ["a.py: too long"]
    (told,) = house.compare("too long", [], ["a.py"])
    assert "take it out of the list" in told


def test_what_is_pruned_from_the_lists() -> None:
    lines = ['    "a.py",\n', '    "B",\n', "NOUNS = 1\n"]
    assert [line for line in lines if house.is_needed(line, {"B"})] == lines[1:]
