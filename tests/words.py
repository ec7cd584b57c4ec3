"""`make lint`: what people read. No phrase that the glossary retires, no sentence of 20 words or more in a message, and
no command that is not there.

Looked at are the documents, the shipped files, and of the package's own strings those that people read: all but
docstrings, and of the commands the docstrings too, which are their help. A part that is put in counts as one word.
"""

import ast
import re
import sys
from collections.abc import Container, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from smtpguard.cli import _COMMANDS

TOP = Path(__file__).resolve().parents[1]
GLOSSARY = "docs/glossary.md"
MAX_WORDS = 19
DOCUMENTS = ("*.md", "docs/**/*.md", "config/*", "packaging/**/*", "filters/*", "jails/**/*", "nft/*")
_RETIRED = re.compile(r"^\| (.+?) \| .+ \|$", re.MULTILINE)
_SENTENCE = re.compile(r"(?<=[.!?;])\s+|\n\s*\n|\s-\s")
_TYPED = re.compile(r"(?:`|^[$] )smtpguard ([a-z]+)", re.MULTILINE)
_ADVISED = re.compile(r"[:?] smtpguard ([a-z]+)")
"""In a message: `See: smtpguard blocks`."""
_SPEAK = frozenset(
    {"echo", "info", "warning", "error", "exception", "option", "UsageError", "BadParameter", "Finding", "finding"}
)
"""Calls whose strings are messages, beside all that raise an error of ours."""


class Text(NamedTuple):
    """Something that people read.

    Attributes:
        place: Its file and line.
        text: It; each part that is put in at run time is `X`.
        is_message: Whether it is an error, a log line, a line of a command or its help.
    """

    place: str
    text: str
    is_message: bool


def read_retired(glossary: str) -> list[str]:
    """The phrases of the glossary's second table, `| retired | say |`."""
    table = glossary.partition("## Retired")[2]
    cells = [cell.strip("` ") for cell in _RETIRED.findall(table)]
    return [cell for cell in cells if cell not in ("retired", "---")]


def find_retired(texts: Iterable[Text], retired: Iterable[str]) -> Iterator[str]:
    """Where a retired phrase stands."""
    patterns = [(phrase, re.compile(rf"\b{re.escape(phrase)}\b", re.IGNORECASE)) for phrase in retired]
    for place, text, _ in texts:
        folded = " ".join(text.split())
        for phrase, pattern in patterns:
            if pattern.search(folded):
                yield f"{place}: {phrase!r} is retired, see {GLOSSARY}"


def find_unknown_commands(texts: Iterable[Text], commands: Container[str]) -> Iterator[str]:
    """Where people are told to type a command that is not there."""
    for place, text, _ in texts:
        for name in [*_TYPED.findall(text), *(_ADVISED.findall(text) if ".py:" in place else ())]:
            if name not in commands:
                yield f"{place}: there is no command `smtpguard {name}`"


def find_long(texts: Iterable[Text]) -> Iterator[str]:
    """Sentences of messages that are too long."""
    for place, text, is_message in texts:
        if not is_message:
            continue
        for sentence in _SENTENCE.split(text):
            words = [word for word in sentence.split() if any(map(str.isalnum, word))]
            if len(words) > MAX_WORDS:
                yield f"{place}: {len(words)} words: {' '.join(sentence.split())[:150]}"


def read_documents(top: Path) -> Iterator[Text]:
    """Documents and shipped files, whole."""
    for pattern in DOCUMENTS:
        for path in sorted(top.glob(pattern)):
            name = str(path.relative_to(top))
            if path.is_file() and name != GLOSSARY and path.suffix not in (".o", ".c", ".h", ".py", ".sh"):
                yield Text(name, path.read_text("utf-8"), is_message=False)


def read_strings(path: Path, name: str, *, docstrings: bool) -> Iterator[Text]:
    """The strings of a module that people may read.

    Args:
        path: The module.
        name: What to call it.
        docstrings: Whether its functions' docstrings are help texts.
    """
    tree = ast.parse(path.read_text("utf-8"))
    inner = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)}
    said = set(_list_said(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            inner.add(id(node.value))
            continue
        if isinstance(node, ast.FunctionDef) and docstrings and _is_command(node):
            help_text = (ast.get_docstring(node) or "").partition("\nArgs:")[0]
            yield Text(f"{name}:{node.lineno}", help_text, is_message=True)
        text = _render(node) if id(node) not in inner or isinstance(node, ast.JoinedStr) else None
        if text:
            yield Text(f"{name}:{node.lineno}", text, is_message=id(node) in said)  # type: ignore[attr-defined]


def _is_command(node: ast.FunctionDef) -> bool:
    calls = [part.func if isinstance(part, ast.Call) else part for part in node.decorator_list]
    return any(isinstance(call, ast.Attribute) and call.attr in ("command", "group") for call in calls)


def _list_said(tree: ast.AST) -> Iterator[int]:
    """Strings that are handed to what speaks to people."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if called in _SPEAK or called.endswith("Error"):
            for value in (*node.args, *(keyword.value for keyword in node.keywords)):
                for part in ast.walk(value):
                    yield id(part)


def _render(node: ast.AST) -> str | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "X" for part in node.values)
    return None


def read_package(top: Path) -> Iterator[Text]:
    """All strings of the package."""
    for path in sorted((top / "smtpguard").rglob("*.py")):
        name = str(path.relative_to(top))
        yield from read_strings(path, name, docstrings=name.startswith("smtpguard/cli/"))


def main() -> int:
    """Print what is wrong; 1 if anything is."""
    retired = read_retired((TOP / GLOSSARY).read_text("utf-8"))
    if not retired:
        print(f"{GLOSSARY} retires nothing: is its table gone?")
        return 1
    texts = [*read_documents(TOP), *read_package(TOP)]
    wrong = [*find_retired(texts, retired), *find_long(texts), *find_unknown_commands(texts, _COMMANDS)]
    for line in wrong:
        print(line)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
