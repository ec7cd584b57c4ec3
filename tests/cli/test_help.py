"""No command without help, none without documentation, and no documentation of what is not there."""

import re
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from smtpguard.cli import _COMMANDS, main

DOCUMENT = Path(__file__).resolve().parent.parent.parent / "docs" / "commands.md"
COMMON = {"--config", "--socket", "--help", "-h"}
"""Documented once, at the top."""


def leaves(command: click.Command, words: tuple[str, ...]) -> list[tuple[tuple[str, ...], click.Command]]:
    """A command, or the commands of a group, with the words that call them."""
    if not isinstance(command, click.Group):
        return [(words, command)]
    ctx = click.Context(command)
    found: list[tuple[tuple[str, ...], click.Command]] = [(words, command)] if command.invoke_without_command else []
    for name in command.list_commands(ctx):
        below = command.get_command(ctx, name)
        assert below is not None
        found += leaves(below, (*words, name))
    return found


ALL = leaves(main, ())
IDS = [" ".join(words) for words, _ in ALL]


def sections() -> dict[str, str]:
    """Command to its section; a section may be about several, named in one heading."""
    parts = re.split(r"(?m)^## smtpguard (.+)$", DOCUMENT.read_text("utf-8"))
    return {
        name.strip(): text for names, text in zip(parts[1::2], parts[2::2], strict=True) for name in names.split(", ")
    }


@pytest.mark.parametrize(("words", "command"), ALL, ids=IDS)
def test_help_says_what_the_command_and_each_option_do(words: tuple[str, ...], command: click.Command) -> None:
    result = CliRunner().invoke(main, [*words, "--help"])
    assert result.exit_code == 0
    assert result.output.startswith("Usage: ")
    assert command.help, "a command without help"
    for parameter in command.params:
        if isinstance(parameter, click.Option) and not parameter.hidden:
            assert parameter.help, f"{parameter.opts[-1]} has no help"


@pytest.mark.parametrize(("words", "command"), ALL, ids=IDS)
def test_document_names_the_command_and_each_option(words: tuple[str, ...], command: click.Command) -> None:
    name = " ".join(words)
    text = sections().get(name)
    assert text is not None, f"docs/commands.md has no section `## smtpguard {name}`"
    options = {
        option for parameter in command.params if isinstance(parameter, click.Option) for option in parameter.opts
    }
    missing = {option for option in options - COMMON if f"`{option}" not in text}
    assert not missing, f"docs/commands.md does not explain {sorted(missing)} of smtpguard {name}"


def test_document_tells_of_no_command_that_is_not_there_and_of_none_twice() -> None:
    headings = re.findall(r"(?m)^## smtpguard (.+)$", DOCUMENT.read_text("utf-8"))
    names = [name for heading in headings for name in heading.split(", ")]
    assert set(names) <= set(IDS)
    assert len(names) == len(set(names))


def test_document_tells_of_no_option_that_is_not_there() -> None:
    for words, command in ALL:
        text = sections().get(" ".join(words), "")
        real = {option for parameter in command.params for option in parameter.opts} | COMMON
        told = set(re.findall(r"(?m)^- `(--[a-z0-9-]+)", text))
        assert told <= real, f"smtpguard {' '.join(words)}"


def test_overview_has_one_line_for_every_command() -> None:
    result = CliRunner().invoke(main, ["--help"])
    for name, (_, text) in _COMMANDS.items():
        assert text.endswith("."), name
        assert re.search(rf"(?m)^  {re.escape(name)} +{re.escape(text[:30])}", result.output), name
