"""Whatever a configuration file holds: Settings, or a ConfigError that names the file. Nothing else, ever."""

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from smtpguard.errors import ConfigError
from smtpguard.settings import Settings
from smtpguard.settings.advice import find_doubts
from smtpguard.settings.load import load_part, load_settings, read_defaults

DEFAULTS = read_defaults()
FULL: dict[str, Any] = {
    **DEFAULTS,
    "users": [
        {"match": {"users": ["a*"], "groups": ["g"], "uids": ["2000-2999", 5]}, "rules": {"hourly": {"limit": 5}}},
        {"match": {"users": ["b"]}, "rules": {"mx-fanout": {"action": "warn", "window": "1h", "dry_run": True}}},
    ],
    "exempt": {"users": ["x"], "groups": [], "uids": ["7-9"], "destinations": ["192.0.2.0/24", "m.example", "::1"]},
    "cap": {"rate": "60/minute", "burst": 30},
}
WORDS = st.sampled_from(
    [
        *("auto", "none", "bpf", "block", "warn", "30s", "0s", "99999999d", "1m", "5-2", "0-4294967295", "10.0.0.0/8"),
        *("10.0.0.1/8", "::/0", "fe80::1%eth0", "/", "//x", "/a/", "60/minute", "0/day", "connections", "bytes", "%"),
        *("\u0000", "\u2028", "a" * 300, "127.0.0.1:25", "[::1]:0", "::ffff:1.2.3.4/100", "\u0661s", "1.2.3", "-1"),
    ]
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=20),
    WORDS,
)
KEYS = st.one_of(
    st.sampled_from([*DEFAULTS, "name", "limit", "window", "match", "rules", "uids", "factor", "<<", ""]),
    st.text(max_size=8),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


def list_paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:  # noqa: ANN401
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from list_paths(inner, (*path, key))


def find(path: tuple[Any, ...]) -> Any:  # noqa: ANN401
    value: Any = FULL
    for part in path:
        value = value[part]
    return value


PATHS = [path for path in list_paths(FULL) if path]

ALIKE: dict[type, list[Any]] = {}
"""Values of the good configuration by type: one of them elsewhere is often right, too."""
for _path in PATHS:
    ALIKE.setdefault(type(find(_path)), []).append(find(_path))


@st.composite
def near_misses(draw: st.DrawFn) -> Any:  # noqa: ANN401
    """A good configuration with up to four values replaced, dropped, or added."""
    data = copy.deepcopy(FULL)
    for _ in range(draw(st.integers(0, 4))):
        path = draw(st.sampled_from(PATHS))
        target: Any = data
        try:
            for part in path[:-1]:
                target = target[part]
            how = draw(st.integers(0, 5))
            if how > 2:
                target[path[-1]] = copy.deepcopy(draw(st.sampled_from(ALIKE[type(target[path[-1]])])))
            elif how == 0:
                target[path[-1]] = draw(VALUES)
            elif how == 1:
                del target[path[-1]]
            elif isinstance(target, list):
                target.append(draw(VALUES))
            else:
                target[draw(KEYS)] = draw(VALUES)
        except (KeyError, IndexError, TypeError):
            continue  # an earlier change took that place away
    return data


def load(path: Path, content: bytes) -> Settings | None:
    path.write_bytes(content)
    path.chmod(0o600)
    loaded, part = (
        attempt(lambda: load_settings(str(path))),
        attempt(lambda: load_part(str(path), ["exempt", "shared_users", "control"])),
    )
    for result in (loaded, part):
        if isinstance(result, ConfigError):
            assert_clear(result, str(path))
    if isinstance(loaded, ConfigError):
        return None
    assert_sound(loaded)
    assert isinstance(part, Settings), "load_part refuses what load_settings takes"
    assert (part.exempt, part.shared_users, part.control_socket, part.control_verbs) == (
        loaded.exempt,
        loaded.shared_users,
        loaded.control_socket,
        loaded.control_verbs,
    )
    return loaded


def attempt(load_it: Callable[[], Settings]) -> Settings | ConfigError:
    try:
        return load_it()
    except ConfigError as error:
        return error


def assert_clear(error: ConfigError, path: str) -> None:
    lines = str(error).splitlines()
    assert all(line.startswith(path) for line in lines), lines
    assert all(line.isascii() and line.isprintable() for line in lines), lines
    assert len(lines) <= 21


def assert_sound(loaded: Settings) -> None:
    """What the rest of the program takes for granted."""
    assert loaded.ports
    assert all(0 < port < 65536 for port in loaded.ports)
    names = [rule.name for rule in loaded.rules]
    assert len(set(names)) == len(names) <= 32
    rules = [*loaded.rules, *(rule for override in loaded.overrides for rule in override.rules.values())]
    for rule in rules:
        assert rule.window_ns > 0
        assert rule.block_ns > 0
        assert rule.limit >= 0
        assert rule.ports is None or rule.ports <= loaded.ports
    assert all(set(override.rules) <= set(names) for override in loaded.overrides)
    assert all(0 <= first <= last < 2**32 - 1 for first, last in loaded.exempt.uids)
    assert 1 <= loaded.escalation.factor <= 100
    for path in (loaded.log_path, loaded.state_path, loaded.control_socket):
        assert path.startswith("/")
    assert all(text.isascii() and text.isprintable() for text in find_doubts(loaded))


QUICK = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
LONG = settings(QUICK, max_examples=10_000, derandomize=False)


@QUICK
@given(data=near_misses())
def test_near_misses(tmp_path: Path, data: Any) -> None:  # noqa: ANN401
    load(tmp_path / "g.yaml", yaml.safe_dump(data, allow_unicode=True).encode("utf-8", "surrogatepass"))


@QUICK
@given(data=VALUES)
def test_any_data(tmp_path: Path, data: Any) -> None:  # noqa: ANN401
    load(tmp_path / "g.yaml", json.dumps(data).encode())


@QUICK
@given(
    content=st.one_of(st.binary(max_size=300), st.text(":-[]{}&*!|>'\"%@`#,? \n\tab1~<", max_size=200).map(str.encode))
)
def test_any_bytes(tmp_path: Path, content: bytes) -> None:
    load(tmp_path / "g.yaml", content)


def test_the_unchanged_one_loads(tmp_path: Path) -> None:
    assert load(tmp_path / "g.yaml", yaml.safe_dump(FULL).encode()) is not None


@pytest.mark.long
@LONG
@given(data=near_misses())
def test_near_misses_for_long(tmp_path: Path, data: Any) -> None:  # noqa: ANN401
    load(tmp_path / "g.yaml", yaml.safe_dump(data, allow_unicode=True).encode("utf-8", "surrogatepass"))


@pytest.mark.long
@LONG
@given(content=st.one_of(st.binary(max_size=400), st.text(max_size=300).map(str.encode)))
def test_any_bytes_for_long(tmp_path: Path, content: bytes) -> None:
    load(tmp_path / "g.yaml", content)
