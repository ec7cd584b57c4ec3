"""The lists of the lived-in host (tests/lived/) are complete."""

import json

from smtpguard.resources import read_resource
from tests.lived.registry import HAPPENINGS
from tests.lived.schedule import NOT_YET
from tests.lived.settings import CHANGES

ELSEWHERE = {"version", "dry_run"}
"""Keys that are not changed in turn: one has one value, the other is a happening of its own."""
IDLE = {"accounts", "metrics"}
"""Keys of parts that the lived-in host does not have; they wait for a restart."""


def test_each_key_of_the_configuration_is_changed_under_the_guard() -> None:
    schema = json.loads(read_resource("config", "smtpguard.schema.json"))
    assert CHANGES.keys() | ELSEWHERE | IDLE == schema["properties"].keys()


def test_what_waits_is_a_happening() -> None:
    assert HAPPENINGS.keys() >= NOT_YET
