"""docs/configuration.md says all there is to set: its lists of keys are made from the schema and the shipped file.

With --update-golden they are written anew; the text between them is by hand.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from smtpguard import __version__
from smtpguard.cli import _COMMANDS
from smtpguard.resources import shipped
from smtpguard.settings import Settings
from smtpguard.settings.load import UNBUILT, load_settings, read_defaults, read_shipped
from smtpguard.settings.on_reload import ON_RELOAD

DOCUMENT = Path(__file__).parents[2] / "docs" / "configuration.md"
SCHEMA: dict[str, Any] = json.loads((shipped("config") / "smtpguard.schema.json").read_text("utf-8"))
MARKED = re.compile(r"<!-- (keys|shipped rules)(?:: ([a-z0-9_ ]+))? -->\n(.*?)<!-- end -->\n", re.DOTALL)
WIDTH = 120


def resolve(part: dict[str, Any]) -> dict[str, Any]:
    """A part of the schema with what it refers to; its own words win."""
    target = SCHEMA["$defs"][part["$ref"].rpartition("/")[2]] if "$ref" in part else {}
    return {**target, **part}


def describe_values(part: dict[str, Any]) -> str:
    part = resolve(part)
    if "enum" in part:
        return " | ".join(f"`{value}`" for value in part["enum"])
    if "title" in part:
        return str(part["title"])
    kind = {"boolean": "true or false", "object": "a mapping", "string": "text"}.get(part.get("type", ""))
    if kind is None:
        items = describe_values(part["items"])
        kind = f"a list of {items}" if items.startswith("`") else f"a list; each entry is {items}"
    return kind


def show_default(value: Any) -> str:  # noqa: ANN401 - any YAML
    return f"`{json.dumps(value, ensure_ascii=False).replace(chr(34), '')}`"


VERSION = ".".join(__version__.split(".")[:2])


def list_unbuilt(path: str) -> Iterator[str]:
    for key, sentence in UNBUILT.items():
        name, negation, values = re.fullmatch(r"([^=!]+)(!?)=?(.*)", key).groups()  # type: ignore[union-attr]
        if name.removesuffix("[]") == path:
            what = " | ".join(f"`{value}`" for value in values.split("|")) if values else ""
            what = f"Anything but {what}" if negation else what or "Any value"
            yield f"{what} is not supported in version {VERSION}. {sentence}"


def list_keys(path: str, part: dict[str, Any], *, required: bool | None = None) -> Iterator[str]:
    """One paragraph of a list for a key and each key below it."""
    own, part = part, resolve(part)
    facts = [describe_values(own)]
    if "default" in own:
        facts.append(f"default {show_default(own['default'])}")
    elif required:
        facts.append("required")
    if path in ON_RELOAD and ON_RELOAD[path].kind == "restart":
        facts.append("waits for a restart")
    words = [f"- **`{path}`** ({'; '.join(facts)}):", own.get("description") or part.get("description", "")]
    yield fold(" ".join([*words, *list_unbuilt(path)]))
    below = resolve(part["items"]) if "items" in part else part
    name = f"{path}[]" if "items" in part else path
    if "anyOf" in part:
        below = next((resolve(branch) for branch in part["anyOf"] if "properties" in resolve(branch)), below)
    for key, inner in below.get("properties", {}).items():
        yield from list_keys(f"{name}.{key}", inner, required=key in below.get("required", ()))
    if isinstance(below.get("additionalProperties"), dict):
        yield from list_keys(f"{name}.NAME", below["additionalProperties"])


def fold(text: str) -> str:
    """Lines of at most 120 characters; those after the first are indented below the dash."""
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) >= WIDTH:
            lines.append(" ")
        lines[-1] += f" {word}" if lines[-1] else word
    return "\n".join(lines)


def render_keys(names: str) -> str:
    return "".join(f"{text}\n" for name in names.split() for text in list_keys(name, SCHEMA["properties"][name]))


def render_rules() -> str:
    keys = ("name", "ports", "novel", "count", "limit", "window", "action", "block")
    lines = [f"| {' | '.join(keys)} |", f"|{'---|' * len(keys)}"]
    for rule in read_defaults()["rules"]:
        cells = [", ".join(map(str, v)) if isinstance(v := rule.get(key, ""), list) else str(v) for key in keys]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def render_document(text: str) -> str:
    def fill(match: re.Match[str]) -> str:
        kind, names, _ = match.groups()
        head = f"<!-- {kind}{': ' + names if names else ''} -->\n"
        return head + (render_keys(names) if names else render_rules()) + "<!-- end -->\n"

    return MARKED.sub(fill, text)


def test_document_is_what_the_schema_says(request: pytest.FixtureRequest) -> None:
    text = DOCUMENT.read_text("utf-8")
    rendered = render_document(text)
    if request.config.getoption("--update-golden"):
        DOCUMENT.write_text(rendered, "utf-8")
        text = rendered
    assert text == rendered, "write docs/configuration.md anew: pytest --update-golden " + __file__


def test_every_section_is_in_the_document_once() -> None:
    names = [name for _, given, _ in MARKED.findall(DOCUMENT.read_text("utf-8")) for name in given.split()]
    assert sorted(names) == sorted(SCHEMA["properties"])


def test_a_group_can_be_given_only_commands_that_there_are() -> None:
    verbs = SCHEMA["properties"]["control"]["properties"]["verbs"]
    within_others = {"close", "halve", "evidence"}  # of `incidents` and `why`
    assert set(verbs["default"]) <= set(verbs["items"]["enum"]) <= {*_COMMANDS, *within_others}
    assert tuple(verbs["default"]) == Settings().control_verbs == read_shipped().control_verbs


def test_every_key_has_a_description() -> None:
    def walk(path: str, part: dict[str, Any]) -> Iterator[str]:
        own, part = part, resolve(part)
        if "description" not in {**part, **own}:
            yield path
        if isinstance(part.get("additionalProperties"), dict):
            yield from walk(f"{path}.NAME", part["additionalProperties"])
        for branch in (part, resolve(part.get("items", {})), *map(resolve, part.get("anyOf", ()))):
            for key, inner in branch.get("properties", {}).items():
                yield from walk(f"{path}.{key}", inner)

    missing = [path for name, part in SCHEMA["properties"].items() for path in walk(name, part)]
    assert missing == []


def test_every_unbuilt_setting_is_in_the_document() -> None:
    text = " ".join(DOCUMENT.read_text("utf-8").split())
    for sentence in UNBUILT.values():
        assert sentence in text


def test_examples_load(tmp_path: Path) -> None:
    examples = re.findall(r"```yaml\n(.*?)```", DOCUMENT.read_text("utf-8"), re.DOTALL)
    assert examples
    for example in examples:
        path = tmp_path / "g.yaml"
        path.write_text(example)
        load_settings(str(path))


def test_examples_in_the_shipped_file_load(tmp_path: Path) -> None:
    """What an administrator uncomments has to work: the entries of `users`, and the cap."""
    text = (shipped("config") / "smtpguard.yaml").read_text("utf-8")
    lines = text.splitlines()
    start = lines.index("# Other limits for some users; the first entry that matches wins. For example:")
    entry = [line.removeprefix("#") for line in lines[start + 1 : start + 3]]
    cap = re.search(r"while smtpguard is down: (\{.*\})", text)
    assert cap is not None
    path = tmp_path / "g.yaml"
    path.write_text("\n".join(["users:", *entry, f"cap: {cap[1]}"]))
    settings = load_settings(str(path))
    assert settings.overrides[0].rules["mx-fanout"].action == "warn"
    assert settings.cap is not None


def test_shipped_file_is_the_same_when_loaded_as_a_file(tmp_path: Path) -> None:
    path = tmp_path / "g.yaml"
    path.write_text((shipped("config") / "smtpguard.yaml").read_text("utf-8"))
    assert replace(load_settings(str(path)), path=None) == read_shipped()
