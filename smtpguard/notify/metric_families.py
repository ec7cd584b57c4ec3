"""The names of all metrics, their kinds, labels and meanings: CONTRACT. docs/metrics.md has the same table.

What the daemon counts comes in its snapshot; what the notifying process counts of itself is added beside it.
"""

from dataclasses import dataclass
from typing import Literal

PREFIX = "smtpguard_"
NOTIFICATION_KINDS = ("incident-begins", "incident-over", "breaker", "blind", "state", "digest", "listed", "test")
CHANNELS = ("webhook", "hook", "mail", "apprise")
RESULTS = ("sent", "failed", "given-up")
CUSTOMER = ("customer", "customers")
"""Kind and channel of what customers are told: a channel of its own for a kind of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """All series of one name.

    Attributes:
        name: Without PREFIX.
        kind: As Prometheus calls it.
        labels: Names of its labels, in the order of the snapshot's rows.
        meaning: One sentence, for HELP and the documentation.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    meaning: str
    labels: tuple[str, ...] = ()


FAMILIES = (
    Family(
        name="build_info",
        kind="gauge",
        labels=("version", "source", "mode"),
        meaning="Always 1: the version, the source that leads (or none), and enforce, dry-run or off.",
    ),
    Family(name="start_time_seconds", kind="gauge", meaning="When the guard started. All counters begin then."),
    Family(
        name="guarding",
        kind="gauge",
        meaning="1 if a source sees and enforcement is in place where it is wanted; 0 if not, or switched off.",
    ),
    Family(name="dry_run", kind="gauge", meaning="1 if the configuration says dry run: nobody is refused."),
    Family(name="breaker_tripped", kind="gauge", meaning="1 while the safety brake makes throttles of blocks."),
    Family(
        name="connects_total",
        kind="counter",
        labels=("sensor", "port", "result"),
        meaning="Attempts to connect, each that has or would have a CONNECT line; result is - where it is not known.",
    ),
    Family(
        name="direct_smtp_egress_findings_total",
        kind="counter",
        labels=("sensor",),
        meaning="Attempts of who is neither root nor a mail server nor exempt.",
    ),
    Family(
        name="messages_total",
        kind="counter",
        labels=("mta",),
        meaning="Messages handed to the local mail server. Not counted in this version.",
    ),
    Family(
        name="recipients_total",
        kind="counter",
        labels=("mta",),
        meaning="Recipients of these messages. Not counted in this version.",
    ),
    Family(
        name="verdicts_total",
        kind="counter",
        labels=("rule", "action", "mode"),
        meaning="How often a rule was exceeded, each an EXCEEDED line.",
    ),
    Family(
        name="refusals_total",
        kind="counter",
        labels=("by",),
        meaning="Attempts refused: by a block, a throttle, a limit in the kernel (credit), the cap, or other programs.",
    ),
    Family(name="blocks", kind="gauge", labels=("kind", "mode"), meaning="Blocks, throttles and holds now in force."),
    Family(
        name="out_of_step",
        kind="gauge",
        meaning="What the kernel does not do as listed, as found last; 1 as well if nobody can look.",
    ),
    Family(
        name="losses_total",
        kind="counter",
        labels=("sensor", "reason"),
        meaning="Events lost or not readable, by sensor; for sensor - what was dropped further on.",
    ),
    Family(
        name="part_failures_total",
        kind="counter",
        labels=("part",),
        meaning="Errors of parts of the guard, from which they went on.",
    ),
    Family(
        name="response_seconds",
        kind="histogram",
        meaning="From the attempt that was one too many to its user being refused in the kernel.",
    ),
    Family(
        name="last_event_timestamp_seconds", kind="gauge", meaning="When the newest attempt was seen; 0 if none was."
    ),
    Family(
        name="notifications_total",
        kind="counter",
        labels=("kind", "channel", "result"),
        meaning="Notifications sent, attempts that failed and are made again, and notifications given up.",
    ),
    Family(name="spool_entries", kind="gauge", labels=("what",), meaning="What waits to be written or sent."),
    Family(
        name="user_connects_total",
        kind="counter",
        labels=("user",),
        meaning="Attempts of users over half of a limit, 50 at most.",
    ),
)

BLOCK_LISTS = (
    Family(
        name="listed",
        kind="gauge",
        labels=("zone", "address"),
        meaning="1 while a block list has an address of this host, as far as it was known last; where lists are named.",
    ),
    Family(
        name="listed_asked",
        kind="gauge",
        labels=("zone",),
        meaning="1 if the block list could be asked the last time; 0 if not, or not yet; where lists are named.",
    ),
)
"""Series that are there only where block lists are named."""
