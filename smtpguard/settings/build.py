"""Checked configuration data made into `Settings`. Pure; expects what `checks.py` let through, its notations read."""

from collections.abc import Mapping
from typing import Any

from smtpguard.settings import Match, Override, Rule, Settings
from smtpguard.settings.keys import read_fields
from smtpguard.settings.readers import read_uids

_DURATIONS = {"window": "window_ns", "block": "block_ns", "novel": "novel_ns"}


def merge_defaults(given: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The whole configuration: what a file gives, and for the rest the shipped values; lists replace.

    The shipped rules are narrowed to the ports that are guarded: who guards port 25 alone need not write them anew.

    Args:
        given: Content of the file.
        defaults: Content of the shipped one.
    """
    merged: dict[str, Any] = {
        key: _merge(given.get(key, {}), default) if isinstance(default, dict) else given.get(key, default)
        for key, default in defaults.items()
    }
    # A list that has all the shipped names is a copy of the shipped file: nobody chose them.
    shipped = defaults["shared_users"]["users"]
    merged["shared_users"]["shipped"] = shipped if set(shipped) <= set(merged["shared_users"]["users"]) else []
    if "rules" not in given:
        merged["rules"] = [narrowed for rule in merged["rules"] if (narrowed := narrow_rule(rule, merged["ports"]))]
    merged["shipped_rules"] = [rule["name"] for rule in merged["rules"] if is_shipped(rule, defaults, merged["ports"])]
    return merged


def _merge(given: Mapping[str, Any], default: Mapping[str, Any]) -> dict[str, Any]:
    """A section, and the sections in it."""
    return {**default, **given} | {
        key: _merge(given[key], value) for key, value in default.items() if isinstance(value, dict) and key in given
    }


def is_shipped(rule: Mapping[str, Any], defaults: Mapping[str, Any], ports: list[int]) -> bool:
    """Whether a rule is as it was shipped: a file may be a copy of ours, and then nobody chose it.

    Args:
        rule: As a file gives it.
        defaults: Content of the shipped file.
        ports: The guarded ports, which shipped rules are narrowed to.
    """
    return any(rule in (shipped, narrow_rule(shipped, ports)) for shipped in defaults["rules"])


def narrow_rule(rule: Mapping[str, Any], ports: list[int]) -> dict[str, Any] | None:
    """A shipped rule with only the guarded ports; None if none of its ports is."""
    if "ports" not in rule:
        return dict(rule)
    kept = [port for port in rule["ports"] if port in ports]
    return {**rule, "ports": kept} if kept else None


def build_settings(data: Mapping[str, Any], path: str | None) -> Settings:
    """The configuration as typed values.

    Args:
        data: Merged with the defaults, and checked.
        path: The file; None for the shipped defaults.
    """
    rules = {rule["name"]: rule for rule in data["rules"]}
    shared = data["shared_users"]
    return Settings(
        path=path,
        rules=tuple(map(_build_rule, data["rules"])),
        shipped_rules=frozenset(data.get("shipped_rules", rules)),
        overrides=tuple(_build_override(entry, rules) for entry in data["users"]),
        shared_shipped=frozenset(shared.get("shipped", shared["users"])),
        **read_fields(Settings, data),
    )


def _build_rule(data: Mapping[str, Any]) -> Rule:
    fields: dict[str, Any] = {_DURATIONS.get(key, key): value for key, value in data.items()}
    if "ports" in fields:
        fields["ports"] = frozenset(fields["ports"])
    return Rule(**fields)


def _build_override(entry: Mapping[str, Any], rules: Mapping[str, Mapping[str, Any]]) -> Override:
    match = entry["match"]
    return Override(
        match=Match(
            users=tuple(match.get("users", ())),
            groups=tuple(match.get("groups", ())),
            uids=read_uids(match.get("uids", ())),
            packages=tuple(match.get("packages", ())),
            resellers=tuple(match.get("resellers", ())),
        ),
        rules={name: _build_rule({**rules[name], **change}) for name, change in entry["rules"].items()},
    )
