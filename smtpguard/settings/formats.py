"""Notations of the configuration, read once, wherever the schema's `format` says that one stands. Pure.

What comes out is the same configuration with nanoseconds for durations, networks for destinations and so on; whoever
checks or builds from here on sees values and no text. Without jsonschema, which costs 70 ms.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from smtpguard.settings.notations import (
    check_url,
    parse_destination,
    parse_duration,
    parse_one_address,
    parse_rate,
    parse_server,
    parse_translator,
    parse_uids,
    parse_zone,
)
from smtpguard.settings.yaml_lines import Path


def _check_server(text: str, /) -> str:
    parse_server(text)
    return text


class ParseText(Protocol):
    """Reads a notation."""

    def __call__(self, text: str, /) -> object:
        """What it says. Raises ValueError, which says why not."""
        ...


FORMATS: Mapping[str, ParseText] = {
    "smtpguard-duration": parse_duration,
    "smtpguard-uids": parse_uids,
    "smtpguard-destination": parse_destination,
    "smtpguard-translator": parse_translator,
    "smtpguard-rate": parse_rate,
    "smtpguard-server": _check_server,
    "smtpguard-url": check_url,
    "smtpguard-zone": parse_zone,
    "smtpguard-address": parse_one_address,
}
_KINDS: Mapping[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "integer": int,
    "number": (int, float),
    "null": type(None),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FormatFault:
    """A text that is not in its format.

    Attributes:
        path: The way to it.
        value: It.
        schema: The part of the schema that says its format.
        title: What would be right, from there or from further out.
        cause: What the format has against it.
    """

    path: Path
    value: str
    schema: Mapping[str, Any]
    title: str | None
    cause: str


@dataclass(slots=True)
class Parsed:
    """A configuration with its notations read.

    Attributes:
        data: It; what is not in its format stays as it is.
        faults: Those texts.
    """

    data: Any = None
    faults: list[FormatFault] = field(default_factory=list)


def parse_formats(data: object, schema: Mapping[str, Any]) -> Parsed:
    """Read all notations; what else is wrong is passed over.

    Args:
        data: A configuration or some of its sections, as a file gives them.
        schema: The JSON Schema.
    """
    parsed = Parsed()
    parsed.data = _parse(data, schema, (), None, schema["$defs"], parsed.faults)
    return parsed


def _parse(
    value: Any,  # noqa: ANN401 - any YAML
    part: Mapping[str, Any],
    path: Path,
    title: str | None,
    definitions: Mapping[str, Any],
    faults: list[FormatFault],
) -> object:
    if "$ref" in part:
        part = {**definitions[part["$ref"].rpartition("/")[2]], **part}
    title = part.get("title", title)
    if isinstance(value, dict):
        known, others = part.get("properties", {}), part.get("additionalProperties")
        parts = {key: known.get(key, others if isinstance(others, dict) else {}) for key in value}
        inner = {k: _parse(v, parts[k], (*path, k), None, definitions, faults) for k, v in value.items()}
        value = inner if known or isinstance(others, dict) else value
    elif isinstance(value, list) and isinstance(part.get("items"), dict):
        value = [_parse(v, part["items"], (*path, i), None, definitions, faults) for i, v in enumerate(value)]
    elif isinstance(value, str) and part.get("format") in FORMATS:
        try:
            return FORMATS[part["format"]](value)
        except ValueError as error:
            faults.append(FormatFault(path=path, value=value, schema=part, title=title, cause=str(error)))
    for choice in part.get("anyOf", ()):
        if _fits(value, choice, definitions):
            return _parse(value, choice, path, title, definitions, faults)
    return value


def _fits(value: object, choice: Mapping[str, Any], definitions: Mapping[str, Any]) -> bool:
    """Whether an alternative is meant: by the value's kind, and for words by the word."""
    if "$ref" in choice:
        choice = {**definitions[choice["$ref"].rpartition("/")[2]], **choice}
    if "enum" in choice:
        return isinstance(value, str) and value in choice["enum"]
    kind = choice.get("type")
    if isinstance(value, bool):
        return kind == "boolean"
    return isinstance(kind, str) and isinstance(value, _KINDS[kind])
