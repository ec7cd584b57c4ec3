"""What a reader copies from the documents is right: command lines, targets of make, keys and whole configurations."""

import json
import re
import shlex
from collections.abc import Iterator
from typing import Any

import click
import pytest

from smtpguard.cli import _COMMANDS, main
from smtpguard.notify.apprise_channel import AppriseChannel
from smtpguard.notify.hook import HookChannel
from smtpguard.notify.mail import MailChannel
from smtpguard.notify.metric_families import CHANNELS
from smtpguard.notify.webhook import WebhookChannel
from smtpguard.settings.load import load_text
from tests.unit.test_documents import DOCUMENTS, TOP

_TEXTS = {str(path.relative_to(TOP)): path.read_text("utf-8") for path in DOCUMENTS}
_FENCED = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
_SCHEMA: dict[str, Any] = json.loads((TOP / "config/smtpguard.schema.json").read_text("utf-8"))
_PLACEHOLDERS = {
    "USER": "web01", "ID": "1f3a9c2b", "TEXT": "text", "T": "2h", "D": "2h", "N": "3", "S": "bpf", "F": "/tmp/f",
    "FILE": "/tmp/f", "FILE...": "/tmp/f", "PATH": "/tmp/f", "DIR": "/", "DOMAIN": "shop.example", "COMMAND": "status",
    "JAIL": "j", "L": "de", "...": "",
}  # fmt: skip
"""What a reader puts in their place."""


def _commands() -> Iterator[tuple[str, str]]:
    """Document and command line: of the blocks of text, and of what stands in the lines between backticks."""
    for name, text in _TEXTS.items():
        lines = [line.strip() for _, block in _FENCED.findall(text) for line in block.splitlines()]
        lines += re.findall(r"`([^`\n]+(?:\n[^`\n]+)?)`", _FENCED.sub("", text))
        for line in lines:
            for part in re.split(r"&&|; (?=smtpguard)|\| |See: ", re.sub(r"\s+", " ", line)):
                typed = re.fullmatch(r"(?:[#$] |.* root )?(?:\.venv/bin/)?(smtpguard(?: [^`]*)?)", part.strip())
                if typed is not None and not re.match(r"smtpguard [(/]|smtpguard \|", typed[1]):
                    yield name, typed[1].strip()


def _parse(words: list[str]) -> None:
    """As click takes them; nothing is run."""
    command: click.Command = main
    context = click.Context(main, info_name="smtpguard")
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        below = command.get_command(context, words[0])
        if below is None:
            raise click.UsageError(f"no command {words[0]}")
        command, words = below, words[1:]
        context = click.Context(command, parent=context, info_name=command.name)
    if words:  # else it is only named
        command.make_context(command.name, words, parent=context.parent)


@pytest.mark.parametrize("document", _TEXTS)
def test_command_lines_are_what_the_program_takes(document: str) -> None:
    wrong = []
    for name, typed in _commands():
        if name != document:
            continue
        try:
            line = typed.replace("--at T --for S", "--at 1771418368 --for 60")
            words = [_PLACEHOLDERS.get(word, word) for word in shlex.split(line.removesuffix(" ..."))[1:]]
            _parse([word for word in words if word])
        except click.exceptions.Exit:
            pass  # --help, --version
        except (click.ClickException, ValueError) as error:
            wrong.append((typed, str(error)))
    assert wrong == []


def test_there_are_command_lines_to_try() -> None:
    assert len(set(_commands())) > 60


def test_the_changelog_names_each_command() -> None:
    listed = re.search(r"(?m)^- Commands: (.*(?:\n  .*)*)", (TOP / "CHANGELOG.md").read_text("utf-8"))
    assert listed is not None
    assert set(re.findall(r"`(\w+)`", listed[1])) == set(_COMMANDS)


def test_targets_of_make_are_there() -> None:
    targets = set(re.findall(r"(?m)^([a-z-]+):", (TOP / "Makefile").read_text("utf-8")))
    named = {
        (name, word)
        for name, text in _TEXTS.items()
        for words in re.findall(r"(?m)(?:`|^ *[#$] )make ((?:[a-z-]+ ?)+)", text)
        for word in words.split()
    }
    assert named
    assert {one for one in named if one[1] not in targets} == set()


def _branches(part: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """All that a part of the schema may be, and of lists what is in them."""
    yield part
    if "$ref" in part:
        yield from _branches(_SCHEMA["$defs"][part["$ref"].rpartition("/")[2]])
    for below in (*part.get("anyOf", ()), *((part["items"],) if isinstance(part.get("items"), dict) else ())):
        yield from _branches(below)


def _is_key(path: list[str]) -> bool:
    parts = [_SCHEMA]
    for key in path:
        branches = [branch for part in parts for branch in _branches(part)]
        found = [branch.get("properties", {}).get(key, branch.get("additionalProperties")) for branch in branches]
        parts = [part for part in found if isinstance(part, dict)]
    return bool(parts)


def test_keys_of_the_configuration_that_are_named_are_there() -> None:
    named = {
        (name, key)
        for name, text in _TEXTS.items()
        for key in re.findall(r"`([a-z0-9_]+(?:(?:\[\])?\.[a-z0-9_]+)+)(?:: [^`]*)?`", text)
        if key.partition(".")[0].removesuffix("[]") in _SCHEMA["properties"]
        and not re.search(r"\.(py|nft|h|c|md|cache)$", key)
    }
    assert len(named) > 50
    assert {one for one in named if not _is_key(one[1].replace("[]", "").split("."))} == set()


def _configurations() -> Iterator[tuple[str, str]]:
    top = "|".join(_SCHEMA["properties"])
    for name, text in _TEXTS.items():
        for kind, block in _FENCED.findall(text):
            if kind == "yaml":
                yield name, re.sub(r"(?m)^   (?=\S| )", "", block) if block.startswith("   ") else block
        for inline in re.findall(rf"`((?:{top}): [^`]+)`", _FENCED.sub("", text)):
            if "|" not in inline:
                yield name, re.sub(r"\s+", " ", inline)


def test_configurations_are_what_the_program_takes() -> None:
    found = list(_configurations())
    assert len(found) > 15
    wrong = []
    for name, text in found:
        try:
            load_text(text, name)
        except Exception as error:  # noqa: BLE001 - each is told
            wrong.append((name, text, str(error)))
    assert wrong == []


def test_channels_of_the_metrics_are_those_that_are_there() -> None:
    assert set(CHANNELS) == {channel.type for channel in (AppriseChannel, HookChannel, MailChannel, WebhookChannel)}
