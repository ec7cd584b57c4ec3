"""What is wrong with a configuration: against the JSON Schema, against itself, and against what is built.

Pure: data in, problems out, each with the way to the value it concerns. Here is what a schema can't say.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from smtpguard import __version__
from smtpguard.settings import DAY_NS
from smtpguard.settings.build import is_shipped
from smtpguard.settings.formats import parse_formats
from smtpguard.settings.listed import SHORTEST_NS
from smtpguard.settings.schema_errors import as_schema_fault, explain_fault, find_nearest, find_schema_faults
from smtpguard.settings.yaml_lines import Path, Problem, show_key, show_path, show_value

MAX_LIMIT = 1_000_000
"""Highest limit of anything that is remembered one by one (all but bytes): 8 bytes for each and every user."""
MAX_WINDOW_NS = 31 * DAY_NS
_NEED_BPF = ("failures", "bytes")
_VERSION = ".".join(__version__.split(".")[:2])


@dataclass(frozen=True, slots=True)
class Checked:
    """What came of a check.

    Attributes:
        problems: All that is wrong.
        data: The configuration with its notations read; to be built where there are no problems.
    """

    problems: list[Problem]
    data: Any


def check(given: object, defaults: Mapping[str, Any], schema: Mapping[str, Any], unbuilt: Mapping[str, str]) -> Checked:
    """Find everything that is wrong with a configuration as its file gives it, and read its notations on the way.

    Args:
        given: Content of the file.
        defaults: The shipped configuration with its notations read, for what the file does not give.
        schema: The JSON Schema.
        unbuilt: Settings that are refused because nothing would carry them out, see `find_unbuilt`.
    """
    parsed = parse_formats(given, schema)
    faults = [*find_schema_faults(given, schema), *map(as_schema_fault, parsed.faults)]
    problems = [problem for fault in faults for problem in explain_fault(fault, schema)]
    if isinstance(given, dict):
        # What the schema refused is taken out, so that the rest can still be judged and all is told at once.
        doomed = [fault.path for fault in faults if fault.spoils_value]
        problems += find_unbuilt(_drop(given, doomed), unbuilt)
        sound = _drop(parsed.data, doomed)
        if all(key in sound for key in ("ports", "sources", "rules") if key in given):
            problems += _find_contradictions(sound, defaults, given)
    return Checked(problems, parsed.data)


def _drop(data: Any, paths: Iterable[Path]) -> Any:  # noqa: ANN401
    """A copy without the values at some paths; in lists None stands in their place."""
    doomed = set(paths)

    def copy(value: Any, path: Path) -> Any:  # noqa: ANN401
        if isinstance(value, dict):
            return {k: copy(v, (*path, k)) for k, v in value.items() if (*path, k) not in doomed}
        if isinstance(value, list):
            return [None if (*path, i) in doomed else copy(v, (*path, i)) for i, v in enumerate(value)]
        return value

    return {} if () in doomed else copy(data, ())


def find_unbuilt(given: Any, unbuilt: Mapping[str, str]) -> Iterator[Problem]:  # noqa: ANN401
    """Settings that ask for something which nothing would carry out.

    Args:
        given: Content of the file.
        unbuilt: Key to sentence. The key is a path in which `[]` stands for every list item, and which values of it
            are meant: `a.b` any but null, false and empty; `a.b=x|y` these; `a.b!=x|y` all others.
    """
    for key, sentence in unbuilt.items():
        match = re.fullmatch(r"([^=!]+)(?:(!?=)(.*))?", key)
        if match is None:
            raise ValueError(f"no such notation: {key!r}")
        named = frozenset((match[3] or "").split("|"))
        for path, value in _walk(given, match[1].replace("[]", ".[]").split("."), ()):
            meant = bool(value) if match[2] is None else (str(value) in named) == (match[2] == "=")
            if meant:
                shown = "" if isinstance(value, list | dict) else f": {show_value(value).strip(chr(39))}"
                yield Problem(
                    path=path, text=f"{show_path(path)}{shown} is not supported in version {_VERSION}. {sentence}"
                )


def _walk(value: Any, parts: list[str], path: Path) -> Iterator[tuple[Path, Any]]:  # noqa: ANN401
    if not parts:
        if value is not None:
            yield path, value
    elif parts[0] == "[]" and isinstance(value, list):
        for index, item in enumerate(value):
            yield from _walk(item, parts[1:], (*path, index))
    elif isinstance(value, dict) and parts[0] in value:
        yield from _walk(value[parts[0]], parts[1:], (*path, parts[0]))


def _find_contradictions(given: dict[str, Any], defaults: Mapping[str, Any], written: Any) -> Iterator[Problem]:  # noqa: ANN401
    """What only several values together can have wrong. `given` holds nothing the schema refused, but may lack keys.

    `written` is the same as the file has it, to be shown.
    """
    ports = given.get("ports", defaults["ports"])
    sources = given.get("sources", defaults["sources"])
    rules = {i: rule for i, rule in enumerate(given.get("rules") or ()) if isinstance(rule, dict)}
    metrics = given.get("metrics") or {}
    if metrics.get("users") and metrics.get("group") is None:
        text = "metrics.users: true needs metrics.group. Every user could read the others' figures else"
        yield Problem(path=("metrics", "users"), text=text)
    every = (given.get("listed") or {}).get("every")
    if every is not None and every < SHORTEST_NS:
        text = f"listed.every: {written['listed']['every']} is shorter than 10m. Lists refuse who asks more often"
        yield Problem(path=("listed", "every"), text=text)
    customers = (given.get("notify") or {}).get("customers") or {}
    if customers.get("enabled") and customers.get("from") is None:
        text = "notify.customers.enabled: true needs notify.customers.from: the address that answers and bounces go to"
        yield Problem(path=("notify", "customers", "enabled"), text=text)
    if customers.get("delay", 0) > DAY_NS:
        text = "notify.customers.delay: longer than 1d: by then nobody is told"
        yield Problem(path=("notify", "customers", "delay"), text=text)
    first: dict[str, int] = {}
    for index, rule in rules.items():
        path: Path = ("rules", index)
        name = rule.get("name")
        if name is not None and first.setdefault(name, index) != index:
            yield Problem(path=(*path, "name"), text=f"rules[{index}].name: {name!r} is already rules[{first[name]}]")
        strange = [port for port in rule.get("ports") or () if port not in ports]
        if strange and None not in ports:
            text = f"rules[{index}].ports: {', '.join(map(str, strange))} not among the guarded ports {ports}"
            yield Problem(path=(*path, "ports"), text=text)
        count = rule.get("count")
        if count in _NEED_BPF and sources != "auto" and "bpf" not in sources and not is_shipped(rule, defaults, ports):
            text = f"rules[{index}].count: {count!r} needs the source bpf, but sources is {show_sources(sources)}"
            yield Problem(path=(*path, "count"), text=text)
        yield from _find_excess(path, rule, count, written)
    names = [r["name"] for r in rules.values() if "name" in r] if "rules" in given else None
    known = [rule["name"] for rule in defaults["rules"]] if names is None else names
    shipped = {} if "rules" in given else {rule["name"]: rule.get("ports") for rule in defaults["rules"]}
    unguarded = {name for name, of in shipped.items() if of and set(ports).isdisjoint(of)}
    counts = {r.get("name"): r.get("count") for r in (defaults["rules"] if names is None else rules.values())}
    for index, entry in enumerate(given.get("users") or ()):
        for name, change in ((entry or {}).get("rules") or {}).items():
            path = ("users", index, "rules", name)
            if name in unguarded:
                text = f"users[{index}].rules: the shipped rule {name!r} is for ports that are not guarded"
                yield Problem(path=path, text=text)
            elif name not in known:
                near = find_nearest(name, known) or f"; known are {', '.join(known) or 'none'}"
                yield Problem(path=path, text=f"users[{index}].rules: no rule is called {show_key(name)!r}{near}")
            else:
                yield from _find_excess(path, change, counts[name], written)


def _find_excess(path: Path, rule: dict[str, Any], count: str | None, written: Any) -> Iterator[Problem]:  # noqa: ANN401
    limit = rule.get("limit")
    if limit is not None and limit > MAX_LIMIT and count not in ("bytes", None):
        text = f"{show_path((*path, 'limit'))}: {limit} is more than {MAX_LIMIT}"
        yield Problem(path=(*path, "limit"), text=text)
    window = rule.get("window")
    if window is not None and window > MAX_WINDOW_NS:
        for part in (*path, "window"):
            written = written[part]
        yield Problem(path=(*path, "window"), text=f"{show_path((*path, 'window'))}: {written} is longer than 31d")


def show_sources(sources: str | Sequence[Any]) -> str:
    """`sources` as it is written."""
    return sources if isinstance(sources, str) else f"[{', '.join(map(str, sources))}]"
