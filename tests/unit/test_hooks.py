"""Hooks between parts are protocols with names: a `Callable` once let a call through that ended the daemon."""

import ast
from pathlib import Path

import pytest

import smtpguard

PACKAGE = Path(smtpguard.__file__).parent


def find_callables(text: str) -> list[int]:
    """Lines that use `Callable` of typing or collections.abc, whatever its arguments."""
    nodes = ast.walk(ast.parse(text))
    return sorted(node.lineno for node in nodes if isinstance(node, ast.expr) and _is_callable(node))


def _is_callable(node: ast.expr) -> bool:
    return (isinstance(node, ast.Name) and node.id == "Callable") or (
        isinstance(node, ast.Attribute) and node.attr == "Callable"
    )


def test_nothing_that_is_called_hides_its_arguments() -> None:
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        lines = find_callables(path.read_text("utf-8"))
        place = path.relative_to(PACKAGE)
        found += [f"{place}:{line}: say what is called, with a Protocol (smtpguard/hooks.py)" for line in lines]
    assert found == []


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("hook: Callable[..., None]", 1),
        ("hook: typing.Callable[..., None]", 1),
        ("F = TypeVar('F', bound=Callable[..., Any])", 1),
        ("hook: Callable", 1),
        ("hook: Callable[[int], None] | None = None", 1),
        ("hook: Callable[[Callable[[int], None]], None]", 2),
        ("hook: ClockNs", 0),
    ],
)
def test_what_the_check_finds(text: str, count: int) -> None:
    assert len(find_callables(text)) == count
