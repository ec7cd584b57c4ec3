"""The words of the program as types: Connect, Subject, Account, Verdict, Block. No behaviour, no I/O.

Times are integers in nanoseconds. `time_ns` is *event time*: CLOCK_BOOTTIME (clock_gettime(2)) for live sensors,
nanoseconds since the epoch for replayed files; within one run there is one timeline only. None always means
"not known", never 0 or "". Text that a tenant can write (process names, paths, PTR names) stays `bytes` until
it is rendered, where `smtpguard.text` escapes it.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

Action = Literal["warn", "throttle", "block"]
Count = Literal["connections", "destinations", "networks", "failures", "bytes", "messages", "recipients"]
Mode = Literal["enforce", "dry-run"]
Result = Literal["allowed", "refused"]
RefusedBy = Literal["block", "throttle", "credit", "cap"]
Attr = Literal["live", "slot", "guess"]
Standing = Literal["root", "mta", "exempt", "shared", "container", "tenant"]
Outcome = Literal["established", "refused", "timeout", "gave-up"]
SocketNews = Outcome | Literal["open", "closed", "untracked", "unfollowed"]

NS = 1_000_000_000
"""Nanoseconds in a second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Connect:
    """One attempt to open an SMTP connection.

    Attributes:
        time_ns: Event time.
        uid: The uid that the sensor saw, in the initial user namespace; None if not known.
        netns: Network namespace cookie (SO_NETNS_COOKIE); None for the namespace the guard watches, or where the
            sensor cannot tell namespaces apart.
        pid: Process (thread group) id in the initial pid namespace.
        port: Destination port before any NAT.
        address: Destination, 4 or 16 bytes in network order; an IPv4-mapped address is given as its 4 bytes.
        sensor: Name of the source that saw it.
        result: What the kernel answered; None if the sensor can't know.
        refused_by: Which of our means refused it, with result "refused"; None if not ours or not known.
        rule: Index of the credit rule that refused it, with refused_by "credit".
        cookie: Socket cookie, to join later reports about the same socket.
        inode: Of the socket in sockfs, to look for the process that holds it where the sensor names none.
        credits: Bits of the credit rules of which the kernel took a credit for this attempt.
        creator: Uid that made the socket (nftables' skuid), where the sensor tells; the caller's uid in most cases.
        euid: Effective uid where it differs in meaning from uid (audit); None if not seen.
        attr: How process and script were found; None if nobody looked or nothing was found.
        proc, exe, cwd, script, rdns: Untrusted bytes that describe the caller and the destination.
        user: Account name as the *record* gave it (ENRICHED audit logs); decoration, never identity.
        node: Host that a record names (audit's node=), where it names one.
    """

    time_ns: int
    uid: int | None
    port: int
    address: bytes
    sensor: str
    netns: int | None = None
    pid: int | None = None
    result: Result | None = None
    refused_by: RefusedBy | None = None
    rule: int | None = None
    cookie: int | None = None
    inode: int | None = None
    credits: int = 0
    creator: int | None = None
    euid: int | None = None
    attr: Attr | None = None
    proc: bytes | None = None
    exe: bytes | None = None
    cwd: bytes | None = None
    script: bytes | None = None
    rdns: bytes | None = None
    user: bytes | None = None
    node: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One mail handed to the local mail server (sendmail, mail(), submission over loopback).

    Attributes:
        time_ns: Event time.
        uid: Who submitted it; None if not known.
        mta: Which server took it: "postfix" or "exim".
        queue_id: Its id in the server's queue; untrusted, as log text may be forged.
        recipients: How many it names, before aliases are expanded.
        size_bytes: Its size.
        pid, attr, proc, exe, cwd, script: As in Connect.
    """

    time_ns: int
    uid: int | None
    mta: str
    queue_id: bytes | None = None
    recipients: int | None = None
    size_bytes: int | None = None
    pid: int | None = None
    attr: Attr | None = None
    proc: bytes | None = None
    exe: bytes | None = None
    cwd: bytes | None = None
    script: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SocketReport:
    """What became of a connection that was let through. Belongs to the Connect of the same cookie and time.

    Attributes:
        time_ns: Event time.
        kind: "established", or how it failed; "open" at most once a second while it lives; "closed" at its end;
            "untracked" when nothing can be kept with the socket, which is followed as far as a share of a table goes,
            "unfollowed" when that is used up: nothing more will be told of it.
        uid: Who had opened it; None if not known.
        netns: As in Connect.
        cookie: Socket cookie.
        connect_time_ns: Event time of its Connect; None for a session that was open before the sensor was.
        port, address: As in Connect.
        latency_ns: From connect() to this report, for "established" and failures; else None.
        bytes_sent: Payload that the peer has acknowledged so far.
        bytes_told: Of those, what reports before told of; None where the sensor does not know.
        bytes_received: Payload received so far; the peer's FIN may count as one.
        retransmissions: Segments sent again so far.
    """

    time_ns: int
    kind: SocketNews
    uid: int | None
    netns: int | None
    cookie: int
    connect_time_ns: int | None
    port: int
    address: bytes
    latency_ns: int | None
    bytes_sent: int
    bytes_received: int
    retransmissions: int
    bytes_told: int | None = None


class Subject(NamedTuple):
    """Whom windows and blocks belong to: a uid and where it means somebody (a container's 1001 is not ours).

    Policy compares scopes and looks into none; policy/subjects.py says whom an attempt counts for. No dataclass, as it
    is a key: ten thousand blocks are looked up forty times each at a start, and a tuple's hash costs a fifth.

    Attributes:
        id: The account's uid; for a subordinate uid, its owner's.
        scope: Where that uid means somebody: None on this host, in the network namespace that the guard watches; else
            another network namespace, by its cookie.
    """

    id: int
    scope: int | None = None


_CONTAINED = 1 << 32
"""Beyond all uids."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """What is known of a subject's account, from what only root can write (passwd, group, subuid, login.defs).

    Attributes:
        uid: The account's uid.
        name: Login name that look-ups of the uid give; None if there is none, or it is not known yet.
        aliases: What else the account is called: further names of the uid, and configured spellings of a directory's.
        standing: Whom a verdict may hit: "root", "mta" and "exempt" are seen and never refused; "shared" is
            counted and told, not refused; so is "container", a uid that is nobody's on this host; "tenant" is refused.
        reason: Why it has that standing, for people.
        groups: Names of the groups the account is in.
        packages: Hosting packages the account has, from the panel.
        ranges: Subordinate uid ranges that belong to the account, as (first, count).
    """

    uid: int
    name: str | None
    standing: Standing
    reason: str = ""
    aliases: tuple[str, ...] = ()
    groups: frozenset[str] = frozenset()
    packages: frozenset[str] = frozenset()
    ranges: tuple[tuple[int, int], ...] = ()

    @property
    def share(self) -> int:
        """Whose share of a budget it uses: a container's uid takes nothing from the host's user of that number."""
        return self.uid | _CONTAINED if self.standing == "container" else self.uid

    @property
    def names(self) -> tuple[str, ...]:
        """All that the account is called, its login name first; empty if it has no name."""
        return self.aliases if self.name is None else (self.name, *self.aliases)

    def may_be(self, name: str | None) -> bool:
        """Whether what is bound to its uid and a name is this account's: so it is while either name is not known.

        Args:
            name: The name it was bound to; None if none was known then.
        """
        return name is None or self.name is None or name in self.names


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
        mode: "enforce" if it is to be carried out, "dry-run" if it is only told.
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
        mode: "dry-run" if nobody refused it and only a block that would be stands against it.
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


Decision = Verdict | Block | Refusal | Ended | Extended | BreakerChange | AllowanceEnded | Named
"""What the engine says, in the order to be acted upon."""
