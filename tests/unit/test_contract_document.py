"""docs/contract.md says what the lines and sets are; here it is held against them."""

import re
from pathlib import Path

from smtpguard import logline

TOP = Path(__file__).resolve().parents[2]
TEXT = (TOP / "docs/contract.md").read_text("utf-8")


def documented() -> dict[str, list[str]]:
    """Fields of each event, in order."""
    block = TEXT.split("## The event log")[1].split("```")[1]
    lines = re.sub(r"\n +", " ", block.strip()).splitlines()
    return {words[0]: [word.split("=")[0] for word in words[1:]] for words in map(str.split, lines)}


def test_fields_of_each_event_stand_in_the_order_that_is_written() -> None:
    written = {event: list(shape.groupindex) for event, shape in logline._SHAPES.items()}
    assert documented() == {event: fields for event, fields in written.items() if event != "MESSAGE"}, (
        "MESSAGE is for the mail servers' sources, which are not there yet"
    )


def test_every_set_of_the_table_is_named() -> None:
    sets = set(re.findall(r"^\tset (\w+) ", (TOP / "nft/table.nft").read_text("utf-8"), re.MULTILINE)) - {"ports"}
    named = set(re.findall(r"`(\w+)`", TEXT.split("## nftables")[1].split("## Make")[0]))
    assert sets <= named


def test_make_targets_are_those_of_the_makefile() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (TOP / "Makefile").read_text("utf-8"), re.MULTILINE))
    assert {word.split()[0] for word in re.findall(r"`([^`]+)`", TEXT.split("## Make")[1])} - targets == {"make"}
