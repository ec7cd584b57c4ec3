"""What a reload does with each key of the configuration: `live` is in force at once, `restart` waits. Pure.

The fields of the settings say it (`keys.py`): the daemon keeps what waits as it is, and tells what has changed and what
waits. A key of the schema without a field turns a test red, and so does a live key without a test of what it does.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import Any

from smtpguard.model import NS
from smtpguard.settings import Cap, Override, Rule, Settings
from smtpguard.settings.keys import Kind, list_keys
from smtpguard.text import render_visible

MAX_TOLD = 20
"""Changes that are named one by one."""
RESTART = "restart its service, as by systemctl restart smtpguard"
"""Its unit may be called otherwise: that command would end another guard."""
_MAX_LIST_CHARS = 60
"""A list that is longer in words is told by what came and went."""
_SECRET = frozenset({"notify.webhooks", "notify.urls", "listed.zones"})
"""Keys whose values hold passwords, or a customer's key for a block list: not for the log."""
_UNITS = (("d", 86_400), ("h", 3600), ("m", 60), ("s", 1))
_RATES = {1: "second", 60: "minute", 3600: "hour", 86_400: "day"}


@dataclass(frozen=True, slots=True)
class OnReload:
    """What a reload does with a key.

    Attributes:
        kind: `live`: in force at once; `restart`: the old value holds until the daemon is started anew.
        fields: Where its value is in Settings; none for a key that has only one.
    """

    kind: Kind
    fields: tuple[str, ...] = ()


def _list_on_reload() -> dict[str, OnReload]:
    """Each key, in the order of the settings; `version` has one value only."""
    found = {"version": OnReload("live")}
    for name, key in list_keys(Settings):
        before = found.get(key.name, OnReload(key.kind))
        found[key.name] = OnReload(key.kind, (*before.fields, name))
    return found


ON_RELOAD: Mapping[str, OnReload] = MappingProxyType(_list_on_reload())
"""Key of the configuration to what a reload does with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What two configurations have different, in words.

    Attributes:
        live: `key old -> new`, in force after a reload.
        waiting: The same of keys that need a restart.
    """

    live: tuple[str, ...] = ()
    waiting: tuple[str, ...] = ()


def keep_until_restart(old: Settings, new: Settings) -> Settings:
    """The new configuration as far as a running guard can take it: what needs a restart stays as it is."""
    kept = [name for entry in ON_RELOAD.values() if entry.kind == "restart" for name in entry.fields]
    return replace(new, **{name: getattr(old, name) for name in kept})


def find_changes(old: Settings, new: Settings) -> Changes:
    """What is different.

    Args:
        old: The configuration in force.
        new: The one that was read.
    """
    told: dict[str, list[str]] = {"live": [], "restart": []}
    for key, entry in ON_RELOAD.items():
        before, after = ([_get(settings, name) for name in entry.fields] for settings in (old, new))
        if before != after:
            told[entry.kind] += _tell(key, entry.fields, before, after)
    return Changes(live=tuple(told["live"]), waiting=tuple(told["restart"]))


def render_changes(changes: Changes, *, notes: Iterable[str] = (), restart: str = RESTART) -> str:
    """What a reload has done, for people, as in `Loaded. Changed: ports [25] -> [25, 587], rules.x.limit 9 -> 5`.

    Args:
        changes: What was different.
        notes: What else they have to know, as sentences without their full stop.
        restart: What to type, or to do, so that it is started anew.
    """
    sentences = [f"Changed: {_join(changes.live)}" if changes.live else "Nothing that a reload can change has changed"]
    if not changes.live and not changes.waiting:
        sentences = ["Nothing has changed"]
    if changes.waiting:
        sentences.append(f"Waits for a restart ({restart}): {_join(changes.waiting)}")
    return " ".join(f"{sentence}." for sentence in ("Loaded", *sentences, *notes))


def _join(texts: tuple[str, ...]) -> str:
    more = f", and {len(texts) - MAX_TOLD} more" if len(texts) > MAX_TOLD else ""
    return ", ".join(texts[:MAX_TOLD]) + more


def _get(settings: Settings, name: str) -> Any:  # noqa: ANN401 - a value of any key
    value: Any = settings
    for part in name.split("."):
        value = getattr(value, part)
    return value


def _tell(key: str, names: tuple[str, ...], before: list[Any], after: list[Any]) -> Iterator[str]:
    """A key's changes."""
    if key == "rules":
        yield from _tell_rules(key, _by_name(before[0]), _by_name(after[0]))
        if [rule.name for rule in before[0]] != [rule.name for rule in after[0]] and _same_names(before[0], after[0]):
            yield "the order of rules"
    elif key == "users":
        yield from _tell_users(before[0], after[0])
    elif key in _SECRET:
        yield f"{key} ({len(before[0] or ())} -> {len(after[0] or ())} entries)"
    elif isinstance(before[0], (tuple, frozenset)) and isinstance(after[0], (tuple, frozenset)):
        yield _tell_list(key, *(_list(values) for values in (before, after)))
    else:
        yield f"{key} {_show(names[0], before[0])} -> {_show(names[0], after[0])}{_explain(key, after[0])}"


def _explain(key: str, value: object) -> str:
    if key != "dry_run":
        return ""
    return " (nobody is refused from now on)" if value else " (users are refused from now on)"


def _list(values: Iterable[Iterable[Any]]) -> list[str]:
    """What a list holds, its fields together, as it is written."""
    shown = [_show("", value) for part in values for value in (sorted(part) if isinstance(part, frozenset) else part)]
    return sorted(dict.fromkeys(shown), key=lambda text: (not text.isdecimal(), int(text) if text.isdecimal() else 0))


def _tell_list(key: str, before: list[str], after: list[str]) -> str:
    text = f"{key} [{', '.join(before)}] -> [{', '.join(after)}]"
    if len(text) - len(key) <= _MAX_LIST_CHARS:
        return text
    parts = [
        f"{word} {', '.join(some[:5])}{f' and {len(some) - 5} more' if len(some) > 5 else ''}"
        for word, these, those in (("added", after, before), ("removed", before, after))
        if (some := [value for value in these if value not in set(those)])
    ]
    return f"{key} ({'; '.join(parts) or 'another order'})"


def _by_name(rules: Iterable[Rule]) -> dict[str, Rule]:
    return {rule.name: rule for rule in rules}


def _same_names(before: Iterable[Rule], after: Iterable[Rule]) -> bool:
    return _by_name(before).keys() == _by_name(after).keys()


def _tell_rules(key: str, before: Mapping[str, Rule], after: Mapping[str, Rule]) -> Iterator[str]:
    for name in {**before, **after}:
        old, new = before.get(name), after.get(name)
        if old is None or new is None:
            yield f"{key}.{name} {'added' if old is None else 'removed'}"
            continue
        for field in fields(Rule):
            values = getattr(old, field.name), getattr(new, field.name)
            if values[0] != values[1]:
                shown = [
                    f"[{', '.join(_list([value]))}]" if isinstance(value, frozenset) else _show(field.name, value)
                    for value in values
                ]
                yield f"{key}.{name}.{field.name.removesuffix('_ns')} {shown[0]} -> {shown[1]}"


def _tell_users(before: tuple[Override, ...], after: tuple[Override, ...]) -> Iterator[str]:
    if len(before) != len(after):
        yield f"users {len(before)} -> {len(after)} entries"
    for index, (old, new) in enumerate(zip(before, after, strict=False)):
        if old.match != new.match:
            yield f"users[{index}].match"
        yield from _tell_rules(f"users[{index}].rules", old.rules, new.rules)


def _show(name: str, value: object) -> str:
    """A value as it is written in the file."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int() if name.endswith("_ns"):
            return _show_duration(value)
        case int() if name.endswith("_bytes"):
            return str(value // 1_000_000)
        case float():
            return f"{value:g}"
        case Cap():
            return f"{value.rate}/{_RATES.get(value.per_ns // NS, _show_duration(value.per_ns))} burst {value.burst}"
        case (int() as first, int() as last):
            return f"{first}" if first == last else f"{first}-{last}"
        case tuple():
            return f"[{', '.join(_show('', item) for item in value)}]"
    return render_visible(str(value))


def _show_duration(span_ns: int) -> str:
    seconds = span_ns // NS
    return next((f"{seconds // size}{unit}" for unit, size in _UNITS if seconds and seconds % size == 0), f"{seconds}s")
