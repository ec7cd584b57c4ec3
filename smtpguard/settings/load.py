"""The configuration file: found, read safely, checked, merged with the shipped defaults, made into `Settings`.

Order: --config, $SMTPGUARD_CONFIG, /etc/smtpguard/smtpguard.yaml, the shipped defaults. A file that was named and is
not there is an error, never a reason to go on with something else. Everything that can be wrong is a ConfigError.
"""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from smtpguard import __version__
from smtpguard.errors import ConfigError
from smtpguard.resources import shipped
from smtpguard.safe_files import read_trusted
from smtpguard.settings import Settings
from smtpguard.settings.build import build_settings, merge_defaults
from smtpguard.settings.formats import parse_formats
from smtpguard.settings.notations import fits_pattern
from smtpguard.settings.removed import drop_refused, drop_removed
from smtpguard.settings.yaml_lines import (
    MAX_BYTES,
    Document,
    Problem,
    SettingsError,
    parse_document,
    show_value,
)

ENVIRONMENT = "SMTPGUARD_CONFIG"
SYSTEM_PATH = "/etc/smtpguard/smtpguard.yaml"

_COUNT = "Use connections, destinations or networks."
UNBUILT: dict[str, str] = {
    "sources[]=postfix|exim|maillog": "Use auto or bpf.",
    "rules[].count=messages|recipients": _COUNT,
    "rules[].path=local|any": "Mail by the local mail server is not counted: use smtp.",
}
"""Settings that are refused because nothing would carry them out: key to what to use, see checks.find_unbuilt."""


def load_settings(path: str | None) -> Settings:
    """The configuration, wholly checked.

    Args:
        path: What --config named; None for the usual order.

    Raises:
        ConfigError: What is wrong, with file and line, up to 20 things at once.
    """
    return _load_document(read_configuration(path, keep_doubles=True))


def load_text(text: str | None, name: str | None) -> Settings:
    """A configuration that is no file now, checked as one.

    Args:
        text: What the file held; None for the shipped defaults.
        name: What it was called.

    Raises:
        ConfigError: As `load_settings`.
    """
    return _load_document(
        None if text is None else parse_document(text, name or "the configuration", keep_doubles=True)
    )


def _load_document(document: Document | None) -> Settings:
    if document is None:
        return read_shipped()
    from smtpguard.settings.checks import check  # jsonschema costs 70 ms: not where there is nothing to check

    schema = read_schema()
    defaults = parse_formats(read_defaults(), schema).data
    data, left = drop_removed(document.data, __version__)
    data, refused, idle = drop_refused(data)
    checked = check(data, defaults, schema, UNBUILT)
    if document.doubles or refused or checked.problems:
        raise SettingsError(document, [*document.doubles, *refused, *checked.problems])
    warnings = tuple(SettingsError(document, [*left, *idle]).lines) if left or idle else ()
    settings = build_settings(merge_defaults(checked.data, defaults), document.name)
    return replace(settings, text=document.text, warnings=warnings)


def load_part(path: str | None, sections: Iterable[str]) -> Settings:
    """Some sections only, for commands that must answer at once; all else has its default.

    What is read is checked against the shape of the defaults, so that no value of a wrong kind is used; unknown keys
    and everything in other sections are `load_settings`' business, without which no daemon starts.

    Args:
        path: What --config named; None for the usual order.
        sections: Top-level keys that hold mappings.

    Raises:
        ConfigError: The file can't be read, or one of the sections is not like the default.
    """
    document = read_configuration(path)
    if document is None:
        return read_shipped()
    defaults, schema = read_defaults(), read_schema()
    if not isinstance(document.data, dict):
        raise SettingsError(document, [Problem(path=(), text=f"{show_value(document.data)} is not a mapping")])
    given: dict[str, dict[str, Any]] = {}
    for section in sections:
        if section in document.data:
            given[section] = _read_section(document, section, defaults[section])
    parsed = parse_formats(given, schema)
    for fault in parsed.faults:
        raise ConfigError(fault.cause, where=document.name, fix="see `smtpguard check`")
    return build_settings(merge_defaults(parsed.data, parse_formats(defaults, schema).data), document.name)


def load_places(path: str | None, sections: Iterable[str]) -> tuple[Settings, ConfigError | None]:
    """Where the daemon and what is its own are, for commands that a broken file must not stop.

    A section that is not right has its defaults. Keys that nobody knows are told too, although they do not matter here:
    whoever needs such a command is glad to hear why the guard does not do what the file says.

    Args:
        path: What --config named; None for the usual order.
        sections: Top-level keys that hold mappings.

    Returns:
        The settings, and what is wrong with the file; None if nothing was found.
    """
    try:
        document = read_configuration(path)
    except ConfigError as error:
        return read_shipped(), error
    if document is None:
        return read_shipped(), None
    defaults, schema = read_defaults(), read_schema()
    data, _ = drop_removed(document.data, __version__)
    given = data if isinstance(data, dict) else {}
    sound = {name: given[name] for name in sections if name in given and is_sound(given[name], name, defaults, schema)}
    settings = make_settings(sound, defaults, schema, document.name)
    if (
        given is data
        and len(sound) == sum(name in given for name in sections)
        and not _has_strange(given, defaults, schema)
    ):
        return settings, None
    from smtpguard.settings.checks import check  # costs 50 ms, so not before something is wrong

    problems = check(data, parse_formats(defaults, schema).data, schema, UNBUILT).problems
    return settings, SettingsError(document, problems) if problems else None


def is_sound(values: object, section: str, defaults: Mapping[str, Any], schema: Mapping[str, Any]) -> bool:
    """Whether a section can be used: its values have the types of the defaults and the schema's patterns."""
    if not isinstance(values, dict):
        return False
    for key, value in values.items():
        if key not in defaults[section] or not _is_like(value, defaults[section][key], str):
            return False
        part = schema["properties"][section]["properties"][key]
        part = {**schema["$defs"].get(part.get("$ref", "").rpartition("/")[2], {}), **part}
        if isinstance(value, str) and (
            not fits_pattern(part.get("pattern", ""), value) or len(value) > part.get("maxLength", MAX_BYTES)
        ):
            return False
    return not parse_formats({section: values}, schema).faults


def make_settings(
    sound: Mapping[str, Any], defaults: Mapping[str, Any], schema: Mapping[str, Any], name: str | None
) -> Settings:
    """The settings of some sections that are sound, and for the rest of the defaults.

    Args:
        sound: What a file gives.
        defaults: The shipped configuration.
        schema: The JSON Schema.
        name: The file; None for the shipped defaults.
    """
    given, shipped_data = (parse_formats(data, schema).data for data in (sound, defaults))
    return build_settings(merge_defaults(given, shipped_data), name)


def _has_strange(given: Mapping[str, Any], defaults: Mapping[str, Any], schema: Mapping[str, Any]) -> bool:
    """Whether there is a key that nobody knows, or a value that is nothing like the default: cheap, and not all."""
    known = schema["properties"]
    rule = schema["$defs"]["rule"]["properties"]
    for name, value in given.items():
        default = defaults.get(name)
        if name not in known or (default is not None and not _is_akin(value, default)):
            return True
        if isinstance(value, dict) and not value.keys() <= known[name].get("properties", value).keys():
            return True
    return any(isinstance(item, dict) and not item.keys() <= rule.keys() for item in given.get("rules", ()))


def _is_akin(value: object, default: object) -> bool:
    return type(value) is type(default) or (isinstance(default, str) and isinstance(value, list))  # sources: [bpf]


def _read_section(document: Document, section: str, default: Mapping[str, Any]) -> dict[str, Any]:
    values = document.data[section]
    if not isinstance(values, dict):
        problem = Problem(path=(section,), text=f"{section}: {show_value(values)} is not a mapping")
        raise SettingsError(document, [problem])
    problems = [
        Problem(path=(section, key), text=f"{section}.{key}: {show_value(value)} is not what is expected here")
        for key, value in values.items()
        if key in default and not _is_like(value, default[key], int if key == "uids" else str)
    ]
    if problems:
        raise SettingsError(document, problems)
    return {key: value for key, value in values.items() if key in default}


def _is_like(value: object, default: object, also: type) -> bool:
    """Whether a value has the type of the default; null may also be text, lists hold text or what is `also` fine."""
    if isinstance(default, list):
        return isinstance(value, list) and all(type(item) in (str, also) for item in value)
    return type(value) is type(default) or (default is None and isinstance(value, str))


def read_configuration(path: str | None, *, keep_doubles: bool = False) -> Document | None:
    """The content of the file that is in force, not yet checked; None where the shipped defaults are.

    Args:
        path: What --config named; None for the usual order.
        keep_doubles: As `parse_document`.

    Raises:
        ConfigError: It is not there although it was named, can't be trusted or read, or is not valid YAML.
    """
    found = read_text(path)
    return None if found is None else parse_document(*found, keep_doubles=keep_doubles)


def read_text(path: str | None) -> tuple[str, str] | None:
    """The file that is in force and its name; None where the shipped defaults are. Raises ConfigError."""
    named = path if path is not None else os.environ.get(ENVIRONMENT) or None
    where = named if named is not None else SYSTEM_PATH
    try:
        content = read_trusted(where, max_bytes=MAX_BYTES)
    except FileNotFoundError:
        if named is None:
            return None
        by = "--config" if path is not None else f"${ENVIRONMENT}"
        raise ConfigError(f"no such file, but {by} names it", where=where) from None
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError("is not UTF-8 text", where=f"{where}:{line}") from error
    return text, where


def read_shipped() -> Settings:
    """The shipped defaults, whatever files are there."""
    return build_settings(parse_formats(read_defaults(), read_schema()).data, None)


def read_defaults() -> dict[str, Any]:
    """The shipped configuration. Never an administrator's file of that name: that one is `read_configuration`'s."""
    path = shipped("config") / "smtpguard.yaml"
    data: dict[str, Any] = parse_document(path.read_text("utf-8"), str(path)).data
    return data


def read_schema() -> dict[str, Any]:
    """The JSON Schema of a configuration."""
    schema: dict[str, Any] = json.loads((shipped("config") / "smtpguard.schema.json").read_text("utf-8"))
    return schema
