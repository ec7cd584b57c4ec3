"""Text of the ruleset: typed values and templates in, what `nft -f` reads out. Pure.

What passes is asked before what is refused: root, loopback, own addresses, exempt destinations, exempt uids; then
`blocked` (every packet, so open sessions end too), `throttled` (SYN only), the cap. Uids are numbers always: nft
would look a name up in passwd. Templates are `string.Template` text; see nft(8) for the language.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_network
from string import Template
from typing import Literal

from smtpguard.actions.base import Passes
from smtpguard.actions.nft.elements import MAX_UID, PERMANENT_NS, Element, merge_intervals
from smtpguard.model import NS
from smtpguard.settings import Cap, Network, Settings

TEMPLATE_NAMES = ("table.nft", "loopback-ignore.nft", "loopback-count.nft", "cap.nft")
MAX_ELEMENTS = 65_536
"""Size of `blocked` and `throttled`: accounts and subordinate ranges in force at once."""
MAX_TIMEOUT_MS = 3650 * 86_400_000
"""Ten years: nft reads no number of milliseconds over 32 bits, and the kernel none over its jiffies."""
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


def render_ruleset(spec: TableSpec, passes: Passes, templates: dict[str, str]) -> str:
    """The whole ruleset as one transaction; elements of `blocked` and `throttled` that are there stay.

    Args:
        spec: The table.
        passes: What passes in spite of any refusal.
        templates: TEMPLATE_NAMES to their text.

    Raises:
        KeyError, ValueError: A template asks for a value that does not exist.
    """
    refuse = "drop" if spec.verdict == "drop" else "reject with tcp reset"
    cap = ""
    if spec.cap is not None:
        rate = render_rate(spec.cap)
        uncapped = ", ".join(_render_ranges(passes.uncapped))
        cap = Template(templates["cap.nft"]).substitute(
            rate=rate,
            burst=max(spec.cap.burst, 1),
            refuse=refuse,
            uncapped=f"meta skuid != {{ {uncapped} }} " if uncapped else "",
        )
    loopback = templates["loopback-ignore.nft" if passes.loopback else "loopback-count.nft"]
    text = Template(templates["table.nft"]).substitute(
        table=spec.table,
        size=spec.size,
        ports=", ".join(map(str, sorted(spec.ports))),
        cap_idle=f"{cap_idle_s(spec.cap)}s",
        loopback=loopback.rstrip("\n"),
        cap=cap.rstrip("\n"),
        refuse=refuse,
    )
    return text.rstrip("\n") + "\n" + _render_passes(spec, passes)


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


def render_timeout(remaining_ns: int) -> str:
    """A timeout in units that nft reads at any length."""
    seconds, ms = divmod(timeout_ms(remaining_ns), 1000)
    return (f"{seconds}s" if seconds else "") + (f"{ms}ms" if ms else "")


def render_element(element: Element, now_ns: int) -> str:
    """One element with what is left of its time."""
    uids = f"{element.first}" if element.first == element.last else f"{element.first}-{element.last}"
    timeout = "" if element.until_ns >= PERMANENT_NS else f" timeout {render_timeout(element.until_ns - now_ns)}"
    comment = f' comment "{element.comment}"' if element.comment else ""
    return f"{uids}{timeout}{comment}"


def render_add(verb: Literal["add", "create"], table: str, name: str, elements: Sequence[Element], now_ns: int) -> str:
    """Command that puts elements into a set; "" for none. `create` fails where one is there already."""
    if not elements:
        return ""
    inner = ", ".join([render_element(element, now_ns) for element in elements])
    return f"{verb} element inet {table} {name} {{ {inner} }}\n"


def render_delete(table: str, name: str, elements: Sequence[Element]) -> str:
    """Command that takes elements out of a set; "" for none. Fails as a whole where one is not there."""
    if not elements:
        return ""
    inner = ", ".join(f"{e.first}" if e.first == e.last else f"{e.first}-{e.last}" for e in elements)
    return f"delete element inet {table} {name} {{ {inner} }}\n"


def render_refresh(table: str, name: str, elements: Sequence[Element], now_ns: int) -> str:
    """Commands that set elements anew whether or not they are there, and whether or not their time was over.

    A plain `add` of what is there leaves the comment, and on older kernels the timeout, as it was.
    """
    present = ", ".join(
        f"{e.first} timeout 1s" if e.first == e.last else f"{e.first}-{e.last} timeout 1s" for e in elements
    )
    return (
        f"add element inet {table} {name} {{ {present} }}\n"
        + render_delete(table, name, elements)
        + render_add("add", table, name, elements, now_ns)
    )


def _render_ranges(uids: Iterable[tuple[int, int]]) -> list[str]:
    ranges = merge_intervals((max(a, 0), min(b, MAX_UID)) for a, b in uids if a <= b)
    return [f"{a}" if a == b else f"{a}-{b}" for a, b in ranges]


def _render_passes(spec: TableSpec, passes: Passes) -> str:
    v4, v6 = split_networks(passes.networks)
    uids = _render_ranges(passes.uids)
    lines = [
        f"add element inet {spec.table} {name} {{ {', '.join(map(str, values))} }}\n"
        for name, values in (("exempt", uids), ("exempt4", v4), ("exempt6", v6))
        if values
    ]
    return "".join(lines)
