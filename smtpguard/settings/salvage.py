"""Where a guard is to be found by a file that is wrong, even one that is not valid YAML: each section is read alone."""

from typing import Any

from smtpguard.errors import ConfigError
from smtpguard.settings import Settings
from smtpguard.settings.load import is_sound, make_settings, read_defaults, read_schema, read_text
from smtpguard.settings.yaml_lines import find_section, parse_document

PLACES = ("log", "state", "control", "nft")
"""Sections that are taken if they are right by themselves."""


def salvage_places(path: str | None) -> Settings:
    """The shipped defaults with the places that the file names.

    Args:
        path: What --config named; None for the usual order.
    """
    defaults, schema = read_defaults(), read_schema()
    try:
        found = read_text(path)
    except ConfigError:
        found = None
    if found is None:
        return make_settings({}, defaults, schema, None)
    text, name = found
    given = {section: _parse_alone(text, section) for section in (*PLACES, "cgroup")}
    sound = {section: given[section] for section in PLACES if is_sound(given[section], section, defaults, schema)}
    cgroup = given["cgroup"]
    places = {"cgroup": cgroup} if isinstance(cgroup, str) and cgroup.startswith("/") and "\0" not in cgroup else {}
    return make_settings({**sound, **places}, defaults, schema, name)


def _parse_alone(text: str, section: str) -> Any:  # noqa: ANN401 - any YAML
    """What a section holds; None if it is not there, or not right by itself."""
    try:
        return parse_document(text, "").data.get(section)
    except (ConfigError, AttributeError):
        pass
    try:
        return parse_document(find_section(text, section) or "", "").data.get(section)
    except (ConfigError, AttributeError):
        return None
