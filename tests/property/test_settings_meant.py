"""Whatever the schema lets through becomes Settings whose values are of the types that are written, and can be used.

The schema itself makes the configurations here: what it allows and nobody thought of comes by itself.
"""

import dataclasses
import json
import pickle
import re
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from smtpguard.actions.base import Exemptions
from smtpguard.actions.nft.render import TEMPLATE_NAMES, build_spec, render_ruleset
from smtpguard.daemon.outlet.frames import pick_settings
from smtpguard.errors import ConfigError
from smtpguard.notify.channels import make_channels
from smtpguard.policy.engine import Engine
from smtpguard.resources import shipped
from smtpguard.settings import Settings
from smtpguard.settings.advice import find_doubts, find_notes
from smtpguard.settings.load import load_settings, read_schema
from smtpguard.settings.on_reload import find_changes, keep_until_restart, render_changes
from smtpguard.text import render_visible
from tests.support.policy import T0, WEB, People, connect

Schema = dict[str, Any]
Made = st.SearchStrategy[Any]
SCHEMA: Schema = read_schema()
SHIPPED = load_settings(None)
TEMPLATES = {name: (shipped("nft") / name).read_text("utf-8") for name in TEMPLATE_NAMES}
FORMATS: dict[str, tuple[str, ...]] = {
    "smtpguard-duration": (
        "1s",
        "30s",
        "10m",
        "1h",
        "24h",
        "31d",
        "3650d",
        "999999999s",
        "0s",
        "1 h",
        "1h\n",
        "\u0661h",
    ),
    "smtpguard-uids": ("0", "5", "2000-2999", "0-4294967294", "0005-6", "6-5", "5-", "", "4294967295", "5\n"),
    "smtpguard-destination": ("192.0.2.1", "0.0.0.0/0", "::/0", "::ffff:1.2.3.4", "mx.example.", "A.b", "fe80::1%eth0"),
    "smtpguard-translator": ("64:ff9b::/96", "2001:db8::/32", "::/96", "2001:db8::/64\n", "64:ff9b:1::/48"),
    "smtpguard-rate": ("1/second", "60/minute", "999999/day", "0/day", "60/minute\n"),
    "smtpguard-server": (
        "127.0.0.1:25",
        "[::1]:25",
        "localhost:1",
        "a.example:65535",
        "[:]:25",
        "..:25",
        "[fe80::1%a]:25",
    ),
    "smtpguard-url": (),
    "smtpguard-zone": ("zen.example", "A.b.", "a..b", "a.1", "x" * 300 + ".org"),
    "smtpguard-address": ("203.0.113.5", "2001:db8::5", "::ffff:1.2.3.4", "fe80::1%eth0", "::", "1.2.3"),
}
"""Texts of each notation, and some that are nearly one: their schema has no pattern."""
ODD = (
    "\u202e",
    "\U0001f600",
    "%s",
    "{0}",
    "$x",
    "*",
    "[",
    "[z-a]",
    "..",
    "a b",
    "-",
    "\u0130",
    "1e5",
    "null",
    "\u00b2",
)


def resolve(part: Schema) -> Schema:
    return {**SCHEMA["$defs"][part["$ref"].rpartition("/")[2]], **part} if "$ref" in part else part


def list_places(part: Schema, place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Schema]]:
    """Each place of a configuration, and what the schema has of it; `[]` is an item of a list."""
    part = resolve(part)
    yield place, part
    for choice in part.get("anyOf", ()):
        yield from list_places(choice, place)
    for key, inner in part.get("properties", {}).items():
        yield from list_places(inner, (*place, key))
    if isinstance(part.get("additionalProperties"), dict):
        yield from list_places(part["additionalProperties"], (*place, "hourly"))
    if "items" in part:
        yield from list_places(part["items"], (*place, "[]"))


PLACES = [(place, part) for place, part in list_places(SCHEMA) if place]
NUMBERS = [(place, part) for place, part in PLACES if part.get("type") in ("integer", "number")]
NEEDED: dict[str, object] = {
    "name": "a",
    "count": "connections",
    "limit": 1,
    "window": "1h",
    "rate": "1/day",
    "burst": 1,
    "match": {"users": ["a"]},
    "rules": {"hourly": {"limit": 1}},
    "url": "https://a.example",
    "secret_file": "/x",
}
"""A right value of each key that must be there where something of its mapping is."""


def put(place: tuple[str, ...], value: object) -> Any:  # noqa: ANN401 - a configuration
    """A configuration that has a value at a place, and besides only what must be there."""
    for at in range(len(place) - 1, -1, -1):
        parts = [part for found, part in list_places(SCHEMA) if found == place[:at]]
        needed = {
            key
            for part in parts
            for choice in (part, *part.get("anyOf", ()))
            for key in resolve(choice).get("required", ())
        }
        value = [value] if place[at] == "[]" else {**{key: NEEDED[key] for key in needed}, place[at]: value}
    return value


def make(part: Schema) -> Made:
    """Values that a part of the schema allows."""
    part = resolve(part)
    if "const" in part:
        return st.just(part["const"])
    if "enum" in part:
        return st.sampled_from(part["enum"])
    if "anyOf" in part:
        return st.one_of([make(choice) for choice in part["anyOf"]])
    kind = part["type"]
    if kind == "object":
        return make_object(part)
    if kind == "array":
        most = min(part.get("maxItems", 4), 4)
        items = make(part.get("items", {}))
        if "prefixItems" in part:
            return st.tuples(make(part["prefixItems"][0]), st.lists(items, max_size=2)).map(lambda t: [t[0], *t[1]])
        return st.lists(items, min_size=part.get("minItems", 0), max_size=most)
    if kind == "string":
        return make_text(part)
    if kind in ("integer", "number"):
        return make_number(part, is_whole=kind == "integer")
    return {"boolean": st.booleans(), "null": st.none()}[kind]


def make_object(part: Schema) -> Made:
    known = part.get("properties", {})
    if not known:  # changes by the names of rules
        names = st.sampled_from([rule.name for rule in SHIPPED.rules])
        return st.dictionaries(names, make(part["additionalProperties"]), min_size=1, max_size=2)
    needed = part.get("required", [])
    parts = {key: make(inner) for key, inner in known.items()}
    return st.fixed_dictionaries(
        {key: parts[key] for key in needed}, optional={key: parts[key] for key in parts if key not in needed}
    )


def make_text(part: Schema) -> Made:
    texts = [st.sampled_from(FORMATS[part["format"]])] if FORMATS.get(part.get("format", "")) else []
    if "pattern" in part:
        longest = part.get("maxLength", 300)
        fitting = re.compile(part["pattern"])
        texts += [
            st.from_regex(fitting).filter(lambda text: len(text) <= longest),
            st.sampled_from(
                [text for odd in ODD for text in (odd, f"a{odd}", f"/{odd}a", f"a://{odd}", f"http://a{odd}")]
            ),
        ]
    return st.one_of(texts)


def make_number(part: Schema, *, is_whole: bool) -> Made:
    low, high = part["minimum"], part["maximum"]
    whole = st.one_of(st.integers(low, high), st.sampled_from([low, high]))
    return st.one_of(whole, whole.map(float), *([] if is_whole else [st.floats(low, high)]))


def assert_typed(value: object, wanted: Any, where: str) -> None:  # noqa: ANN401 - a type
    """That a value is of the type that is written, bool and int kept apart."""
    origin, inner = get_origin(wanted), get_args(wanted)
    if wanted is Any:
        return
    if origin in (Union, types.UnionType):
        assert any(is_typed(value, choice) for choice in inner), (where, value)
    elif origin is Literal:
        assert any(value == choice and type(value) is type(choice) for choice in inner), (where, value)
    elif origin is tuple:
        assert type(value) is tuple, (where, value)
        each = [inner[0]] * len(value) if inner[-1:] == (...,) else list(inner)
        assert len(each) == len(value), (where, value)
        for kind, item in zip(each, value, strict=True):
            assert_typed(item, kind, where)
    elif origin in (frozenset, dict):
        assert isinstance(value, frozenset | dict)
        assert type(value) is origin, (where, value)
        for item in value:
            assert_typed(item, inner[0], where)
        for item in value.values() if isinstance(value, dict) else ():
            assert_typed(item, inner[1], where)
    elif dataclasses.is_dataclass(wanted):
        assert type(value) is wanted, (where, value)
        for name, kind in get_type_hints(wanted).items():
            assert_typed(getattr(value, name), kind, f"{where}.{name}")
    else:
        assert type(value) is wanted, (where, value)


def is_typed(value: object, wanted: Any) -> bool:  # noqa: ANN401 - a type
    try:
        assert_typed(value, wanted, "")
    except AssertionError:
        return False
    return True


def assert_usable(loaded: Settings) -> None:
    """As a check, a start and a reload do it: no error, and text that is one line."""
    texts = [*find_doubts(loaded), *find_notes(loaded)]
    assert all(text.isascii() for text in texts), texts
    for old, new in ((SHIPPED, loaded), (loaded, SHIPPED)):
        texts.append(render_changes(find_changes(old, new)))
        assert isinstance(keep_until_restart(old, new), Settings)
    assert all(render_visible(text) == text for text in texts), texts
    assert pickle.loads(pickle.dumps(loaded)) == loaded  # noqa: S301 - ours
    assert pick_settings(loaded).values["notify"] is loaded.notify
    assert all(channel.name for channel in make_channels(loaded.notify))
    exemptions = Exemptions(uids=loaded.exempt.uids, networks=loaded.exempt.networks)
    assert loaded.nft_table in render_ruleset(build_spec(loaded), exemptions, TEMPLATES)
    engine = Engine(settings=loaded, directory=People(), why_exempt=lambda _: None)
    for at_s in range(3):
        for port in sorted(loaded.ports)[:2]:
            engine.feed(connect(at_s, port=port))
    engine.tick(T0 + 60 * 10**9)
    assert engine.stats() is not None
    assert {subject.id for subject in engine.blocked_subjects()} <= {WEB}


def check(directory: Path, data: object) -> str:
    path = directory / "g.yaml"
    path.write_text(json.dumps(data), "utf-8")
    path.chmod(0o600)
    try:
        loaded = load_settings(str(path))
    except ConfigError as error:
        lines = str(error).splitlines()
    else:
        assert_typed(loaded, Settings, "settings")
        assert_usable(loaded)
        return "taken"
    assert all(line.startswith(f"{path}:") for line in lines)
    return "refused"


QUICK = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@QUICK
@given(data=st.sampled_from(PLACES).flatmap(lambda found: make(found[1]).map(lambda value: put(found[0], value))))
def test_what_the_schema_allows_is_an_error_or_of_its_types(tmp_path: Path, data: object) -> None:
    event(check(tmp_path, data))


@pytest.mark.parametrize(("place", "part"), NUMBERS, ids=[".".join(place) for place, _ in NUMBERS])
def test_a_whole_number_with_a_point_is_a_whole_number(tmp_path: Path, place: tuple[str, ...], part: Schema) -> None:
    for value in (part["minimum"], part["minimum"] + 25):
        taken = check(tmp_path, put(place, value))
        assert check(tmp_path, put(place, float(value))) == taken
        assert check(tmp_path, put(place, value + 0.5)) == ("taken" if part["type"] == "number" else "refused")
        assert check(tmp_path, put(place, value=True)) == "refused"
