"""An incident as the state file holds it, with wall times. What was in the file may be anything: it is read so."""

import contextlib
import zlib
from dataclasses import dataclass, field
from typing import Protocol

from smtpguard.model import Account, Mode, Subject
from smtpguard.policy.incidents import Incident
from smtpguard.text import parse_address, parse_escaped, render_address, render_escaped


@dataclass(frozen=True, slots=True, kw_only=True)
class IncidentRow:
    """One user's verdicts, merged while gaps stay short.

    Attributes:
        first_ns, last_ns: Wall time; with uid and netns, `first_ns` names the incident.
        verdicts, connects, refused, peak_per_minute, destinations: Figures so far.
        rules: Names of the rules exceeded.
        told_ns: When people were told; None if not yet.
        mode: "enforce" if any of its verdicts was carried out.
        is_over: Whether it has ended.
        tops: The most frequent destinations and scripts with their counts, as text that is escaped already.
    """

    uid: int
    netns: int | None
    name: str | None
    first_ns: int
    last_ns: int
    verdicts: int
    connects: int
    refused: int
    peak_per_minute: int
    destinations: int
    rules: tuple[str, ...] = ()
    told_ns: int | None = None
    mode: Mode = "dry-run"
    is_over: bool = False
    tops: dict[str, list[tuple[str, int]]] = field(default_factory=dict)

    @classmethod
    def of(cls, incident: Incident, offset_ns: int) -> "IncidentRow":
        """The row of an incident.

        Args:
            incident: In event time.
            offset_ns: Wall time minus event time.
        """
        return cls(
            uid=incident.subject.id,
            netns=incident.subject.scope,
            name=incident.account.name,
            first_ns=incident.first_ns + offset_ns,
            last_ns=incident.last_ns + offset_ns,
            verdicts=incident.verdicts,
            connects=incident.connects,
            refused=incident.refused,
            peak_per_minute=incident.peak_per_minute,
            destinations=incident.destinations,
            rules=incident.rules,
            told_ns=incident.first_ns + offset_ns,
            mode=incident.mode,
            is_over=incident.over,
            tops={
                "destinations": [(render_address(address), count) for address, count in incident.top_destinations],
                "scripts": [(render_escaped(script), count) for script, count in incident.top_scripts],
            },
        )

    def to_incident(self, account: Account, offset_ns: int) -> Incident:
        """The incident in event time, as one that goes on.

        Args:
            account: Whose.
            offset_ns: Wall time minus event time.
        """
        return Incident(
            subject=Subject(id=self.uid, scope=self.netns),
            account=account,
            mode=self.mode,
            first_ns=self.first_ns - offset_ns,
            last_ns=self.last_ns - offset_ns,
            verdicts=self.verdicts,
            rules=self.rules,
            connects=self.connects,
            refused=self.refused,
            peak_per_minute=self.peak_per_minute,
            destinations=self.destinations,
            top_destinations=_parse_tops(self.tops.get("destinations"), parse_address),
            top_scripts=_parse_tops(self.tops.get("scripts"), parse_escaped),
            over=False,
        )

    @property
    def id(self) -> str:
        """A short name for people, the same in every notification and list."""
        return f"{zlib.crc32(f'{self.uid} {self.netns} {self.first_ns}'.encode()):08x}"


class _ParseTop(Protocol):
    def __call__(self, text: str, /) -> bytes: ...


def _parse_tops(rows: object, parse: _ParseTop) -> tuple[tuple[bytes, int], ...]:
    """Counts of an earlier run; what can't be read is left out."""
    found = []
    for row in rows if isinstance(rows, list) else ():
        with contextlib.suppress(ValueError, TypeError):
            text, count = row
            found.append((parse(str(text)), int(count)))
    return tuple(found)
