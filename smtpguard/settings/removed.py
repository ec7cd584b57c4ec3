"""Keys that left the schema: accepted with a warning for two minor versions, so that no upgrade stops a guard. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from smtpguard.settings.yaml_lines import Path, Problem, show_path, show_value

KEPT_MINORS = 2
"""In so many minor versions a key that left is still accepted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Removed:
    """A key that is no more.

    Attributes:
        left: The first version (major, minor) whose schema does not have it.
        use: What to write instead, or that nothing has to be.
    """

    left: tuple[int, int]
    use: str


REMOVED: Mapping[str, Removed] = MappingProxyType({})
"""Key (a path; `[]` stands for every item of a list, `*` for every key of a mapping) to what became of it.

An entry goes, too, when the version has come that refuses its key.
"""


REFUSED: Mapping[str, str] = MappingProxyType(
    {"metrics.listen": "There is no listener: every user of this host could read it. Use metrics.textfile."}
)
"""Keys that left before anything heeded them: any value but null is an error, never a warning. To what to do."""


def drop_refused(
    given: object, refused: Mapping[str, str] = REFUSED
) -> tuple[Any, tuple[Problem, ...], tuple[Problem, ...]]:
    """A configuration without keys that nothing ever heeded.

    Args:
        given: Content of the file; it is not changed.
        refused: The table.

    Returns:
        The content, an error for each such key that asks for something, and a warning for each that does not.
    """
    doomed: dict[Path, str] = {}
    problems: list[Problem] = []
    warnings: list[Problem] = []
    for key, sentence in refused.items():
        for path in _find(given, key.replace("[]", ".[]").split("."), ()):
            doomed[path] = sentence
            value = _look_up(given, path)
            shown = show_path(path) if value is None else f"{show_path(path)}: {show_value(value)}"
            problem = Problem(path=path, text=f"{shown}: this key is no more. {sentence}")
            (warnings if value is None else problems).append(problem)
    return _copy(given, (), doomed) if doomed else given, tuple(problems), tuple(warnings)


def _look_up(value: Any, path: Path) -> object:  # noqa: ANN401 - any YAML
    for part in path:
        value = value[part]
    return value


def drop_removed(
    given: object, version: str, removed: Mapping[str, Removed] = REMOVED
) -> tuple[Any, tuple[Problem, ...]]:
    """A configuration without keys that have left and are still accepted.

    Args:
        given: Content of the file; it is not changed.
        version: This program's.
        removed: The table.

    Returns:
        The content, and a warning for each key that was there.
    """
    doomed: dict[Path, str] = {}
    for key, entry in removed.items():
        if not is_accepted(entry, version):
            continue
        major, minor = entry.left
        for path in _find(given, key.replace("[]", ".[]").split("."), ()):
            doomed[path] = (
                f"the key {show_path(path)!r} is not heeded since version {major}.{minor}: {entry.use} "
                f"(an error from {major}.{minor + KEPT_MINORS} on)"
            )
    if not doomed:
        return given, ()
    return _copy(given, (), doomed), tuple(Problem(path=path, text=text) for path, text in doomed.items())


def is_accepted(entry: Removed, version: str) -> bool:
    """Whether a version still accepts a key that left; a new major version is the next minor one."""
    major, minor = map(int, version.split(".")[:2])
    since = minor - entry.left[1] if major == entry.left[0] else (major - entry.left[0]) * (minor + 1)
    return 0 <= since < KEPT_MINORS


def _find(value: object, parts: list[str], path: Path) -> Iterator[Path]:
    """The paths in a value that a way leads to."""
    if not parts:
        yield path
    elif parts[0] == "[]" and isinstance(value, list):
        for index, item in enumerate(value):
            yield from _find(item, parts[1:], (*path, index))
    elif isinstance(value, dict):
        for key in value if parts[0] == "*" else [parts[0]] if parts[0] in value else []:
            yield from _find(value[key], parts[1:], (*path, key))


def _copy(value: Any, path: Path, doomed: Mapping[Path, str]) -> Any:  # noqa: ANN401 - any YAML
    if isinstance(value, dict):
        return {key: _copy(inner, (*path, key), doomed) for key, inner in value.items() if (*path, key) not in doomed}
    if isinstance(value, list):
        return [_copy(item, (*path, index), doomed) for index, item in enumerate(value)]
    return value
