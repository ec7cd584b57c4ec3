"""The configuration as typed values, after the file was read, checked and merged with the defaults.

Pure: `load.py` reads files, the JSON Schema in config/ checks them, `build_settings` there makes these.
Durations are nanoseconds (`_ns`) so that they add to event times. See CONTRACT "Configuration" for every key.
"""

from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from typing import Literal

from smtpguard.model import NS, Action, Count

Network = IPv4Network | IPv6Network
MINUTE_NS = 60 * NS
HOUR_NS = 3600 * NS
DAY_NS = 86400 * NS

KEY_SLOTS = 64
"""How many destinations or networks the kernel keeps of one user and rule: higher limits are judged by the daemon."""

KEYED_PER_PORT = 2
"""How many rules that count destinations or networks the kernel looks at on one port."""

KEYED: frozenset[Count] = frozenset({"destinations", "networks"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A count, a limit, a window, an action.

    Attributes:
        name: Unique among the rules.
        count: What is counted.
        limit: How many pass within the window; 0 makes any connection a verdict.
        window_ns: Length of the sliding window.
        action: What is done at attempt limit + 1.
        ports: Which destination ports count, a subset of the guarded ports; None for all of them.
        path: Which way the mail goes.
        block_ns: How long a block lasts before escalation.
        novel_ns: Only users without a connection on these ports for so long; None for everybody.
        dry_run: This rule only tells.
        refuse: What a block or throttle of this rule refuses: the ports that it counts, or all that are guarded.
    """

    name: str
    count: Count
    limit: int
    window_ns: int
    action: Action = "block"
    ports: frozenset[int] | None = None
    path: Literal["smtp", "local", "any"] = "smtp"
    block_ns: int = 30 * MINUTE_NS
    novel_ns: int | None = None
    dry_run: bool = False
    refuse: Literal["ports", "all"] = "ports"

    @property
    def refused_ports(self) -> tuple[int, ...] | None:
        """The ports that a block or throttle of this rule refuses, in order; None for all that are guarded."""
        return None if self.ports is None or self.refuse == "all" else tuple(sorted(self.ports))


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """Which accounts an entry of `users` concerns: any of its lists may match.

    Attributes:
        users: Login names or globs (fnmatch).
        groups: Group names.
        uids: Inclusive (first, last) ranges.
        packages: Hosting packages, from the panel.
    """

    users: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    uids: tuple[tuple[int, int], ...] = ()
    packages: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """Changed rules for some accounts; the first entry that matches wins.

    Attributes:
        match: Whom it concerns.
        rules: Rule name to the rule as it is for them, complete.
    """

    match: Match
    rules: dict[str, Rule]


@dataclass(frozen=True, slots=True, kw_only=True)
class Exempt:
    """Who and what is never refused and never counted against a limit.

    Attributes:
        users, groups, uids: Accounts.
        networks: Exempt destinations given as networks.
        names: Exempt destinations given as host names, looked up again and again.
    """

    users: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    uids: tuple[tuple[int, int], ...] = ()
    networks: tuple[Network, ...] = ()
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Escalation:
    """How much longer each further block lasts, and whether one goes on while its user goes on trying."""

    factor: float = 2.0
    max_ns: int = DAY_NS
    forget_ns: int = 7 * DAY_NS
    still_trying: Literal["extend", "end"] = "extend"


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerLimits:
    """More than `blocks` new blocks within `per_ns`: throttle only."""

    blocks: int = 3
    per_ns: int = 10 * MINUTE_NS


@dataclass(frozen=True, slots=True, kw_only=True)
class Cap:
    """A token bucket per user in the kernel: `burst` tokens, refilled at `rate` per `per_ns`."""

    rate: int
    per_ns: int
    burst: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The whole configuration. Built only by `build.py`; field defaults are those of CONTRACT.

    Attributes:
        path: File it came from; None for the shipped defaults.
        text: What that file held.
        warnings: What it says that is not heeded any more.
        overrides: CONTRACT's `users`.
        shared_users, shared_block: Accounts that many sites share, and those of them that may be refused.
        shared_shipped: Those of shared_users that nobody wrote here: they hold below UID_MIN only.
        shipped_rules: Names of the rules that nobody wrote here, or only copied: one that can't be counted is no error.
        log_connects: Whether CONNECT lines are written.
        control_group, control_verbs: Who else may use the control socket, and for what.
        control_allow_max_ns: For how long at most they may allow somebody.
        audit_log: The log that audit-log follows; None for auditd.conf's.
        audit_node: What this host is called in that log; None for what auditd.conf and the host's own files say.
        uid_min: First uid of people; None for UID_MIN of login.defs.
        nat64: Prefixes of the host's own translators, or who knows them.
        accounts: Who tells whose a user is: the panel, nobody, or a command as argv.
        notify_hook: Program that gets incidents, as argv.
        metrics_listen: Address and port as written, `127.0.0.1:9798`.
    """

    path: str | None = None
    dry_run: bool = True
    sources: tuple[str, ...] | Literal["auto", "none"] = "auto"
    ports: frozenset[int] = frozenset({25, 465, 587, 2525})
    cgroup: str = "auto"
    audit_enable: bool = False
    audit_uid: int | None = None
    audit_log: str | None = None
    audit_node: str | None = None
    rules: tuple[Rule, ...] = ()
    shipped_rules: frozenset[str] = frozenset()
    overrides: tuple[Override, ...] = ()
    shared_users: frozenset[str] = frozenset()
    shared_block: frozenset[str] = frozenset()
    shared_shipped: frozenset[str] = frozenset()
    exempt: Exempt = field(default_factory=Exempt)
    loopback: Literal["ignore", "count"] = "ignore"
    escalation: Escalation = field(default_factory=Escalation)
    breaker: BreakerLimits = field(default_factory=BreakerLimits)
    block_verdict: Literal["reject", "drop", "tell"] = "reject"
    block_by: Literal["guard", "fail2ban"] = "guard"
    cap: Cap | None = None
    log_path: str = "/var/log/smtpguard/events.log"
    log_connects: bool = True
    state_path: str = "/var/lib/smtpguard/state.db"
    state_keep_ns: int = 30 * DAY_NS
    state_max_bytes: int = 500_000_000
    control_socket: str = "/run/smtpguard/control.sock"
    control_group: str | None = None
    control_verbs: tuple[str, ...] = ("status", "blocks")
    control_allow_max_ns: int = DAY_NS
    nft_table: str = "smtpguard"
    nflog_group: int = 25
    attribution_process: bool = True
    attribution_php: bool = True
    attribution_rdns: bool = True
    accounts: tuple[str, ...] | Literal["auto", "none"] = "auto"
    notify_urls: tuple[str, ...] = ()
    notify_digest: Literal["daily", "weekly", "none"] = "daily"
    notify_hook: tuple[str, ...] | None = None
    metrics_textfile: str | None = None
    metrics_listen: str | None = None
    metrics_users: bool = False
    uid_min: int | None = None
    nat64: tuple[IPv6Network, ...] | Literal["auto", "none"] = "auto"
    text: str | None = field(default=None, compare=False, repr=False)
    warnings: tuple[str, ...] = field(default=(), compare=False)
