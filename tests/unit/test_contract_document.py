"""docs/contract.md says what the lines and sets are; here it is held against them."""

import re
from collections import Counter
from dataclasses import fields
from pathlib import Path
from unittest.mock import Mock

from smtpguard import logline
from smtpguard.cli import _COMMANDS
from smtpguard.daemon.serve.block_list import BlockList
from smtpguard.model import NS, Subject
from smtpguard.report.host_report import HostReport
from smtpguard.report.why import build_why
from smtpguard.state.event_query import show_event, show_incident
from smtpguard.state.rows import ChangeRow
from tests.support.policy import person
from tests.unit.test_event_query import incident, verdict
from tests.unit.test_overview import Parts
from tests.unit.test_why import live, past

TOP = Path(__file__).resolve().parents[2]
TEXT = (TOP / "docs/contract.md").read_text("utf-8")
_WITHOUT = frozenset({"time_ns", "last_ns"})
"""For paging; not printed."""


def documented(heading: str = "## The event log") -> dict[str, list[str]]:
    """Fields of each event, or object, in order."""
    block = TEXT.split(heading)[1].split("```")[1]
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


def test_commands_are_those_that_are_there() -> None:
    listed = TEXT.split("## Commands")[1].split("Exit codes")[0]
    assert re.findall(r"`(\w+)`", listed) == list(_COMMANDS)


def test_json_objects_have_the_fields_that_are_told() -> None:
    held = Mock(subject=Subject(id=1001), until_ns=2000 * NS, since_ns=0, reason="", ports=None)
    done = ChangeRow(time_ns=0, uid=None, name=None, event="on", by="admin")
    execution = Mock(refused=Counter[Subject](), account_of=lambda _: person(1001, "tenant"))
    blocks = BlockList(Mock(blocks=lambda: [held], allowances=list), execution, Mock(offset_ns=0), Parts.now)
    assert documented("### What `--json` prints") == {
        "status": list(Parts().overview.collect()),
        "blocks": list(blocks.collect()[0]),
        "why": list(build_why(live(), past(), None)),
        "events": ["events", "more"],
        "exceeded": [name for name in show_event(verdict(1)) if name not in _WITHOUT],
        "else": [name for name in show_event(done) if name not in _WITHOUT],
        "incidents": ["incidents", "more"],
        "incident": [name for name in show_incident(incident(1), None, 0) if name not in _WITHOUT],
        "report": [entry.name.removesuffix("_ns") for entry in fields(HostReport)],
    }
