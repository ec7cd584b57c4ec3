"""The ruleset: typed values and templates in, nft's language and what its sets hold out. Pure.

What passes is asked before what is refused: root, loopback, own addresses, exempt destinations, exempt uids; then
`blocked` (every packet, so open sessions end too), `throttled` (SYN only), the cap. The text that is compiled names no
uid and no address: these are elements of sets, written as numbers. Templates are `string.Template` text; see nft(8).
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_network
from string import Template
from typing import Literal, NamedTuple

from smtpguard.actions.base import Exemptions
from smtpguard.actions.nft.elements import MAX_UID, Interval, merge_intervals
from smtpguard.model import NS
from smtpguard.settings import Cap, Network, Settings

TEMPLATE_NAMES = (
    "table.nft",
    "port-set.nft",
    "port-rule.nft",
    "loopback-ignore.nft",
    "loopback-count.nft",
    "cap.nft",
)
MAX_ELEMENTS = 65_536
"""Size of `blocked` and `throttled`: accounts and subordinate ranges in force at once."""
MAX_TIMEOUT_MS = 3650 * 86_400_000
"""Ten years: the kernel takes no more than its jiffies hold."""
_MAPPED = ip_network("::ffff:0:0/96")
_UNITS = (("second", 1), ("minute", 60), ("hour", 3600), ("day", 86_400), ("week", 604_800))
_MIN_CAP_IDLE_S = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class TableSpec:
    """What of the settings shapes the table.

    Attributes:
        table: Its name, in family inet.
        ports: Destination ports whose packets are looked at.
        verdict: "reject" answers with a tcp reset, "drop" with silence.
        cap: The token bucket per user; None for none.
        size: Most elements in each of `blocked` and `throttled`.
    """

    table: str = "smtpguard"
    ports: frozenset[int] = frozenset({25, 465, 587, 2525})
    verdict: Literal["reject", "drop"] = "reject"
    cap: Cap | None = None
    size: int = MAX_ELEMENTS


def build_spec(settings: Settings) -> TableSpec:
    """The table that the settings ask for. Dry run has no cap: it would refuse."""
    return TableSpec(
        table=settings.nft_table,
        ports=settings.ports,
        verdict="drop" if settings.block_verdict == "drop" else "reject",
        cap=None if settings.dry_run else settings.cap,
    )


class Content(NamedTuple):
    """What one of our sets is to hold, exactly.

    Attributes:
        width: Bytes of a key.
        intervals: Inclusive, sorted, disjoint; keys as numbers.
    """

    width: int
    intervals: tuple[Interval, ...]


def list_contents(spec: TableSpec, exemptions: Exemptions) -> dict[str, Content]:
    """Sets that hold what the configuration and the host say, by name; not those of who is refused."""
    v4, v6 = split_networks(exemptions.networks)
    uids = _merge_uids(exemptions.uids)
    return {
        "ports": Content(2, tuple(merge_intervals((port, port) for port in spec.ports))),
        "root": Content(4, ((0, 0),)),
        "exempt": Content(4, uids),
        "exempt4": Content(4, tuple(merge_intervals(map(_bounds, v4)))),
        "exempt6": Content(16, tuple(merge_intervals(map(_bounds, v6)))),
        "uncapped": Content(4, _merge_uids(exemptions.uncapped)),
    }


def render_shape(spec: TableSpec, exemptions: Exemptions, templates: Mapping[str, str]) -> str:
    """The table without what `list_contents` puts into its sets: what is compiled.

    Args:
        spec: The table.
        exemptions: Whether loopback passes.
        templates: TEMPLATE_NAMES to their text.

    Raises:
        KeyError, ValueError: A template asks for a value that does not exist.
    """
    refuse = "drop" if spec.verdict == "drop" else "reject with tcp reset"
    ports = [{"port": str(port), "size": str(spec.size), "refuse": refuse} for port in sorted(spec.ports)]
    cap = ""
    if spec.cap is not None:
        uncapped = ", ".join(map(_render_interval, _merge_uids(exemptions.uncapped)))
        cap = Template(templates["cap.nft"]).substitute(
            rate=render_rate(spec.cap),
            burst=max(spec.cap.burst, 1),
            refuse=refuse,
            uncapped=f"meta skuid != {{ {uncapped} }} " if uncapped else "",  # asked for by templates of before 0.2
        )
    loopback = templates["loopback-ignore.nft" if exemptions.loopback else "loopback-count.nft"]
    text = Template(templates["table.nft"]).substitute(
        table=spec.table,
        size=spec.size,
        ports=", ".join(map(str, sorted(spec.ports))),
        port_sets="".join(Template(templates["port-set.nft"]).substitute(values) for values in ports),
        port_rules="".join(Template(templates["port-rule.nft"]).substitute(values) for values in ports).rstrip("\n"),
        cap_idle=f"{cap_idle_s(spec.cap)}s",
        loopback=loopback.rstrip("\n"),
        cap=cap.rstrip("\n"),
        refuse=refuse,
    )
    return text.rstrip("\n") + "\n"


def render_ruleset(spec: TableSpec, exemptions: Exemptions, templates: Mapping[str, str]) -> str:
    """The whole as `nft -f` would read it, for people and tests; arguments and errors as of `render_shape`."""
    shape = render_shape(spec, exemptions, templates)
    lines = []
    for name, content in list_contents(spec, exemptions).items():
        if not re.search(rf"\bset {name}\b", shape):
            continue
        lines.append(f"flush set inet {spec.table} {name}\n")
        values = _render_values(name, content, exemptions)
        if values:
            lines.append(f"add element inet {spec.table} {name} {{ {', '.join(values)} }}\n")
    return shape + "".join(lines)


def render_rate(cap: Cap) -> str:
    """The refill of a bucket in nft's units, rounded down where no unit fits, at least one a week."""
    for unit, seconds in sorted(_UNITS, key=lambda entry: entry[1] * NS != cap.per_ns):  # as it was written, first
        tokens, rest = divmod(cap.rate * seconds * NS, cap.per_ns)
        if tokens and not rest:
            return f"{tokens}/{unit}"
    for unit, seconds in _UNITS:
        tokens = cap.rate * seconds * NS // cap.per_ns
        if tokens >= 1000:  # the error of rounding down is then below 0.1 %
            return f"{tokens}/{unit}"
    return f"{max(cap.rate * 604_800 * NS // cap.per_ns, 1)}/week"


def cap_idle_s(cap: Cap | None) -> int:
    """How long a bucket is kept without use: until it would be full again, ten minutes at least."""
    if cap is None:
        return _MIN_CAP_IDLE_S
    return max(_MIN_CAP_IDLE_S, -(-max(cap.burst, 1) * cap.per_ns // (max(cap.rate, 1) * NS)) + 1)


def split_networks(networks: Iterable[Network]) -> tuple[list[IPv4Network], list[IPv6Network]]:
    """The networks by family, joined where they overlap; IPv4-mapped ones are IPv4 in every packet."""
    v4: list[IPv4Network] = []
    v6: list[IPv6Network] = []
    for network in networks:
        if isinstance(network, IPv4Network):
            v4.append(network)
        elif network.subnet_of(_MAPPED):  # type: ignore[arg-type] # ip_network() of v6 text is an IPv6Network
            v4.append(IPv4Network((int(network.network_address) & 0xFFFF_FFFF, network.prefixlen - 96)))
        else:
            v6.append(network)
    return list(collapse_addresses(v4)), list(collapse_addresses(v6))


def timeout_ms(remaining_ns: int) -> int:
    """A timeout that ends neither early nor a millisecond late: rounded up, 1 ms at least, MAX_TIMEOUT_MS at most."""
    return min(max(-(-remaining_ns // 1_000_000), 1), MAX_TIMEOUT_MS)


def _merge_uids(uids: Iterable[Interval]) -> tuple[Interval, ...]:
    return tuple(merge_intervals((max(a, 0), min(b, MAX_UID)) for a, b in uids if a <= b))


def _bounds(network: IPv4Network | IPv6Network) -> Interval:
    return int(network.network_address), int(network.broadcast_address)


def _render_interval(interval: Interval) -> str:
    first, last = interval
    return f"{first}" if first == last else f"{first}-{last}"


def _render_values(name: str, content: Content, exemptions: Exemptions) -> list[str]:
    v4, v6 = split_networks(exemptions.networks)
    return {"exempt4": list(map(str, v4)), "exempt6": list(map(str, v6))}.get(
        name, list(map(_render_interval, content.intervals))
    )
