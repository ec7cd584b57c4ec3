"""What the engine decides: verdicts, blocks and what becomes of them, refusals, allowances."""

from dataclasses import dataclass
from typing import Literal

from smtpguard.model.events import Connect, RefusedBy
from smtpguard.model.people import Account, Subject

Action = Literal["warn", "throttle", "block"]
Count = Literal["connections", "destinations", "networks", "failures", "bytes", "messages", "recipients"]
Mode = Literal["enforce", "dry-run"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A rule was exceeded.

    Attributes:
        time_ns: Event time of the attempt that exceeded it.
        subject: Whose window it was.
        account: The account at that moment.
        rule: Name of the rule.
        count: What the window held, this attempt included (limit + 1 for connections).
        limit: The limit in force for this subject.
        window_ns: Length of the window.
        action: What the rule asks for.
        until_ns: When the block or throttle ends (event time); None for warn.
        mode: "enforce" if it is to be carried out, "dry-run" if it is report-only.
        why_dry: Why mode is "dry-run", for people; "" when enforced.
        connect: The attempt.
        ports: What a block over it refuses; None for all guarded ports.
        counted: What the rule counts.
    """

    time_ns: int
    subject: Subject
    account: Account
    rule: str
    count: int
    limit: int
    window_ns: int
    action: Action
    until_ns: int | None
    mode: Mode
    connect: Connect
    why_dry: str = ""
    ports: tuple[int, ...] | None = None
    counted: Count = "connections"


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A refusal in force (or, in dry run, one that would be): kept per (subject, source).

    Attributes:
        subject: Whom it refuses.
        name: Account name it is bound to; None if the uid had none. A uid given to another name is not blocked.
        source: "guard", "admin", "fail2ban:JAIL" or "fleet".
        kind: "block" (packets of open sessions too) or "throttle" (new connections).
        since_ns: Event time it began.
        until_ns: Event time it ends.
        mode: Enforced, or kept only so that dry run tells the truth.
        rule: The rule behind it; None for a person's block.
        reason: Free text for people, untrusted.
        level: How often the user was blocked before within the escalation's memory.
        ranges: Subordinate ranges it covers, as (first, count).
        ids: What the source calls the user: the failure ids of a fail2ban jail, as it banned them.
        address: Where the attempt went that was one too many, packed; None for a person's block, and after a restart.
        renewed: A throttle that only goes on: to be enforced, but nothing new to tell (no verdict comes with it).
        ports: Which destination ports it refuses, in order; None for all that are guarded.
    """

    subject: Subject
    name: str | None
    source: str
    kind: Literal["block", "throttle"]
    since_ns: int
    until_ns: int
    mode: Mode
    rule: str | None = None
    reason: str = ""
    level: int = 0
    ranges: tuple[tuple[int, int], ...] = ()
    ids: tuple[str, ...] = ()
    address: bytes | None = None
    renewed: bool = False
    ports: tuple[int, ...] | None = None

    def covers(self, port: int) -> bool:
        """Whether attempts at a destination port are refused."""
        return self.ports is None or port in self.ports

    @property
    def reaches(self) -> tuple[int | None, ...]:
        """What it refuses as the kernel keeps it: each port by itself, or None for all at once."""
        return (None,) if self.ports is None else self.ports


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """An attempt that one of our means refused (or in dry run would have): enters no window, causes no verdict.

    Attributes:
        time_ns: Event time.
        subject: Whose attempt.
        account: The account at that moment.
        connect: The attempt, with where it wanted to go.
        by: Which means.
        mode: "dry-run" if nobody refused it and only a block that would be is active for it.
        counted: Whether it entered windows of enforced rules all the same, as a report-only block hides it from
            report-only windows alone.
    """

    time_ns: int
    subject: Subject
    account: Account
    connect: Connect
    by: RefusedBy
    mode: Mode = "enforce"
    counted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A block's time is over, or somebody ended it.

    Attributes:
        time_ns: When.
        block: The block as it was.
        by: "time", or who ended it.
        reason: Free text for people.
    """

    time_ns: int
    block: Block
    by: str
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerChange:
    """There are suddenly many blocks: from here blocks are throttles; or it is calm again.

    Attributes:
        time_ns: When.
        tripped: Whether blocks become throttles from here; False when it is calm again.
        blocks: How many blocks were begun within the breaker's time.
        mode: "dry-run" if it is the breaker of blocks that would be.
    """

    time_ns: int
    tripped: bool
    blocks: int
    mode: Mode


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """A person's allowance for an account: for a time its rules let ten times as much pass, or one limit holds instead.

    Rules that count networks on port 25 go on as they are, unless it is for everything: no allowance is meant for them.

    Attributes:
        subject: Whose.
        name: Account name it is bound to; None if the uid had none.
        since_ns, until_ns: Event times between which it holds.
        by: Who gave it.
        reason: Free text for people, untrusted.
        limit, window_ns: Connections that pass within how long, more are throttled; None for ten times each rule.
        everything: No rule holds but this limit, if there is one.
    """

    subject: Subject
    name: str | None
    since_ns: int
    until_ns: int
    by: str
    reason: str = ""
    limit: int | None = None
    window_ns: int | None = None
    everything: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AllowanceEnded:
    """An allowance's time is over, or somebody ended it.

    Attributes:
        time_ns: When.
        allowance: As it was.
        by: "time", "name" (the uid was given to another account), "allow" (a new one replaces it), or who ended it.
        reason: Free text for people.
    """

    time_ns: int
    allowance: Allowance
    by: str
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """A person keeps an eye on an account: for a time each of its limits is half of what it is else.

    Attributes:
        subject: Whose.
        name: Account name it is bound to; None if the uid had none.
        since_ns, until_ns: Event times between which it holds.
        by: Who said so.
        reason: Free text for people, untrusted.
    """

    subject: Subject
    name: str | None
    since_ns: int
    until_ns: int
    by: str
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchEnded:
    """A watch is over.

    Attributes:
        time_ns: When.
        watch: As it was.
        by: "time", "name" (the uid was given to another account), or who ended it.
    """

    time_ns: int
    watch: Watch
    by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """The name came of whom a block or an allowance was made by uid alone: it is bound to that name from now on.

    Attributes:
        before: As it was kept, without a name.
        after: As it is kept from now on.
    """

    before: Block | Allowance
    after: Block | Allowance


@dataclass(frozen=True, slots=True, kw_only=True)
class Extended:
    """A block of the guard's goes on without a gap: its user has not stopped trying.

    Attributes:
        time_ns: When that was decided, just before its end.
        block: As it is from now on.
        refused: Attempts of its last ten minutes that were refused, at least so many.
    """

    time_ns: int
    block: Block
    refused: int


Decision = Verdict | Block | Refusal | Ended | Extended | BreakerChange | AllowanceEnded | WatchEnded | Named
"""What the engine says, in the order to be acted upon."""
