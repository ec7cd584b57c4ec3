"""Hooks between parts are protocols with names: a `Callable` once let a call through that ended the daemon."""

import ast
from pathlib import Path

import pytest

import smtpguard

PACKAGE = Path(smtpguard.__file__).parent


def find_callables(text: str, *, any_at_all: bool) -> list[int]:
    """Lines that use a `Callable[...]`: at all, or with `...` for its arguments, or bare."""
    tree = ast.parse(text)
    found = []
    plain = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Subscript)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript) and _is_callable(node.value):
            arguments = node.slice.elts[0] if isinstance(node.slice, ast.Tuple) else None
            if any_at_all or (isinstance(arguments, ast.Constant) and arguments.value is ...):
                found.append(node.lineno)
        elif isinstance(node, ast.expr) and _is_callable(node) and id(node) not in plain:
            found.append(node.lineno)
    return found


def _is_callable(node: ast.expr) -> bool:
    return (isinstance(node, ast.Name) and node.id == "Callable") or (
        isinstance(node, ast.Attribute) and node.attr == "Callable"
    )


def test_no_hook_of_the_daemon_is_a_callable_and_nowhere_are_arguments_hidden() -> None:
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        place = path.relative_to(PACKAGE)
        lines = find_callables(path.read_text("utf-8"), any_at_all=place.parts[0] == "daemon")
        found += [f"{place}:{line}: say what is called, with a Protocol (smtpguard/hooks.py)" for line in lines]
    assert found == []


@pytest.mark.parametrize(
    ("text", "hidden", "at_all"),
    [
        ("hook: Callable[..., None]", 1, 1),
        ("hook: typing.Callable[..., None]", 1, 1),
        ("F = TypeVar('F', bound=Callable[..., Any])", 1, 1),
        ("hook: Callable", 1, 1),
        ("hook: Callable[[int], None] | None = None", 0, 1),
        ("hook: Callable[P, None]", 0, 1),
        ("hook: Now", 0, 0),
    ],
)
def test_what_the_check_finds(text: str, hidden: int, at_all: int) -> None:
    assert len(find_callables(text, any_at_all=False)) == hidden
    assert len(find_callables(text, any_at_all=True)) == at_all
