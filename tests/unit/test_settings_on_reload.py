"""What a reload does with each key: the table is complete, and what it tells is what has changed."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from smtpguard.model import NS
from smtpguard.resources import shipped
from smtpguard.settings import Cap, Escalation, Exempt, Match, Override, Rule, Settings
from smtpguard.settings.on_reload import ON_RELOAD, find_changes, keep_until_restart, render_changes

RULE = Rule(name="hourly", count="connections", limit=1000, window_ns=3600 * NS)
BASE = Settings(rules=(RULE,))


def keys_of(schema: Mapping[str, Any], before: str = "") -> Iterator[str]:
    for name, inner in schema["properties"].items():
        if "properties" in inner:
            yield from keys_of(inner, f"{before}{name}.")
        else:
            yield f"{before}{name}"


def leaves_of(value: object, before: str = "") -> Iterator[str]:
    """Names of all values in Settings; rules, overrides and the cap are wholes."""
    assert is_dataclass(value)
    for field in fields(value):
        inner = getattr(value, field.name)
        if is_dataclass(inner):
            yield from leaves_of(inner, f"{before}{field.name}.")
        else:
            yield f"{before}{field.name}"


def test_each_key_of_the_schema_is_in_the_table_and_none_besides() -> None:
    schema = json.loads((shipped("config") / "smtpguard.schema.json").read_text("utf-8"))
    assert set(ON_RELOAD) == set(keys_of(schema))


def test_each_value_of_the_settings_belongs_to_one_key() -> None:
    named = [name for entry in ON_RELOAD.values() for name in entry.fields]
    assert sorted(named) == sorted(set(leaves_of(Settings())) - {"path", "text", "warnings"})


def test_what_needs_a_restart_stays_and_is_told() -> None:
    new = replace(BASE, nft_table="other", log_connects=False, dry_run=False)
    kept = keep_until_restart(BASE, new)
    assert kept == replace(BASE, dry_run=False)
    changes = find_changes(BASE, new)
    assert changes.live == ("dry_run true -> false (users are refused from now on)",)
    assert changes.waiting == ("log.connects true -> false", "nft.table smtpguard -> other")
    assert render_changes(changes) == (
        "Loaded. Changed: dry_run true -> false (users are refused from now on). "
        "Waits for a restart (restart its service, as by systemctl restart smtpguard): "
        "log.connects true -> false, nft.table smtpguard -> other."
    )


def test_each_restart_key_is_kept_by_its_own_entry() -> None:
    for key, entry in ON_RELOAD.items():
        for name in entry.fields if entry.kind == "restart" else ():
            other: Any = {name: "something else"}
            new = replace(BASE, **other)
            assert keep_until_restart(BASE, new) == BASE, key
            assert find_changes(BASE, new).waiting[0].startswith(key), key


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"dry_run": False}, ["dry_run true -> false (users are refused from now on)"]),
        ({"ports": frozenset({25, 2526})}, ["ports [25, 465, 587, 2525] -> [25, 2526]"]),
        ({"rules": (replace(RULE, limit=300),)}, ["rules.hourly.limit 1000 -> 300"]),
        (
            {"rules": (replace(RULE, window_ns=600 * NS, ports=frozenset({587, 25}), action="warn"),)},
            [
                "rules.hourly.window 1h -> 10m",
                "rules.hourly.action block -> warn",
                "rules.hourly.ports null -> [25, 587]",
            ],
        ),
        ({"rules": (RULE, replace(RULE, name="more"))}, ["rules.more added"]),
        ({"rules": ()}, ["rules.hourly removed"]),
        (
            {"exempt": Exempt(users=("news",), uids=((1, 2), (5, 5)))},
            ["exempt.users [] -> [news]", "exempt.uids [] -> [5, 1-2]"],
        ),
        (
            {"exempt": Exempt(networks=(ip_network("192.0.2.0/24"),), names=("relay.example",))},
            ["exempt.destinations [] -> [192.0.2.0/24, relay.example]"],
        ),
        (
            {"exempt": Exempt(users=tuple(f"customer{n:03}" for n in range(9)))},
            ["exempt.users (added customer000, customer001, customer002, customer003, customer004 and 4 more)"],
        ),
        (
            {"escalation": Escalation(factor=1.5, max_ns=90 * 60 * NS)},
            ["escalation.factor 2 -> 1.5", "escalation.max 1d -> 90m"],
        ),
        ({"cap": Cap(rate=60, per_ns=60 * NS, burst=30)}, ["cap null -> 60/minute burst 30"]),
        ({"block_verdict": "tell"}, ["block.verdict reject -> tell"]),
        ({"state_max_bytes": 5_000_000}, ["state.max_mb 500 -> 5"]),
        ({"sources": ("bpf", "nflog")}, ["sources auto -> [bpf, nflog]"]),
        ({"path": "/elsewhere"}, []),
    ],
)
def test_changes_are_told_as_the_file_writes_them(change: dict[str, Any], told: list[str]) -> None:
    changes = find_changes(BASE, replace(BASE, **change))
    assert [*changes.live, *changes.waiting] == told


def test_changes_for_some_users_are_told_by_their_entry() -> None:
    entry = Override(match=Match(users=("shop",)), rules={"hourly": replace(RULE, limit=5)})
    one = replace(BASE, overrides=(entry,))
    other = replace(BASE, overrides=(Override(match=Match(users=("web",)), rules={"hourly": replace(RULE, limit=6)}),))
    assert find_changes(BASE, one).live == ("users 0 -> 1 entries",)
    assert find_changes(one, other).live == ("users[0].match", "users[0].rules.hourly.limit 5 -> 6")


def test_an_order_is_told_too() -> None:
    rules = (RULE, replace(RULE, name="other"))
    one, other = replace(BASE, rules=rules), replace(BASE, rules=rules[::-1])
    assert find_changes(one, other).live == ("the order of rules",)


def test_any_name_can_be_told() -> None:
    """`\u00b2` is a digit to str.isdigit and none to int(): the reload failed."""
    names = ("\u00b2", "10", "9", "\u202egnp", "b\u00fccher")
    text = render_changes(find_changes(BASE, replace(BASE, exempt=Exempt(users=names))))
    assert "exempt.users [] -> [9, 10, \\xc2\\xb2, \\xe2\\x80\\xaegnp, b\u00fccher]" in text
    assert "notify.hook null -> [/x, \\x1b[2J]" in render_changes(
        find_changes(BASE, replace(BASE, notify=replace(BASE.notify, hook=("/x", "\x1b[2J"))))
    )


def test_nothing_and_very_much() -> None:
    assert render_changes(find_changes(BASE, BASE)) == "Loaded. Nothing has changed."
    many = replace(BASE, rules=tuple(replace(RULE, name=f"r{n}") for n in range(30)))
    text = render_changes(find_changes(BASE, many), notes=["By the way"])
    assert text.count("added") == 19
    assert text.endswith(", and 11 more. By the way.")


def test_the_documentation_names_what_waits() -> None:
    text = (Path(__file__).parents[2] / "docs" / "commands.md").read_text("utf-8")
    told = text.partition("These keys wait for a restart")[2].partition("\n\n")[0]
    sections = {key.partition(".")[0] for key, entry in ON_RELOAD.items() if entry.kind == "restart"}
    assert set(re.findall("`([a-z_]+)`", told)) == sections
    assert not {key for key, entry in ON_RELOAD.items() if entry.kind == "live" and key.partition(".")[0] in sections}
