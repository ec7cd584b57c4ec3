"""Which events are asked for, and how they are told: plain values, the same from the daemon and from the file. Pure."""

import ipaddress
from dataclasses import dataclass, field
from typing import Any, Literal

from smtpguard.logline import render_time
from smtpguard.model import NS
from smtpguard.policy.incidents import GAP_NS
from smtpguard.settings import HOUR_NS
from smtpguard.state.incident_row import IncidentRow
from smtpguard.state.rows import ChangeRow, VerdictRow
from smtpguard.state.span import Span
from smtpguard.text import render_subject, render_user

NEAR_NS = HOUR_NS
"""An event is of an own address where its user had connections from there so near in time."""
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Shown = dict[str, Any]
KINDS = (
    *("exceeded", "block", "extended", "unblock", "allow", "off", "on"),
    *("reload", "nft", "heal", "note", "close", "watch", "unwatch", "start", "stop", "lost", "told"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EventQuery:
    """What an event has to be; what is not said may be anything.

    Attributes:
        span: When, whose, and how many at most.
        kinds: Of `KINDS`; empty for all.
        mode: "enforce" or "dry-run".
        port: The attempt's, or one that a block refuses.
        networks: One of them holds the attempt's destination.
        script: Part of the attempt's script.
        sha256: Begin of a file's sum that was found with the verdict.
        rule: Which rule.
        src: One of the host's own addresses, 4 or 16 bytes: only of users who connected from it within NEAR_NS.
    """

    span: Span
    kinds: frozenset[str] = frozenset()
    mode: str | None = None
    port: int | None = None
    networks: tuple[Network, ...] = field(default=())
    script: str | None = None
    sha256: str | None = None
    rule: str | None = None
    src: bytes | None = None

    def where(self, table: Literal["verdicts", "changes", "incidents"]) -> tuple[str, list[int | bytes]]:
        """The condition that SQL looks at, and its parameters: the same ones for each table."""
        first, last = ("first_ns", "last_ns") if table == "incidents" else ("time_ns", "time_ns")
        sql, parameters = self.span.where(last)
        if self.src is None:
            return sql, parameters
        if table != "changes":
            sql += " AND netns = 0"  # of others' namespaces no addresses are kept, and their numbers are no accounts
        since, until = f"{table}.{first} - {NEAR_NS}", f"{table}.{last} + {NEAR_NS}"
        sql += (
            f" AND EXISTS (SELECT 1 FROM own_addresses AS own WHERE own.uid = {table}.uid AND own.address = ?"  # noqa: S608 - constants
            f" AND own.hour BETWEEN ({since}) / {HOUR_NS} AND ({until}) / {HOUR_NS}"
            f" AND own.last_ns >= {since} AND own.first_ns <= {until})"
        )
        return sql, [*parameters, self.src]

    @property
    def is_about_attempts(self) -> bool:
        """Whether only what has an attempt behind it can be meant."""
        return bool(self.networks) or self.script is not None or self.sha256 is not None

    @property
    def may_be_lost(self) -> bool:
        """Whether losses can be meant: they are nobody's."""
        is_anybodys = self.span.uid is None and self.span.name is None and self.src is None
        return is_anybodys and not self.is_about_attempts and (not self.kinds or "lost" in self.kinds)

    def matches_verdict(self, row: VerdictRow) -> bool:
        """Whether a verdict is one of them."""
        attempt = row.evidence.get("connect", {})
        return (
            self.mode in (None, row.mode)
            and self.rule in (None, row.rule)
            and self.port in (None, attempt.get("port"))
            and (not self.networks or _is_inside(attempt.get("address"), self.networks))
            and (self.script is None or self.script in str(attempt.get("script") or ""))
            and (self.sha256 is None or any(found.startswith(self.sha256) for found in _sums(row.evidence)))
        )

    def matches_change(self, row: ChangeRow) -> bool:
        """Whether something that was done is one of them."""
        details = row.details
        ports = details.get("ports")
        return (
            self.mode in (None, details.get("mode"))
            and self.rule in (None, details.get("rule"))
            and (self.port is None or ("block_kind" in details and (ports is None or self.port in ports)))
        )


def parse_own(text: str) -> bytes:
    """One of the host's own addresses, as typed: IPv4-mapped is IPv4. Raises ValueError."""
    address = ipaddress.ip_address(text)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).packed


def show_event(row: VerdictRow | ChangeRow) -> Shown:
    """An event: `kind` is the log's EVENT in lower case, the other fields are the line's; what is not known is null."""
    shown: Shown = {"time": render_time(row.time_ns), "time_ns": row.time_ns}
    if isinstance(row, ChangeRow):
        return shown | {
            "kind": row.event,
            "user": None if row.uid is None else render_user(row.uid, row.name),
            "uid": row.uid,
            "by": row.by,
            "until": None if row.until_ns is None else render_time(row.until_ns),
            "reason": row.reason,
            **{name: value for name, value in row.details.items() if name not in ("kind", "time", "user", "uid")},
        }
    attempt = row.evidence.get("connect", {})
    block_ns = 0 if row.until_ns is None else max(0, row.until_ns - row.time_ns)
    return shown | {
        "kind": "exceeded",
        "user": render_subject(row.uid, row.name, is_contained=row.netns is not None),
        "uid": row.uid,
        "rule": row.rule,
        "count": row.count,
        "limit": row.limit,
        "window": row.window_ns // NS,
        "action": row.action,
        "block": round(block_ns / NS),
        "mode": row.mode,
        "why_dry": row.why_dry,
        "pid": attempt.get("pid"),
        "port": attempt.get("port"),
        "dst": attempt.get("address"),
        **{name: attempt.get(name) for name in ("sensor", "attr", "proc", "exe", "cwd", "script", "rdns")},
    }


def show_incident(row: IncidentRow, closed: ChangeRow | None, now_ns: int) -> Shown:
    """An incident.

    Args:
        row: As it is kept.
        closed: Who closed it; None if nobody did.
        now_ns: Wall time.
    """
    return {
        "id": row.id,
        "user": render_subject(row.uid, row.name, is_contained=row.netns is not None),
        "uid": row.uid,
        "first": render_time(row.first_ns),
        "last": render_time(row.last_ns),
        "last_ns": row.last_ns,
        "mode": row.mode,
        "rules": list(row.rules),
        "verdicts": row.verdicts,
        "connects": row.connects,
        "refused": row.refused,
        "peak_per_minute": row.peak_per_minute,
        "scripts": [{"script": text, "count": count} for text, count in row.tops.get("scripts", ())],
        "destinations": [{"address": text, "count": count} for text, count in row.tops.get("destinations", ())],
        "destination_count": row.destinations,
        # The guard may have been killed before it said so.
        "over": row.is_over or row.last_ns + GAP_NS < now_ns,
        "closed": None
        if closed is None
        else {
            "time": render_time(closed.time_ns),
            "by": closed.details.get("who") or closed.by,
            "reason": closed.reason,
        },
    }


def _is_inside(address: object, networks: tuple[Network, ...]) -> bool:
    try:
        found = ipaddress.ip_address(str(address))
    except ValueError:
        return False
    return any(found in network for network in networks)


def _sums(evidence: Shown) -> list[str]:
    files = [*(evidence.get("files") or ()), *(evidence.get("newest") or ())]
    return [str(file.get("sha256") or "") for file in files if isinstance(file, dict)]
