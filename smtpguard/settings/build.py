"""Checked configuration data made into `Settings`. Pure; expects what `checks.py` let through."""

from collections.abc import Mapping
from ipaddress import IPv6Network
from typing import Any

from smtpguard.settings import BreakerLimits, Cap, Escalation, Exempt, Match, Network, Override, Rule, Settings
from smtpguard.settings.notations import parse_destination, parse_duration, parse_rate, parse_uids

_DURATIONS = {"window": "window_ns", "block": "block_ns", "novel": "novel_ns"}
_MB = 1_000_000


def merge_defaults(given: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The whole configuration: what a file gives, and for the rest the shipped values; lists replace.

    The shipped rules are narrowed to the ports that are guarded: who guards port 25 alone need not write them anew.

    Args:
        given: Content of the file.
        defaults: Content of the shipped one.
    """
    merged: dict[str, Any] = {
        key: {**default, **given.get(key, {})} if isinstance(default, dict) else given.get(key, default)
        for key, default in defaults.items()
    }
    # A list that has all the shipped names is a copy of the shipped file: nobody chose them.
    shipped = defaults["shared_users"]["users"]
    merged["shared_users"]["shipped"] = shipped if set(shipped) <= set(merged["shared_users"]["users"]) else []
    if "rules" not in given:
        merged["rules"] = [narrowed for rule in merged["rules"] if (narrowed := narrow_rule(rule, merged["ports"]))]
    merged["shipped_rules"] = [rule["name"] for rule in merged["rules"] if is_shipped(rule, defaults, merged["ports"])]
    return merged


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
    sources = data["sources"]
    return Settings(
        path=path,
        dry_run=data["dry_run"],
        sources=sources if sources in ("auto", "none") else tuple(sources),
        ports=frozenset(data["ports"]),
        cgroup=data["cgroup"],
        audit_enable=data["audit"]["enable"],
        audit_uid=data["audit"]["uid"],
        audit_log=data["audit"]["log"],
        audit_node=data["audit"]["node"],
        rules=tuple(_build_rule(rule) for rule in data["rules"]),
        shipped_rules=frozenset(data.get("shipped_rules", rules)),
        overrides=tuple(_build_override(entry, rules) for entry in data["users"]),
        shared_users=frozenset(data["shared_users"]["users"]),
        shared_block=frozenset(data["shared_users"]["block"]),
        shared_shipped=frozenset(data["shared_users"].get("shipped", data["shared_users"]["users"])),
        exempt=_build_exempt(data["exempt"]),
        loopback=data["loopback"],
        escalation=Escalation(
            factor=float(data["escalation"]["factor"]),
            max_ns=parse_duration(data["escalation"]["max"]),
            forget_ns=parse_duration(data["escalation"]["forget"]),
            still_trying=data["escalation"]["still_trying"],
        ),
        breaker=BreakerLimits(blocks=data["breaker"]["blocks"], per_ns=parse_duration(data["breaker"]["per"])),
        block_verdict=data["block"]["verdict"],
        block_by=data["block"]["by"],
        cap=_build_cap(data["cap"]),
        log_path=data["log"]["path"],
        log_connects=data["log"]["connects"],
        state_path=data["state"]["path"],
        state_keep_ns=parse_duration(data["state"]["keep"]),
        state_max_bytes=data["state"]["max_mb"] * _MB,
        control_socket=data["control"]["socket"],
        control_group=data["control"]["group"],
        control_verbs=tuple(data["control"]["verbs"]),
        control_allow_max_ns=parse_duration(data["control"]["allow_max"]),
        nft_table=data["nft"]["table"],
        nflog_group=data["nft"]["nflog_group"],
        attribution_process=data["attribution"]["process"],
        attribution_php=data["attribution"]["php"],
        attribution_rdns=data["attribution"]["rdns"],
        accounts=data["accounts"] if data["accounts"] in ("auto", "none") else _build_command(data["accounts"]),
        notify_urls=tuple(data["notify"]["urls"]),
        notify_digest=data["notify"]["digest"],
        notify_hook=data["notify"]["hook"] and _build_command(data["notify"]["hook"]),
        metrics_textfile=data["metrics"]["textfile"],
        metrics_listen=data["metrics"]["listen"],
        metrics_users=data["metrics"]["users"],
        uid_min=data["uid_min"],
        nat64=data["nat64"] if data["nat64"] in ("auto", "none") else tuple(map(IPv6Network, data["nat64"])),
    )


def _build_rule(data: Mapping[str, Any]) -> Rule:
    fields: dict[str, Any] = {
        _DURATIONS.get(key, key): parse_duration(value) if key in _DURATIONS else value for key, value in data.items()
    }
    if "ports" in fields:
        fields["ports"] = frozenset(fields["ports"])
    return Rule(**fields)


def _build_override(entry: Mapping[str, Any], rules: Mapping[str, Mapping[str, Any]]) -> Override:
    match = entry["match"]
    return Override(
        match=Match(
            users=tuple(match.get("users", ())),
            groups=tuple(match.get("groups", ())),
            uids=tuple(map(parse_uids, match.get("uids", ()))),
            packages=tuple(match.get("packages", ())),
        ),
        rules={name: _build_rule({**rules[name], **change}) for name, change in entry["rules"].items()},
    )


def _build_exempt(data: Mapping[str, Any]) -> Exempt:
    networks: dict[Network, None] = {}
    names: dict[str, None] = {}
    for text in data["destinations"]:
        destination = parse_destination(text)
        if isinstance(destination, str):
            names[destination] = None
        else:
            networks[destination] = None
    return Exempt(
        users=tuple(data["users"]),
        groups=tuple(data["groups"]),
        uids=tuple(map(parse_uids, data["uids"])),
        networks=tuple(networks),
        names=tuple(names),
    )


def _build_cap(data: Mapping[str, Any] | None) -> Cap | None:
    if data is None:
        return None
    rate, per_ns = parse_rate(data["rate"])
    return Cap(rate=rate, per_ns=per_ns, burst=data["burst"])


def _build_command(data: str | list[str]) -> tuple[str, ...]:
    """A command as argv."""
    return (data,) if isinstance(data, str) else tuple(data)
