"""What the guard says beside the stream: its mode, who is refused, how full windows are, incidents. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from smtpguard.tui.pieces import clean

Link = Literal["begin", "daemon", "own", "none"]
"""Where the stream comes from: not known yet, the daemon, a source of our own, nowhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A block, throttle or allowance.

    Attributes:
        user, uid, domain, kind, ports, since, until, by, why, mode, refused: As `blocks` has them; times in seconds.
        is_local: Whether it is of a user of this host, and not of a container.
        is_suspended: Whether the guard is off.
    """

    user: str
    uid: int
    domain: str
    is_local: bool
    kind: str
    ports: tuple[int, ...] | None
    since: float
    until: float
    by: str
    why: str
    mode: str
    refused: int
    is_suspended: bool

    @property
    def is_enforced(self) -> bool:
        """Whether anybody is refused by it now."""
        return self.mode == "enforce" and self.kind != "allow" and not self.is_suspended


@dataclass(frozen=True, slots=True, kw_only=True)
class UserState:
    """What the guard knows of one user.

    Attributes:
        standing: Whom a verdict may hit.
        rule, now, limit: The fullest window; "" where all are empty.
    """

    standing: str
    rule: str
    now: int
    limit: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Episode:
    """An incident.

    Attributes:
        id, user, uid, first, last, mode, rules, refused, verdicts: As `incidents` has them.
        state: goes on, over or closed.
    """

    id: str
    user: str
    uid: int
    first: str
    last: str
    mode: str
    rules: str
    verdicts: int
    refused: int
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """All of it, as of the last time that the guard was asked.

    Attributes:
        mode: enforce, dry-run or off; "" where no guard answers.
        sensors: What it watches with; "" for nothing.
        is_blind: Whether it wants to see and does not.
        troubles: What else is wrong.
        held: Blocks, throttles, allowances.
        users: By uid; only those that were asked for.
        episodes: Incidents, the newest first.
        ports: That are guarded; empty where it is not known.
    """

    mode: str = ""
    sensors: str = ""
    is_blind: bool = False
    troubles: tuple[str, ...] = ()
    held: tuple[Held, ...] = ()
    users: Mapping[int, UserState] = field(default_factory=dict)
    episodes: tuple[Episode, ...] = ()
    ports: tuple[int, ...] = ()

    def held_for(self, uid: int | None) -> list[Held]:
        """What is in force for a user of this host."""
        return [] if uid is None else [held for held in self.held if held.uid == uid and held.is_local]


def read_status(status: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of Facts from what `status` says."""
    leading = [str(row["name"]) for row in status["sources"] if row["state"] in ("leads", "beside")]
    return {
        "mode": str(status["mode"]),
        "sensors": clean(", ".join(leading)),
        "is_blind": any(text.startswith("BLIND") for text in status["troubles"]),
        "troubles": tuple(clean(text) for text in status["troubles"]),
        "ports": tuple(status.get("ports", ())),
    }


def read_held(rows: Sequence[Mapping[str, Any]]) -> tuple[Held, ...]:
    """What `blocks` lists."""
    return tuple(
        Held(
            user=clean(row["user"]),
            uid=row["uid"],
            domain=clean(row.get("domain") or "-"),
            is_local=row["netns"] is None,
            kind=clean(row["kind"]),
            ports=None if row["ports"] is None else tuple(row["ports"]),
            since=row["since"],
            until=row["until"],
            by=clean(row["by"]),
            why=clean(row["why"]),
            mode=clean(row["mode"]),
            refused=row["refused"],
            is_suspended=row["suspended"],
        )
        for row in rows
    )


def read_episodes(rows: Sequence[Mapping[str, Any]]) -> tuple[Episode, ...]:
    """What `incidents` lists."""
    return tuple(
        Episode(
            id=clean(row["id"]),
            user=clean(row["user"]),
            uid=row["uid"],
            first=clean(row["first"]),
            last=clean(row["last"]),
            mode=clean(row["mode"]),
            rules=clean(",".join(row["rules"])),
            verdicts=row["verdicts"],
            refused=row["refused"],
            state="closed" if row["closed"] else "over" if row["over"] else "goes on",
        )
        for row in rows
    )


def read_users(rows: Sequence[Mapping[str, Any]]) -> dict[int, UserState]:
    """What `why` says in short of several."""
    found = {}
    for row in rows:
        rules = [rule for rule in row["rules"] if rule["now"]]
        top = max(rules, key=lambda rule: rule["now"] / max(1, rule["limit"]), default=None)
        found[int(row["uid"])] = UserState(
            standing=clean(row["standing"]),
            rule="" if top is None else clean(top["name"]),
            now=0 if top is None else top["now"],
            limit=0 if top is None else top["limit"],
        )
    return found
