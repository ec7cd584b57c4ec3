"""YAML as plain data with lines: what is taken, what is refused before it is expanded."""

import time

import pytest
import yaml

from smtpguard.errors import ConfigError
from smtpguard.settings import yaml_lines
from smtpguard.settings.yaml_lines import (
    MAX_NODES,
    Document,
    Problem,
    SettingsError,
    parse_document,
    show_path,
    show_value,
)

LOADERS = [yaml.SafeLoader, *([yaml.CSafeLoader] if yaml.__with_libyaml__ else [])]


@pytest.fixture(params=LOADERS, autouse=True, ids=lambda loader: loader.__name__)
def _loader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """libyaml is not in every build of PyYAML: both parsers have to give the same."""
    monkeypatch.setattr(yaml_lines, "_LOADER", request.param)


def test_data_and_lines() -> None:
    document = parse_document("# c\na: 1\nb:\n  c: [x, {d: ~}]\n  on: yes\n", "f.yaml")
    assert document.data == {"a": 1, "b": {"c": ["x", {"d": None}], "on": True}}
    assert document.lines == {
        (): 2,
        ("a",): 2,
        ("b",): 3,
        ("b", "c"): 4,
        ("b", "c", 0): 4,
        ("b", "c", 1): 4,
        ("b", "c", 1, "d"): 4,
        ("b", "on"): 5,
    }
    assert document.line(("b", "c", 7, "x")) == 4
    assert document.line(("none",)) == 2


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("0x10", 16),
        ("0", 0),
        ("0.5", 0.5),
        ("1_000", 1000),
        ("0b10", 2),
        ("08", "08"),
        ("00:30", "00:30"),
        ("1.5", 1.5),
        ("true", True),
        ("null", None),
        ("'1'", "1"),
        ("2026-02-18", "2026-02-18"),
        ("10m", "10m"),
        ("=", "="),
        ("! 5", "5"),
        ('"\\u00e4"', "\u00e4"),
        ("|\n  two\n  lines\n", "two\nlines\n"),
    ],
)
def test_scalars(text: str, value: object) -> None:
    assert parse_document(f"a: {text}", "f").data == {"a": value}


def test_json_is_yaml() -> None:
    assert parse_document('{"a": [1, true, null, "\\u00e4"],\n "b": {}}', "f").data == {
        "a": [1, True, None, "\u00e4"],
        "b": {},
    }


@pytest.mark.parametrize("text", ["", "\n# only a comment\n", "---\n", "~"])
def test_empty_is_an_empty_mapping(text: str) -> None:
    assert parse_document(text, "f").data == {}


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("a: 1\nb: 2\na: 3", 3, "a is given twice, first in line 1"),
        ("a:\n  b: 1\n  c: 1\n  b: 1", 4, "a.b is given twice, first in line 2"),
        ("a: &x [1]\n", 1, "anchors are not taken: &x"),
        ("a: 1\nb: *x", 2, "aliases are not taken: *x"),
        ("a: 1\n<<: {b: 1}", 2, "merge keys"),
        ("a: !!python/object/apply:os.system [id]", 1, "tags are not taken"),
        ("a: 1\nb: !!str 5", 2, "tags are not taken"),
        ("a: 1\n---\nb: 1", 2, "second YAML document"),
        ("? [a]\n: b", 1, "can't be a key"),
        ("a: 1\nb: .inf", 2, "no finite number"),
        ("a: .nan", 1, "no finite number"),
        ("a: 0b_", 1, "is no number"),
        ("a: 1\nb: 010", 2, "'010' is no decimal number"),
        ("a: [1:30]", 1, "'1:30' is no decimal number"),
        ("a: -1:30.5", 1, "is no decimal number"),
        ("a: 1:2:3:4:5:6:7:8", 1, "put text in quotes"),
        ("a: " + "9" * 5000, 1, "is no number"),
        ("a: 1\nb: 0x" + "f" * 5000, 2, "is no number of use"),
        ("a: 0b" + "1" * 50_000, 1, "is no number of use"),
        ("a: " + ":".join(["1"] * 4000), 1, "is no decimal number"),
        ("a: b: c", 1, "not valid YAML"),
        ("a: 'open", 1, "not valid YAML"),
        ("a: 1\nb: {c", 2, "not valid YAML"),
        ("a: 1\nb: \x01", 2, "control character"),
        ("[" * 13, 1, "nested deeper than 12"),
        ("[" * 50_000, 1, "nested deeper than 12"),
        ("- a\n" * 20_001, MAX_NODES, f"more than {MAX_NODES} values"),
    ],
)
def test_refused(text: str, line: int, what: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_document(text, "f.yaml")
    assert what in str(caught.value)
    assert str(caught.value).startswith(f"f.yaml:{line}: ")
    assert str(caught.value).isascii()
    assert str(caught.value).isprintable()


def test_alias_bomb_costs_nothing() -> None:
    levels = "\n".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 60))
    took_s: list[float] = []
    for _ in range(3):  # a virtual machine's processor may be away in one of them
        start = time.process_time()
        with pytest.raises(ConfigError):
            parse_document(f"a0: &a0 [lol]\n{levels}", "f")
        took_s.append(time.process_time() - start)
    assert min(took_s) < 0.5


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("a\nb", r"'a\nb'"),
        ("\u2028\x1b", r"'\u2028\x1b'"),
        ("x" * 100, "'" + "x" * 55 + "...'"),
        ({}, "a mapping"),
        ([], "a list"),
        (None, "nothing"),
        (True, "true"),
        (10**40, "a huge number"),
        (7, "7"),
    ],
)
def test_values_are_shown_safely(value: object, shown: str) -> None:
    assert show_value(value) == shown


def test_paths_are_shown_safely() -> None:
    assert show_path(("users", 0, "rules", "mx-burst")) == "users[0].rules.mx-burst"
    assert show_path(("a\x1b[2J", 1)) == r"'a\x1b[2J'[1]"


def test_problems_come_in_the_files_order_and_not_all() -> None:
    document = Document(name="f", data={}, lines={(): 1, **{(f"k{i}",): i for i in range(1, 31)}})
    error = SettingsError(document, [Problem(path=(f"k{i}",), text=f"bad {i}") for i in range(30, 0, -1)])
    shown = str(error).splitlines()
    assert shown[0] == "f:1: bad 1"
    assert shown[19] == "f:20: bad 20"
    assert shown[20:] == ["f: and 10 more"]
    assert len(error.lines) == 30
