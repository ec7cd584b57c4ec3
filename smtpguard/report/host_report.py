"""What `report` tells of the whole host in a span of time: one object, from which text, html and json are made.

Names that end in `_ns` are wall times, which JSON has as ISO 8601 without that ending. Untrusted text is escaped
already (users, scripts, names, errors) but for `reason`, which is as somebody typed it. None is "not known", never
zero.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

from smtpguard.logline import render_time


@dataclass(frozen=True, slots=True, kw_only=True)
class UserFigures:
    """A user. `verdicts` are all of theirs, `would` those of a dry run among them."""

    user: str
    uid: int
    connects: int
    refused: int
    messages: int | None
    recipients: int | None
    verdicts: int
    would: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptFigures:
    """A script, or one file that many users have: `sha256` is known where it was looked at with a verdict."""

    script: str
    sha256: str | None
    paths: tuple[str, ...]
    path_count: int
    users: tuple[str, ...]
    user_count: int
    connects: int
    refused: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DestinationFigures:
    """Where to. `name` is what reverse DNS said; `connected` and `failed` are what became of those let through."""

    address: str
    port: int
    name: str | None
    provider: str | None
    users: int
    connects: int
    refused: int
    connected: int | None
    failed: int | None
    error: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderFigures:
    """All addresses whose names are of one provider."""

    provider: str
    addresses: int
    connects: int
    refused: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PortFigures:
    """A port."""

    port: int
    connects: int
    refused: int


@dataclass(frozen=True, slots=True, kw_only=True)
class VerdictFigures:
    """Verdicts of one rule, action and mode. `containers` are those that concern nobody on this host."""

    rule: str
    action: str
    mode: str
    count: int
    containers: int
    users: int
    first_ns: int
    last_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedBlock:
    """A block or throttle that began, went on or ended in that time; no `since_ns` if it began before."""

    user: str
    uid: int | None
    kind: str
    ports: tuple[int, ...] | None
    by: str
    who: str | None
    rule: str | None
    mode: str
    since_ns: int | None
    until_ns: int | None
    ended_ns: int | None
    ended_by: str | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnUser:
    """Who connected from one of the host's own addresses, and from when to when it is known of."""

    user: str
    uid: int
    connected: int
    failed: int
    first_ns: int
    last_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnFigures:
    """One of the host's own addresses, as a block list names it; `users` are the busiest ones."""

    address: str
    connected: int
    failed: int
    users: tuple[OwnUser, ...]
    user_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FullWindow:
    """The fullest window of a user and rule that exceeded nothing. `at_most`: it held no more than that."""

    user: str
    uid: int
    rule: str
    count: str
    window: int
    held: int
    limit: int
    at_most: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """From when to when nothing was watched."""

    since_ns: int
    until_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """Attempts in a step of time."""

    at_ns: int
    connects: int
    refused: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One of the busiest users over time; steps without an attempt are left out."""

    user: str
    uid: int
    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class HostReport:
    """The whole.

    Attributes:
        host: Its name.
        since_ns, until_ns: Of what time.
        places_since_ns, places_until_ns: The same for destinations and scripts: the full hours that it touches.
        watched_s: For how many seconds of it a source saw.
        connects, refused, messages, recipients: Of all users.
        user_count, script_count, destination_count: How many there are; the lists are bounded.
        unnamed: Attempts whose script is not known.
        own_addresses: From which addresses of the host's own users connected, by full hours; the list is bounded.
        own_count: How many addresses there are.
        own_unknown: Attempts let through of which none is known; None if it took too long to read.
        losses: What the sources and the record lost, by kind; None if it was not written down then.
        fullest: The ten fullest windows without a verdict; None if they could not be worked out.
        step: Minutes from point to point of the curves.
        month: Attempts by the hour, up to the end, for 30 days; None if that took too long.
        blind_month: When nothing was watched in these.
        unseen: What can't be seen in it, in sentences.
    """

    host: str
    since_ns: int
    until_ns: int
    places_since_ns: int
    places_until_ns: int
    watched_s: int
    connects: int
    refused: int
    messages: int | None
    recipients: int | None
    user_count: int
    script_count: int
    destination_count: int
    unnamed: int
    users: tuple[UserFigures, ...]
    scripts: tuple[ScriptFigures, ...]
    destinations: tuple[DestinationFigures, ...]
    providers: tuple[ProviderFigures, ...]
    ports: tuple[PortFigures, ...]
    own_addresses: tuple[OwnFigures, ...]
    own_count: int
    own_unknown: int | None
    verdicts: tuple[VerdictFigures, ...]
    blocks: tuple[ReportedBlock, ...]
    losses: dict[str, int] | None
    blind: tuple[Gap, ...]
    off: tuple[Gap, ...]
    fullest: tuple[FullWindow, ...] | None
    step: int
    curves: tuple[Curve, ...]
    month: tuple[Point, ...] | None
    blind_month: tuple[Gap, ...]
    unseen: tuple[str, ...] = field(default=())

    def count_verdicts(self, mode: str) -> int:
        """Verdicts of a mode."""
        return sum(row.count for row in self.verdicts if row.mode == mode)


def render_json(report: HostReport) -> Iterator[str]:
    """As `--format json` prints it, piece by piece, a row a line: whole it would take twice the memory."""
    before = "{"
    for entry in fields(report):
        name, value = entry.name.removesuffix("_ns"), getattr(report, entry.name)
        yield f'{before}\n  "{name}": '
        before = ","
        if isinstance(value, tuple) and value:
            for number, row in enumerate(value):
                yield ("[\n    " if not number else ",\n    ") + json.dumps(to_json(row))
            yield "\n  ]"
        else:
            yield json.dumps(dict(_to_items(report, entry.name))[name])
    yield "\n}\n"


def to_json(value: object) -> Any:  # noqa: ANN401 - JSON
    """One of these as JSON values."""
    if is_dataclass(value):
        return dict(_to_items(value))
    if isinstance(value, tuple):
        return [to_json(item) for item in value]
    return value


def _to_items(value: Any, only: str | None = None) -> Iterator[tuple[str, Any]]:  # noqa: ANN401 - one of the classes above
    for entry in fields(value):
        if only is not None and entry.name != only:
            continue
        item = getattr(value, entry.name)
        if entry.name.endswith("_ns"):
            yield entry.name.removesuffix("_ns"), None if item is None else render_time(item)
        else:
            yield entry.name, to_json(item)
