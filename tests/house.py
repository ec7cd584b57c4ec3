"""`make lint`: what keeps the rooms of the package readable, and what no linter looks at.

No module has more than 300 lines, no two classes share a name, no module is called by a gerund. What does not hold yet
stands below, by name; an entry that is not needed any more is an error too, so that the lists only get shorter.
"""

import ast
import os
import re
import sys
from collections import defaultdict
from collections.abc import Container, Iterable, Iterator
from pathlib import Path

TOP = Path(__file__).resolve().parents[1]
MAX_LINES = 300
NOUNS = frozenset({"finding", "standing", "pairing"})
"""They end like gerunds: what doctor finds, what an account is allowed to be, two reports of one connection."""

LONG: tuple[str, ...] = ()
TWICE: tuple[str, ...] = ()
GERUNDS: tuple[str, ...] = ()


def find_long(package: Path) -> Iterator[str]:
    """Modules of more than MAX_LINES lines, as paths below the package."""
    for path in sorted(package.rglob("*.py")):
        if len(path.read_bytes().splitlines()) > MAX_LINES:
            yield str(path.relative_to(package))


def find_twice(package: Path) -> Iterator[str]:
    """Names of classes that are in the package more than once, those of one module among them."""
    places: defaultdict[str, int] = defaultdict(int)
    for path in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.ClassDef):
                places[node.name] += 1
    yield from sorted(name for name, count in places.items() if count > 1)


def find_gerunds(package: Path) -> Iterator[str]:
    """Modules and rooms whose name is what somebody does, not what it is."""
    for path in sorted(package.rglob("*.py")):
        name = path.parent.name if path.name == "__init__.py" else path.stem
        last = name.rpartition("_")[2]
        if last.endswith("ing") and last not in NOUNS:
            yield str(path.relative_to(package))


def compare(what: str, found: Iterable[str], excepted: Iterable[str]) -> list[str]:
    """What is wrong, a line each: what is not excepted, and what is for nothing."""
    now, before = set(found), set(excepted)
    new = [f"{name}: {what}" for name in sorted(now - before)]
    return new + [
        f"{name}: it is not {what} now: take it out of the list (tests/house.py --prune)"
        for name in sorted(before - now)
    ]


def check(package: Path) -> list[str]:
    """All that is wrong."""
    return [
        *compare(f"of more than {MAX_LINES} lines", find_long(package), LONG),
        *compare("the name of two classes", find_twice(package), TWICE),
        *compare("called by a gerund", find_gerunds(package), GERUNDS),
    ]


def prune(package: Path) -> None:
    """Take out of the lists here what is not needed any more."""
    needed = {*find_long(package), *find_twice(package), *find_gerunds(package)}
    path = Path(__file__)
    kept = [line for line in path.read_text().splitlines(keepends=True) if is_needed(line, needed)]
    path.write_text("".join(kept))


def is_needed(line: str, needed: Container[str]) -> bool:
    """Whether a line of this file has to stay."""
    entry = re.fullmatch(r'    "([\w./]+)",\n', line)
    return entry is None or entry[1] in needed


def main() -> int:
    """The exit code: 1 where something is wrong; `--prune` mends the lists first."""
    if "--prune" in sys.argv[1:]:
        prune(TOP / "smtpguard")
        os.execv(sys.executable, [sys.executable, __file__])  # noqa: S606 - with the lists as they are now
    wrong = check(TOP / "smtpguard")
    for line in wrong:
        print(line, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
