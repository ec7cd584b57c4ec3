"""What `make lint` finds in messages and documents."""

import ast
from pathlib import Path

from tests.words import (
    GLOSSARY,
    TOP,
    Text,
    find_long,
    find_retired,
    find_unknown_commands,
    main,
    read_retired,
    read_strings,
)

LONG = "one two three four five six seven eight nine ten " + " ".join(map(str, range(11, 21)))


def test_a_retired_phrase_is_found_over_the_end_of_a_line_and_no_part_of_a_word() -> None:
    retired = ["in earnest", "a pass"]
    texts = [
        Text("a.md", "It takes it In\n  earnest.", is_message=False),
        Text("b.md", "a passage in earnestness", is_message=False),
    ]
    assert list(find_retired(texts, retired)) == [f"a.md: 'in earnest' is retired, see {GLOSSARY}"]


def test_a_message_is_told_from_other_strings_and_its_parts_count_as_words(tmp_path: Path) -> None:
    path = tmp_path / "m.py"
    path.write_text(
        f'"""{LONG}"""\nNAME = "{LONG}"\nraise GuardError(f"{LONG[4:]} {{NAME}}")\nlog.info("a. {LONG[4:]}")\n'
    )
    ast.parse(path.read_text())
    (found,) = find_long(read_strings(path, "m.py", docstrings=False))
    assert found.startswith("m.py:3: 20 words: two three four")


def test_a_command_that_is_not_there_is_not_named() -> None:
    texts = [
        Text("a.md", "Then `smtpguard blocks`, and `smtpguard explain web01`.", is_message=False),
        Text("m.py:3", "OUT OF SYNC. Repair: smtpguard nft ensure. See: smtpguard explain web01", is_message=True),
        Text("b.md", "The guard: smtpguard sees all.", is_message=False),
    ]
    assert list(find_unknown_commands(texts, {"blocks", "nft"})) == [
        "a.md: there is no command `smtpguard explain`",
        "m.py:3: there is no command `smtpguard explain`",
    ]


def test_help_is_the_docstring_of_a_command(tmp_path: Path) -> None:
    path = tmp_path / "m.py"
    path.write_text(f'@click.command("x")\ndef command() -> None:\n    """{LONG}."""\n')
    (found,) = find_long(read_strings(path, "m.py", docstrings=True))
    assert "20 words" in found


def test_the_glossary_retires_what_it_defines_anew_and_this_tree_keeps_to_it() -> None:
    text = (TOP / GLOSSARY).read_text()
    assert {"in earnest", "second sight", "nobody keeps the clock right"} <= set(read_retired(text))
    defined = text.partition("## Retired")[0].count("\n| ") - 2
    assert 40 <= defined <= 50
    assert main() == 0
