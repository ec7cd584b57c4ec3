"""The configuration as typed values, after the file was read, checked and merged with the defaults.

Pure: `load.py` reads files, the JSON Schema in config/ checks them, `build_settings` there makes these.
Durations are nanoseconds (`_ns`) so that they add to event times. See CONTRACT "Configuration" for every key.
"""

from dataclasses import dataclass, field
from ipaddress import IPv6Network
from typing import Any, Literal

from smtpguard.model import NS, Action, Count
from smtpguard.settings.keys import live, restart, section
from smtpguard.settings.listed import ListedSettings
from smtpguard.settings.notations import Network as Network
from smtpguard.settings.notify import NotifySettings
from smtpguard.settings.readers import (
    read_choice,
    read_command,
    read_host_names,
    read_journal,
    read_megabytes,
    read_networks,
    read_translators,
    read_uids,
)

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
        packages: Hosting packages or globs, from the panel.
        resellers: The panel's names of resellers, or globs.
    """

    users: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    uids: tuple[tuple[int, int], ...] = ()
    packages: tuple[str, ...] = ()
    resellers: tuple[str, ...] = ()


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

    users: tuple[str, ...] = field(default=(), metadata=live("exempt.users", tuple))
    groups: tuple[str, ...] = field(default=(), metadata=live("exempt.groups", tuple))
    uids: tuple[tuple[int, int], ...] = field(default=(), metadata=live("exempt.uids", read_uids))
    networks: tuple[Network, ...] = field(default=(), metadata=live("exempt.destinations", read_networks))
    names: tuple[str, ...] = field(default=(), metadata=live("exempt.destinations", read_host_names))


@dataclass(frozen=True, slots=True, kw_only=True)
class Escalation:
    """How much longer each further block lasts, and whether one goes on while its user goes on trying."""

    factor: float = field(default=2.0, metadata=live("escalation.factor", float))
    max_ns: int = field(default=DAY_NS, metadata=live("escalation.max"))
    forget_ns: int = field(default=7 * DAY_NS, metadata=live("escalation.forget"))
    still_trying: Literal["extend", "end"] = field(default="extend", metadata=live("escalation.still_trying"))


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerLimits:
    """More than `blocks` new blocks within `per_ns`: throttle only."""

    blocks: int = field(default=3, metadata=live("breaker.blocks"))
    per_ns: int = field(default=10 * MINUTE_NS, metadata=live("breaker.per"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Cap:
    """A token bucket per user in the kernel: `burst` tokens, refilled at `rate` per `per_ns`."""

    rate: int
    per_ns: int
    burst: int


def _read_cap(value: dict[str, Any] | None, /) -> Cap | None:
    if value is None:
        return None
    rate, per_ns = value["rate"]
    return Cap(rate=rate, per_ns=per_ns, burst=value["burst"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The whole configuration. Built only by `build.py`; field defaults are those of CONTRACT.

    A field's metadata says which key it is of, how that is read, and whether a reload puts it in force.

    Attributes:
        path: File it came from; None for the shipped defaults.
        text: What that file held.
        warnings: What it says that is not heeded any more.
        overrides: CONTRACT's `users`.
        shared_users, shared_block: Accounts that many sites share, and those of them that may be refused.
        shared_shipped: Those of shared_users that nobody wrote here: they hold below UID_MIN only.
        shipped_rules: Names of the rules that nobody wrote here, or only copied: one that can't be counted is no error.
        log_journal: journald's socket, where the event log's lines go too; None if they do not.
        log_connects: Whether CONNECT lines are written.
        control_group, control_verbs: Who else may use the control socket, and for what.
        control_allow_max_ns: For how long at most they may allow somebody.
        audit_log: The log that audit-log follows; None for auditd.conf's.
        audit_node: What this host is called in that log; None for what auditd.conf and the host's own files say.
        uid_min: First uid of people; None for UID_MIN of login.defs.
        nat64: Prefixes of the host's own translators, or who knows them.
        accounts: Who tells whose a user is: the panel, nobody, or a command as argv.
    """

    path: str | None = None
    dry_run: bool = field(default=True, metadata=live("dry_run"))
    sources: tuple[str, ...] | Literal["auto", "none"] = field(default="auto", metadata=restart("sources", read_choice))
    ports: frozenset[int] = field(default=frozenset({25, 465, 587, 2525}), metadata=live("ports", frozenset))
    cgroup: str = field(default="auto", metadata=restart("cgroup"))
    audit_enable: bool = field(default=False, metadata=restart("audit.enable"))
    audit_uid: int | None = field(default=None, metadata=restart("audit.uid"))
    audit_log: str | None = field(default=None, metadata=restart("audit.log"))
    audit_node: str | None = field(default=None, metadata=restart("audit.node"))
    rules: tuple[Rule, ...] = field(default=(), metadata=live("rules", None))
    shipped_rules: frozenset[str] = field(default=frozenset(), metadata=live("rules", None))
    overrides: tuple[Override, ...] = field(default=(), metadata=live("users", None))
    shared_users: frozenset[str] = field(default=frozenset(), metadata=live("shared_users.users", frozenset))
    shared_shipped: frozenset[str] = field(default=frozenset(), metadata=live("shared_users.users", None))
    shared_block: frozenset[str] = field(default=frozenset(), metadata=live("shared_users.block", frozenset))
    exempt: Exempt = field(default_factory=Exempt, metadata=section(Exempt))
    loopback: Literal["ignore", "count"] = field(default="ignore", metadata=live("loopback"))
    escalation: Escalation = field(default_factory=Escalation, metadata=section(Escalation))
    breaker: BreakerLimits = field(default_factory=BreakerLimits, metadata=section(BreakerLimits))
    block_verdict: Literal["reject", "drop", "tell"] = field(default="reject", metadata=live("block.verdict"))
    block_by: Literal["guard", "fail2ban"] = field(default="guard", metadata=live("block.by"))
    cap: Cap | None = field(default=None, metadata=live("cap", _read_cap))
    log_path: str = field(default="/var/log/smtpguard/events.log", metadata=restart("log.path"))
    log_journal: str | None = field(default=None, metadata=restart("log.journal", read_journal))
    log_connects: bool = field(default=True, metadata=restart("log.connects"))
    state_path: str = field(default="/var/lib/smtpguard/state.db", metadata=restart("state.path"))
    state_keep_ns: int = field(default=30 * DAY_NS, metadata=restart("state.keep"))
    state_max_bytes: int = field(default=500_000_000, metadata=restart("state.max_mb", read_megabytes))
    control_socket: str = field(default="/run/smtpguard/control.sock", metadata=restart("control.socket"))
    control_group: str | None = field(default=None, metadata=restart("control.group"))
    control_verbs: tuple[str, ...] = field(
        default=("status", "blocks", "why"), metadata=restart("control.verbs", tuple)
    )
    control_allow_max_ns: int = field(default=DAY_NS, metadata=restart("control.allow_max"))
    uid_min: int | None = field(default=None, metadata=live("uid_min"))
    nat64: tuple[IPv6Network, ...] | Literal["auto", "none"] = field(
        default="auto", metadata=live("nat64", read_translators)
    )
    nft_table: str = field(default="smtpguard", metadata=restart("nft.table"))
    nflog_group: int = field(default=25, metadata=restart("nft.nflog_group"))
    attribution_process: bool = field(default=True, metadata=restart("attribution.process"))
    attribution_php: bool = field(default=True, metadata=restart("attribution.php"))
    attribution_rdns: bool = field(default=True, metadata=restart("attribution.rdns"))
    accounts: tuple[str, ...] | Literal["auto", "none"] = field(
        default="auto", metadata=restart("accounts", read_command)
    )
    notify: NotifySettings = field(default_factory=NotifySettings, metadata=section(NotifySettings))
    listed: ListedSettings = field(default_factory=ListedSettings, metadata=section(ListedSettings))
    metrics_textfile: str | None = field(default=None, metadata=restart("metrics.textfile"))
    metrics_users: bool = field(default=False, metadata=restart("metrics.users"))
    metrics_group: str | None = field(default=None, metadata=restart("metrics.group"))
    text: str | None = field(default=None, compare=False, repr=False)
    warnings: tuple[str, ...] = field(default=(), compare=False)
