"""YAML (and so JSON) read as plain data, with the line of every key: safe, bounded, and strict about doubles.

Works on parser events and not on composed nodes, so that an alias bomb, a deep nest or a huge list is refused while
it is read, before anything is expanded and without recursion. Only null, booleans, numbers, text, lists and mappings
exist here: no tags, no aliases, no merge keys, no dates. YAML 1.1 as PyYAML resolves it.
"""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import yaml

from smtpguard.errors import ConfigError
from smtpguard.settings.yaml_syntax import explain_syntax, show_message

MAX_BYTES = 256 * 1024
"""Longest file read. The shipped one is 8 kB; 32 rules and 1,000 user entries are 150 kB."""
MAX_NODES = 20_000
MAX_DEPTH = 12
_MAX_BITS = 1024
"""As floats have. Of 4,300 digits and more Python makes no text, for which jsonschema asks in each of its errors."""
MAX_PROBLEMS = 20
"""How many problems are shown at once."""

Path = tuple[str | int, ...]
"""Way to a value: keys of mappings and indexes of lists."""

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml is ten times faster; not every build has it
_RESOLVER: Any = yaml.resolver.Resolver()
_CONSTRUCTOR: Any = yaml.constructor.SafeConstructor()
_TOO_DEEP = f"nested deeper than {MAX_DEPTH} levels"
_LIBYAML_TOO_DEEP = "maximum nesting depth"
"""libyaml looks ahead, and since 0.2.6 gives up at a thousand levels before it hands over the first of them."""
_NUMBERS = frozenset(f"tag:yaml.org,2002:{name}" for name in ("int", "float"))
_TYPED = _NUMBERS | {f"tag:yaml.org,2002:{name}" for name in ("null", "bool")}
_MISREAD = re.compile(r"^[-+]?0[0-9_]*[0-9]$|:")
"""`010` and `1:30`, which are 8 and 90 in YAML 1.1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong in the configuration.

    Attributes:
        path: The value concerned; () for the file as a whole.
        text: What is wrong, and what would be right.
    """

    path: Path
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A configuration file as data.

    Attributes:
        name: The file, as errors name it.
        data: The content.
        lines: Line (from 1) of every key, list item and of the whole, ().
        text: As it was read.
        doubles: Keys that are given twice; the later one is in `data`.
    """

    name: str
    data: Any
    lines: dict[Path, int]
    text: str = ""
    doubles: tuple[Problem, ...] = ()

    def line(self, path: Path) -> int:
        """The line of a value, or of what should hold it."""
        while path not in self.lines:
            path = path[:-1]
        return self.lines[path]


class SettingsError(ConfigError):
    """The configuration has problems; the message has one line for each, `file:line: text`.

    Args:
        document: Where they are.
        problems: Of any number; shown in the file's order, the first 20 of them.
    """

    def __init__(self, document: Document, problems: Iterable[Problem]) -> None:
        ordered = sorted({(document.line(p.path), p.text) for p in problems})
        self.lines = [f"{document.name}:{line}: {text}" for line, text in ordered]
        shown = self.lines[:MAX_PROBLEMS]
        if len(self.lines) > MAX_PROBLEMS:
            shown.append(f"{document.name}: and {len(self.lines) - MAX_PROBLEMS} more")
        super().__init__("\n".join(shown))


def show_path(path: Path) -> str:
    """A path as people write it: `users[0].rules.mx-burst`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{show_key(part)}" for part in path)
    return text.removeprefix(".")


def show_key(key: str) -> str:
    """A key in an error message: escaped, and cut where it is longer than any of ours could be."""
    return show_value(key) if len(key) > 40 or not key.isascii() or not key.isprintable() else key


def show_value(value: object) -> str:
    """A value in an error message: ASCII, printable, short."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and abs(value) >= 10**30:
        return "a huge number"
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:56]}...{text[-1]}"


class _Reader:
    """Puts parser events together; one frame a list or mapping that is open."""

    def __init__(self, name: str) -> None:
        self.document = Document(name=name, data=None, lines={(): 1})
        self.name = name
        self.root: Any = None
        self.frames: list[tuple[Path, dict[str, Any] | list[Any]]] = []
        self.key: list[str | None] = []
        self.doubles: list[Problem] = []
        self.nodes = 0
        self.documents = 0

    def fail(self, line: int, what: str, fix: str | None = None) -> ConfigError:
        return ConfigError(what, where=f"{self.name}:{line}", fix=fix)

    def feed(self, event: yaml.Event) -> None:
        line = event.start_mark.line + 1 if event.start_mark else 1
        if isinstance(event, yaml.DocumentStartEvent):
            self.documents += 1
            if self.documents > 1:
                raise self.fail(line, "a second YAML document: only one is read")
        elif isinstance(event, yaml.AliasEvent):
            raise self.fail(line, f"aliases are not taken: *{show_key(event.anchor or '')}", "write the value out")
        elif isinstance(event, yaml.ScalarEvent | yaml.SequenceStartEvent | yaml.MappingStartEvent):
            self.nodes += 1
            if self.nodes > MAX_NODES:
                raise self.fail(line, f"more than {MAX_NODES} values")
            if event.anchor is not None:
                raise self.fail(line, f"anchors are not taken: &{show_key(event.anchor)}", "write the value out")
            if event.tag is not None and event.tag != "!":
                raise self.fail(line, f"tags are not taken: {show_key(event.tag)}", "write the plain value")
            if isinstance(event, yaml.ScalarEvent):
                self.scalar(event, line)
            else:
                self.begin({} if isinstance(event, yaml.MappingStartEvent) else [], line)
        elif isinstance(event, yaml.SequenceEndEvent | yaml.MappingEndEvent):
            self.frames.pop()
            self.key.pop()

    def scalar(self, event: yaml.ScalarEvent, line: int) -> None:
        if any("\ud800" <= character <= "\udfff" for character in event.value):
            raise self.fail(line, "holds half a character (a surrogate)", "take it out")
        if self.frames and isinstance(self.frames[-1][1], dict) and self.key[-1] is None:
            self.begin_key(event, line)
        else:
            self.place(self.value(event, line), line)

    def begin_key(self, event: yaml.ScalarEvent, line: int) -> None:
        path, mapping = self.frames[-1]
        key = event.value  # as written: `on:` is the key "on", not true
        if key == "<<":
            raise self.fail(line, "merge keys (<<) are not taken", "write the keys out")
        if key in mapping:
            first = self.document.lines[(*path, key)]
            twice = (*path, f"{key}\0{line}")  # no key of a file: a place of its own in `lines`
            self.document.lines[twice] = line
            what = f"{show_path((*path, key))} is given twice, first in line {first} (keep one)"
            self.doubles.append(Problem(path=twice, text=what))
        else:
            self.document.lines[(*path, key)] = line
        self.key[-1] = key

    def begin(self, container: dict[str, Any] | list[Any], line: int) -> None:
        if self.frames and isinstance(self.frames[-1][1], dict) and self.key[-1] is None:
            raise self.fail(line, "a list or mapping can't be a key")
        if len(self.frames) >= MAX_DEPTH:
            raise self.fail(line, _TOO_DEEP)
        path = self.place(container, line)
        self.frames.append((path, container))
        self.key.append(None)

    def place(self, value: object, line: int) -> Path:
        """Put a value where it belongs; its path."""
        if not self.frames:
            self.root = value
            self.document.lines[()] = line
            return ()
        path, container = self.frames[-1]
        if isinstance(container, list):
            path = (*path, len(container))
            container.append(value)
            self.document.lines[path] = line
            return path
        key = self.key[-1]
        assert key is not None  # noqa: S101 - feed() and begin() see to it
        container[key] = value
        self.key[-1] = None
        return (*path, key)

    def value(self, event: yaml.ScalarEvent, line: int) -> object:
        plain = event.implicit[0] and event.tag is None
        tag = _RESOLVER.resolve(yaml.ScalarNode, event.value, (True, False)) if plain else None
        if tag not in _TYPED:
            return event.value
        if _MISREAD.search(event.value) and tag in _NUMBERS:
            what = f"{show_value(event.value)} is no decimal number, which YAML would read to the base 8 or 60"
            raise self.fail(line, what, "write a decimal number, or put text in quotes")
        try:
            value = _CONSTRUCTOR.construct_object(yaml.ScalarNode(tag, event.value))
        except (ValueError, OverflowError, IndexError) as error:  # "0b_", 5,000 digits
            raise self.fail(line, f"{show_value(event.value)} is no number", "put text in quotes") from error
        if isinstance(value, float) and not math.isfinite(value):
            raise self.fail(line, f"{show_value(event.value)} is no finite number", "put text in quotes")
        if isinstance(value, int) and value.bit_length() > _MAX_BITS:  # 0xfff...
            raise self.fail(line, f"{show_value(event.value)} is no number of use", "put text in quotes")
        # JSON Schema takes 5.0 for an integer, and what is built of it must be one.
        return int(value) if isinstance(value, float) and value.is_integer() else value


def parse_document(text: str, name: str, *, keep_doubles: bool = False) -> Document:
    """The content of a configuration file, with lines; an empty one is an empty mapping.

    Args:
        text: The whole file.
        name: What errors call it.
        keep_doubles: Note keys that are given twice in the document, for who tells of all mistakes at once.

    Raises:
        ConfigError: It is not valid YAML, has doubles, aliases, tags, or is too large or deep; with file and line.
    """
    reader = _Reader(name)
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            reader.feed(event)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = min(mark.line, text.count("\n")) + 1 if mark else 1  # libyaml puts the end of the file a line further
        if _LIBYAML_TOO_DEEP in (error.problem or ""):
            raise reader.fail(line, _TOO_DEEP) from error
        raise reader.fail(*explain_syntax(error, line, text)) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1 if isinstance(error.position, int) else 1
        raise reader.fail(line, "holds a control character", "take it out") from error
    except yaml.YAMLError as error:
        raise reader.fail(1, f"not valid YAML: {show_message(str(error))}") from error
    data = {} if reader.root is None else reader.root
    document = Document(name=name, data=data, lines=reader.document.lines, text=text, doubles=tuple(reader.doubles))
    if document.doubles and not keep_doubles:
        raise SettingsError(document, document.doubles)
    return document


def find_section(text: str, name: str) -> str | None:
    """The lines of a top-level section of a file that as a whole is not valid YAML; None if there is none of that name.

    Args:
        text: The file.
        name: Of the section.
    """
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if line.startswith(f"{name}:"):
            end = number + 1
            while end < len(lines) and (not lines[end].strip() or lines[end][0] in " #}]-"):
                end += 1
            return "\n".join(lines[number:end])
    return None
