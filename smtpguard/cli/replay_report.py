"""What a replay found of one host, counted while it runs and rendered at its end: as JSON, or for people."""

from dataclasses import dataclass, field
from typing import Any

from smtpguard.clock import render_moment
from smtpguard.logline import render_time
from smtpguard.model import NS, Block, BreakerChange, Decision, Ended, Extended, Refusal, Subject, Verdict
from smtpguard.policy.directory import Directory
from smtpguard.policy.subjects import account_of, subject_of
from smtpguard.text import render_address, render_duration, render_escaped, render_user

MAX_DESTINATIONS = 1_000_000
"""Distinct destinations remembered, of all users together; beyond it their counts are too low."""
MAX_VERDICTS = 100_000
MAX_USERS = 100_000


@dataclass(slots=True)
class UserRow:
    """One user's part in the log.

    Attributes:
        uid: The account's uid; None for connects without one.
        connects: Connects not to loopback.
        destinations: Distinct addresses of these.
        as_root: How many were made with effective uid 0.
        would_refuse: Attempts that the rules would have refused.
        verdicts, blocks: How many.
    """

    uid: int | None
    connects: int = 0
    destinations: set[bytes] = field(default_factory=set)
    as_root: int = 0
    would_refuse: int = 0
    verdicts: int = 0
    blocks: int = 0


@dataclass(slots=True)
class ReportRow:
    """A block or throttle that would have been, and how many attempts it would have refused."""

    block: Block
    refused: int = 0
    ended_ns: int | None = None


class Report:
    """Takes what the engine says of the log.

    Args:
        directory: Names of users.
        node: The host that the log names; None where it names none.

    Attributes:
        several: Whether there are other hosts, so that each user is written as user@node.
        users: By the uid of the account; None for connects without a uid.
        dropped_verdicts: Verdicts beyond MAX_VERDICTS, counted only.
        breakers: When the breaker turned blocks into throttles.
    """

    def __init__(self, directory: Directory, node: bytes | None = None) -> None:
        self._directory = directory
        self.node = node
        self.several = False
        self.users: dict[int | None, UserRow] = {}
        self.verdicts: list[Verdict] = []
        self.blocks: list[ReportRow] = []
        self.dropped_verdicts = 0
        self.breakers: list[BreakerChange] = []
        self._standing: dict[
            tuple[int, str], dict[tuple[int, ...] | None, ReportRow]
        ] = {}  # a log knows one network namespace

    def row_of(self, uid: int | None) -> UserRow:
        """The row of the account that a uid counts for."""
        owner = None if uid is None else subject_of(self._directory, uid).id
        row = self.users.get(owner)
        if row is None:
            row = UserRow(owner)
            if len(self.users) < MAX_USERS:
                self.users[owner] = row
        return row

    def take(self, decisions: list[Decision]) -> None:
        """Note what the engine said."""
        for decision in decisions:
            match decision:
                case Verdict():
                    self._take_verdict(decision)
                case Block():
                    self._take_block(decision)
                case Refusal():
                    self.take_refusal(decision)
                case Extended():
                    held = self._standing_of(decision.block).get(decision.block.ports)
                    if held is not None:
                        held.block = decision.block
                case Ended():
                    row = self._standing_of(decision.block).pop(decision.block.ports, None)
                    if row is not None:
                        row.ended_ns = decision.time_ns
                case BreakerChange():
                    self.breakers.append(decision)

    def _take_verdict(self, verdict: Verdict) -> None:
        row = self.row_of(verdict.subject.id)
        row.verdicts += 1
        # The attempt that exceeds a rule is the first that it refuses.
        row.would_refuse += verdict.mode == "enforce" and verdict.action != "warn"
        if len(self.verdicts) < MAX_VERDICTS:
            self.verdicts.append(verdict)
        else:
            self.dropped_verdicts += 1

    def _take_block(self, block: Block) -> None:
        standing = self._standing_of(block)
        if block.renewed and block.ports in standing:
            standing[block.ports].block = block
            return
        row = standing[block.ports] = ReportRow(block, refused=1)
        self.row_of(block.subject.id).blocks += 1
        if len(self.blocks) < MAX_VERDICTS:
            self.blocks.append(row)

    def _standing_of(self, block: Block) -> dict[tuple[int, ...] | None, ReportRow]:
        return self._standing.setdefault((block.subject.id, block.kind), {})

    def take_refusal(self, refusal: Refusal) -> None:
        """Take what nearly every attempt of a blocked user brings."""
        if refusal.mode != "enforce":
            return
        uid = refusal.subject.id
        (self.users.get(uid) or self.row_of(uid)).would_refuse += 1
        port = refusal.connect.port
        for ports, row in self._standing.get((uid, refusal.by), {}).items():
            if ports is None or port in ports:
                row.refused += 1
                break

    def name_of(self, uid: int | None) -> str:
        """How a user is written."""
        name = "-" if uid is None else render_user(uid, account_of(self._directory, Subject(id=uid)).name)
        return f"{name}@{render_escaped(self.node)}" if self.several and self.node is not None else name

    @property
    def node_text(self) -> str | None:
        """The host, for JSON."""
        return None if self.node is None else render_escaped(self.node)

    def user_json(self, row: UserRow) -> dict[str, Any]:
        """One user, for JSON."""
        return {
            "user": self.name_of(row.uid),
            "uid": row.uid,
            "node": self.node_text,
            "connects": row.connects,
            "destinations": len(row.destinations),
            "as_root": row.as_root,
            "would_refuse": row.would_refuse,
            "verdicts": row.verdicts,
            "blocks": row.blocks,
            "standing": None if row.uid is None else account_of(self._directory, Subject(id=row.uid)).standing,
        }

    def verdict_json(self, verdict: Verdict) -> dict[str, Any]:
        """One verdict, for JSON."""
        connect = verdict.connect
        return {
            "time": render_time(verdict.time_ns),
            "user": self.name_of(verdict.subject.id),
            "uid": verdict.subject.id,
            "node": self.node_text,
            "rule": verdict.rule,
            "count": verdict.count,
            "limit": verdict.limit,
            "window": verdict.window_ns / NS,
            "action": verdict.action,
            "until": None if verdict.until_ns is None else render_time(verdict.until_ns),
            "mode": verdict.mode,
            "why_dry": verdict.why_dry or None,
            "port": connect.port,
            "dst": render_address(connect.address),
            "pid": connect.pid,
            "proc": None if connect.proc is None else render_escaped(connect.proc),
            "exe": None if connect.exe is None else render_escaped(connect.exe),
        }

    def block_json(self, row: ReportRow) -> dict[str, Any]:
        """One block, for JSON."""
        block = row.block
        return {
            "user": self.name_of(block.subject.id),
            "uid": block.subject.id,
            "node": self.node_text,
            "kind": block.kind,
            "ports": None if block.ports is None else list(block.ports),
            "rule": block.rule,
            "since": render_time(block.since_ns),
            "until": render_time(block.until_ns),
            "mode": block.mode,
            "level": block.level,
            "refused": row.refused,
        }

    def breaker_json(self, change: BreakerChange) -> dict[str, Any]:
        """A turn of the breaker, for JSON."""
        return {"time": render_time(change.time_ns), "tripped": change.tripped, "node": self.node_text}

    def verdict_cells(self, verdict: Verdict) -> tuple[str, ...]:
        """A row of the table of verdicts, for people."""
        count = f"{verdict.count:,} of {verdict.limit:,} in {render_duration(verdict.window_ns / NS)}"
        action: str = verdict.action
        if verdict.until_ns is not None:
            action += f" for {render_duration((verdict.until_ns - verdict.time_ns) / NS)}"
        if verdict.mode != "enforce":
            action = f"report only ({verdict.why_dry})" if verdict.why_dry else "report only"
        return (
            render_moment(verdict.time_ns / NS),
            self.name_of(verdict.subject.id),
            verdict.rule,
            count,
            action,
            f"port {verdict.connect.port} of {render_address(verdict.connect.address)}",
        )

    def user_cells(self, row: UserRow) -> tuple[str, ...]:
        """A row of the table of users, for people."""
        account = None if row.uid is None else account_of(self._directory, Subject(id=row.uid))
        return (
            self.name_of(row.uid),
            "-" if row.uid is None else str(row.uid),
            f"{row.connects:,}",
            f"{len(row.destinations):,}",
            f"{row.verdicts:,}",
            f"{row.would_refuse:,}",
            "" if account is None or account.standing == "tenant" else f"{account.standing}: {account.reason}",
        )
