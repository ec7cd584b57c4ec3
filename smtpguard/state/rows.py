"""What the state file holds, as types with wall times.

Blocks, allowances and windows live on event time, which a reboot resets; `offset_ns` (wall time minus event time) turns
one into the other.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

from smtpguard.fast_dataclass import quick_maker
from smtpguard.model import Action, Allowance, Block, Mode, Subject, Verdict
from smtpguard.state.evidence import render_evidence

_make_block = quick_maker(
    Block,
    *("subject", "name", "source", "kind", "since_ns", "until_ns", "mode", "rule", "reason", "level"),
    *("ranges", "ids", "ports"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockRow:
    """A block or throttle as stored; see model.Block. Times are wall time."""

    uid: int
    netns: int | None
    name: str | None
    source: str
    kind: Literal["block", "throttle"]
    since_ns: int
    until_ns: int
    mode: Mode
    rule: str | None
    reason: str
    level: int
    ranges: tuple[tuple[int, int], ...]
    ids: tuple[str, ...] = ()
    ports: tuple[int, ...] | None = None

    def accounts_for(self, kind: str, port: int | None) -> bool:
        """Whether a refusal in the kernel, of one port or (None) of all, may be this block's."""
        return self.kind == kind and (self.ports is None if port is None else port in (self.ports or ()))

    @classmethod
    def of(cls, block: Block, offset_ns: int) -> "BlockRow":
        """The row of a block.

        Args:
            block: In event time.
            offset_ns: Wall time minus event time.
        """
        return cls(
            uid=block.subject.id,
            netns=block.subject.scope,
            name=block.name,
            source=block.source,
            kind=block.kind,
            since_ns=block.since_ns + offset_ns,
            until_ns=block.until_ns + offset_ns,
            mode=block.mode,
            rule=block.rule,
            reason=block.reason,
            level=block.level,
            ranges=block.ranges,
            ids=block.ids,
            ports=block.ports,
        )

    def to_block(self, offset_ns: int, now_ns: int) -> Block:
        """The block in event time, never longer than it was meant to be.

        Args:
            offset_ns: Wall time minus event time.
            now_ns: Wall time now; before `since_ns` if the clock was set back.
        """
        length_ns = self.until_ns - self.since_ns
        since_ns, until_ns = min(self.since_ns, now_ns) - offset_ns, min(self.until_ns, now_ns + length_ns) - offset_ns
        whom = (Subject(self.uid, self.netns), self.name, self.source, self.kind)
        why = (self.mode, self.rule, self.reason, self.level)
        return _make_block(*whom, since_ns, until_ns, *why, self.ranges, self.ids, self.ports)


@dataclass(frozen=True, slots=True, kw_only=True)
class AllowanceRow:
    """An allowance: this user is not judged by the rules, or by one limit only, until a time.

    Attributes:
        uid, name: Whose.
        since_ns, until_ns: Wall time.
        max_count, window_ns, everything: See model.Allowance.
        by: Who gave it.
        reason: Free text for people, untrusted.
    """

    uid: int
    name: str | None
    since_ns: int
    until_ns: int
    by: str
    max_count: int | None = None
    window_ns: int | None = None
    reason: str = ""
    everything: bool = False

    @classmethod
    def of(cls, allowance: Allowance, offset_ns: int) -> "AllowanceRow":
        """The row of an allowance; arguments as for BlockRow.of."""
        return cls(
            uid=allowance.subject.id,
            name=allowance.name,
            since_ns=allowance.since_ns + offset_ns,
            until_ns=allowance.until_ns + offset_ns,
            by=allowance.by,
            max_count=allowance.limit,
            window_ns=allowance.window_ns,
            reason=allowance.reason,
            everything=allowance.everything,
        )

    def to_allowance(self, offset_ns: int, now_ns: int) -> Allowance:
        """The allowance in event time, never longer than it was meant to be; arguments as of BlockRow.to_block."""
        length_ns = self.until_ns - self.since_ns
        return Allowance(
            subject=Subject(id=self.uid),
            name=self.name,
            since_ns=min(self.since_ns, now_ns) - offset_ns,
            until_ns=min(self.until_ns, now_ns + length_ns) - offset_ns,
            by=self.by,
            limit=self.max_count,
            window_ns=self.window_ns,
            reason=self.reason,
            everything=self.everything,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FactRow:
    """Something remembered of this host."""

    name: str
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SwitchRow:
    """A switch of the whole guard that survives a restart; its presence means that it is set.

    Attributes:
        name: "off" is the panic switch.
        since_ns: Wall time.
        until_ns: Wall time it ends by itself; None for until somebody ends it.
        by: Who set it.
    """

    name: str
    since_ns: int
    until_ns: int | None
    by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EscalationRow:
    """How often a user was blocked: `level` times, the last time at `last_ns` (wall time)."""

    uid: int
    name: str | None
    level: int
    last_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowRow:
    """The window of one rule and subject, in the engine's own bytes; None for `data` says it is empty.

    Attributes:
        offset_ns: Wall time minus event time when it was taken: a later run shifts event times in `data` by
            `offset_ns` minus its own offset.
    """

    uid: int
    netns: int | None
    rule: str
    data: bytes | None
    offset_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class VerdictRow:
    """A verdict as history: see model.Verdict. Times are wall time.

    Attributes:
        id: The file's number for it; None before it is stored.
        evidence: What `why` shows; JSON values only.
    """

    time_ns: int
    uid: int
    netns: int | None
    name: str | None
    rule: str
    count: int
    limit: int
    window_ns: int
    action: Action
    until_ns: int | None
    mode: Mode
    why_dry: str = ""
    evidence: dict[str, Any] = field(default_factory=dict)
    id: int | None = None

    @classmethod
    def of(cls, verdict: Verdict, offset_ns: int, evidence: dict[str, Any] | None = None) -> "VerdictRow":
        """The row of a verdict.

        Args:
            verdict: In event time.
            offset_ns: Wall time minus event time.
            evidence: What else is known (scripts, stacks, destinations); the attempt itself is always kept.
        """
        return cls(
            time_ns=verdict.time_ns + offset_ns,
            uid=verdict.subject.id,
            netns=verdict.subject.scope,
            name=verdict.account.name,
            rule=verdict.rule,
            count=verdict.count,
            limit=verdict.limit,
            window_ns=verdict.window_ns,
            action=verdict.action,
            until_ns=None if verdict.until_ns is None else verdict.until_ns + offset_ns,
            mode=verdict.mode,
            why_dry=verdict.why_dry,
            evidence={"connect": render_evidence(verdict)} | (evidence or {}),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeRow:
    """What a person or another program did, or a block's end: the history that `events` shows.

    Attributes:
        time_ns: Wall time.
        uid, name: Whom it concerns; None for all (`off`).
        event: "block", "extended", "unblock", "allow", "off", "on", "reload", "nft", "heal", "note", "close", "start",
            "stop", "lost", "told".
        by: Who: "admin", "time", "guard", "fail2ban:JAIL", ...
        until_ns: Wall time it lasts to; None if it has no end or is one.
        reason: Free text for people, untrusted.
        details: What else is known, JSON values: of a block rule, mode, kind and ports; `who` asked for it.
    """

    time_ns: int
    uid: int | None
    name: str | None
    event: str
    by: str
    until_ns: int | None = None
    reason: str = ""
    details: dict[str, Any] = field(default_factory=dict)
