"""Hostile text in every column: each text of what is shown is replaced in turn, known to be a tenant's or not."""

import copy
import csv
import io
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from smtpguard.cli import events, incidents, tables
from smtpguard.cli.blocks import render_blocks
from smtpguard.cli.csv_output import render_csv
from smtpguard.report.templates import make_environment
from smtpguard.report.why import build_why
from smtpguard.report.why_card import render_card
from smtpguard.report.why_texts import build_customer, build_ticket
from smtpguard.state.event_query import show_event, show_incident
from smtpguard.text import render_visible
from tests.unit.test_event_query import change, incident, verdict
from tests.unit.test_why import BLOCK, NOW_NS, RULE, live, past, place
from tests.unit.test_why_texts import CHANGE, FILE, INCIDENT, NONE, NOTE, SCRIPT

Json = Any
TEXTS = (
    "\x1b]0;x\x07\x1b[2J\r\n\u202ex\u2066\u200b\uff21\u0430\u0301\u3000\t\x00\x7f\x85\u2028\udcff\U000e0041",
    "=cmd|' /C calc'!A0",
    "a;=1+1;  +2,-3|@x",
    "\uff1d1+1",
    " =1",
)
BLOCKS = [BLOCK, BLOCK | {"kind": "allow", "rule": None}, BLOCK | {"mode": "dry-run", "ports": None}]


def show_table(head: tuple[str, ...], row: Callable[[Json], tuple[str, ...]]) -> Callable[[list[Json]], str]:
    return lambda items: "\n".join(tables.render_table(head, [row(item) for item in items]))


def show_card(parts: Json) -> str:
    return "\n".join(render_card(build_why(parts["live"], parts["past"], None)))


def show_text(name: str, language: str) -> Callable[[Json], str]:
    template = make_environment(language, is_html=False, own_files=NONE).get_template(name)

    def show(parts: Json) -> str:
        why = build_why(parts["live"], parts["past"], None)
        return template.render(build_ticket(why, "host") if name == "ticket.txt" else build_customer(why, "host"))

    return show


EVENTS = [show_event(verdict(1)), show_event(change(2, "block", block_kind="block", source="guard", rule="r")),
          show_event(change(3, "note"))]  # fmt: skip
INCIDENTS = [show_incident(incident(1), change(6, "close"), NOW_NS), show_incident(incident(2), None, NOW_NS)]
WATCHED = [{"user": "web01", "uid": 1001, "until": NOTE["time"], "by": "admin", "reason": "cleaned"}] * 3
OWN = {"address": "198.51.100.7", "connected": 5, "failed": 2, "first": NOTE["time"], "last": NOTE["time"]}
USER = {
    "live": live(watch=WATCHED[0], blocks=BLOCKS, rules=[RULE | {"now": 29, "limit_by": "rule"}]),
    "past": past(
        scripts=[SCRIPT, SCRIPT | {"script": None, "stack": [], "drivers": []}], incident=INCIDENT,
        events=[NOTE, CHANGE], evidence={"newest": [FILE]}, destinations=[place(name="mx.example.org", refused=3)],
        failed_hour=12, own_addresses=[OWN], own_unknown=3, blind=[[NOTE["time"], NOTE["time"]]], lost=2,
    ),
}  # fmt: skip
SHOWN: dict[str, tuple[Callable[[Json], str], Json]] = {
    "events": (show_table(("a",) * 5, events._row), EVENTS),
    "events --csv": (lambda items: render_csv(events.COLUMNS, items, head=False), EVENTS),
    "events --json": (json.dumps, EVENTS),
    "incidents": (show_table(("a",) * 11, incidents._row), INCIDENTS),
    "incidents --csv": (
        lambda items: render_csv(incidents.COLUMNS, map(incidents._flatten, items), head=False),
        INCIDENTS,
    ),
    "blocks": (lambda items: "\n".join(render_blocks(items, None, now=NOW_NS / 1e9)), BLOCKS),
    "blocks, watched": (lambda items: "\n".join(render_blocks([], None, items, now=NOW_NS / 1e9)), WATCHED),
    "why": (show_card, USER),
    "why --json": (lambda parts: json.dumps(build_why(parts["live"], parts["past"], None)), USER),
    "why --ticket": (show_text("ticket.txt", "en"), USER),
    "why --ticket de": (show_text("ticket.txt", "de"), USER),
    "why --customer": (show_text("customer.txt", "en"), USER),
}


def list_texts(value: Json, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to each text."""
    if isinstance(value, str):
        yield way
    for key, below in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from list_texts(below, (*way, key))


def put(value: Json, way: tuple[Any, ...], text: str) -> Json:
    changed = copy.deepcopy(value)
    inner = changed
    for key in way[:-1]:
        inner = inner[key]
    inner[way[-1]] = text
    return changed


@pytest.mark.parametrize("view", SHOWN)
def test_no_column_drives_a_terminal_breaks_a_line_or_begins_a_formula(view: str) -> None:
    show, items = SHOWN[view]
    ways = list(list_texts(items))
    assert len(ways) > 10
    for way in ways:
        if way[-1] in ("since", "until", "time", "first", "last", "ctime"):
            continue  # read as times
        if way[-1] in ("kind", "standing") or (way[-1] == "mode" and view == "why --customer"):
            continue  # words of ours, by which it is chosen what is shown
        lines = show(put(items, way, "plain")).splitlines()
        for text in TEXTS:
            shown = show(put(items, way, text))
            assert render_visible(shown.replace("\r\n", "").replace("\n", "")).count("\\") == shown.count("\\"), (
                way,
                text,
            )
            assert all(line.isprintable() for line in shown.split("\r\n" if "csv" in view else "\n")), (way, text)
            assert len(shown.splitlines()) == len(lines), (way, text)
            assert view != "why" or max(map(len, shown.splitlines())) <= 80, (way, text)
            if "csv" in view:
                check_csv(shown, way)


def check_csv(shown: str, way: tuple[Any, ...]) -> None:
    """Whatever sign a program takes for the separator."""
    for separator in ",;|":
        for row in csv.reader(io.StringIO(shown), delimiter=separator):
            assert not [cell for cell in row if re.match(r"\s*[=+\-@\uff1d]", cell)], (way, separator, row)


def test_json_is_what_it_was_and_ascii() -> None:
    for text in TEXTS:
        shown = json.dumps(put(EVENTS, (2, "reason"), text), ensure_ascii=True)
        assert shown.isascii()
        assert json.loads(shown)[2]["reason"] == text


def test_a_name_that_was_typed_reaches_no_command_as_it_is() -> None:
    """Of an account that is gone: the commands are there to be copied."""
    why = build_why(None, past(), "a b;rm -rf \x1b[2J", is_past=True)
    assert why["user"] == "a%20b%3Brm%20-rf%20%1B%5B2J"
    assert not [command for command in why["commands"] if ";" in command]
