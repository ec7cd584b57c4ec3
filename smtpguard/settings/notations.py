"""The small notations of the configuration: durations, uid ranges, destinations, rates. Pure; ValueError says why.

The commands use them too: `--for 1h`. A text that is something else altogether raises "not a ...".
"""

import re
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from smtpguard.model import NS

Network = IPv4Network | IPv6Network
MAX_UID = 0xFFFF_FFFE
"""4294967295 is (uid_t) -1, which means no uid."""
MAX_DURATION_NS = 3650 * 86400 * NS
_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_PER_S = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}
_DURATION = re.compile(r"([1-9][0-9]{0,8})([smhd])", re.ASCII)
_UIDS = re.compile(r"([0-9]{1,10})(?:-([0-9]{1,10}))?", re.ASCII)
_RATE = re.compile(r"([1-9][0-9]{0,5})/(second|minute|hour|day)", re.ASCII)
_LABEL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?", re.ASCII)
MAX_ZONE = 180
"""64 characters of an IPv6 address are put before it, and a name has 253."""
_MAPPED = IPv6Network("::ffff:0:0/96")


def fits_pattern(pattern: str, text: str) -> bool:
    """Whether a text fits a pattern of the JSON Schema, where `$` is the end of it.

    Python's `$` also stands before a line's end, and YAML's `key: |` ends every text with one.
    """
    return re.search(pattern.replace("$", r"\Z"), text) is not None


def parse_duration(text: str) -> int:
    """`30s`, `1m`, `1h`, `7d` in nanoseconds; more than nothing, at most ten years.

    Raises:
        ValueError: It is none.
    """
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError("not a duration such as 30s, 1m, 1h or 7d")
    duration_ns = int(match[1]) * _UNIT_S[match[2]] * NS
    if duration_ns > MAX_DURATION_NS:
        raise ValueError("longer than ten years")
    return duration_ns


def parse_uids(value: str | int) -> tuple[int, int]:
    """`2000` or `2000-2999` as the first and the last uid.

    Raises:
        ValueError: It is neither, or goes backwards.
    """
    if isinstance(value, int):
        return value, value
    match = _UIDS.fullmatch(value)
    if match is None:
        raise ValueError("not a uid or a range such as 2000-2999")
    first = int(match[1])
    last = int(match[2] or match[1])
    if first > last:
        raise ValueError("the first is greater than the last")
    if last > MAX_UID:
        raise ValueError(f"there is no uid above {MAX_UID}")
    return first, last


_SERVER = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9.-]+)):([0-9]{1,5})")
_NO_SERVER = "not an address and a port such as 127.0.0.1:25"


def parse_server(text: str) -> tuple[str, int]:
    """`127.0.0.1:25`, `[::1]:25` or `mail.example.org:25` as host and port.

    Raises:
        ValueError: It is none of these.
    """
    match = _SERVER.fullmatch(text)
    if match is None or not 0 < int(match[3]) < 65_536:
        raise ValueError(_NO_SERVER)
    try:
        host = parse_one_address(match[1]) if match[1] else _parse_host(match[2])
    except ValueError as error:
        raise ValueError(_NO_SERVER) from error
    return host, int(match[3])


def _parse_host(text: str) -> str:
    """An address of IPv4, or a host name; as it is written. Raises ValueError."""
    if isinstance(parse_destination(text), str) or "/" not in text:
        return text
    raise ValueError("not a host")


_ZONED = re.compile(r"([0-9A-Fa-f:.]+)(?:%[A-Za-z0-9_.-]+)?", re.ASCII)
"""An address of IPv6 with its interface, as in fe80::1%eth0."""
_NO_URL = "not an address such as https://example.org/hook"


def check_url(text: str) -> str:
    """An address of http or https, as it is written: its host can be looked up, and its port is one.

    Raises:
        ValueError: It is none.
    """
    from urllib.parse import urlsplit  # 5 ms; most have no such address

    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
        if ":" in host:
            zoned = _ZONED.fullmatch(host)
            parse_one_address(zoned[1] if zoned else host)
        else:
            _parse_host(host.encode("idna").decode("ascii"))
    except ValueError as error:
        raise ValueError(_NO_URL) from error
    if port == 0:
        raise ValueError(_NO_URL)
    return text


def parse_zone(text: str) -> str:
    """A DNS block list by its name, such as zen.spamhaus.org, in small letters.

    Raises:
        ValueError: It is none.
    """
    name = text.removesuffix(".").lower()
    labels = name.split(".")
    if len(labels) < 2 or labels[-1].isdigit() or not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError("not the name of a block list such as zen.spamhaus.org")
    if len(name) > MAX_ZONE:
        raise ValueError(f"longer than {MAX_ZONE} characters")
    return name


def parse_one_address(text: str) -> str:
    """An address of IPv4 or IPv6, in its shortest form.

    Raises:
        ValueError: It is none.
    """
    try:
        address = ip_address(text)
    except ValueError as error:
        raise ValueError("not an address such as 203.0.113.5") from error
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    if "%" in text:
        raise ValueError("not an address such as 203.0.113.5")
    return str(mapped or address)


TRANSLATOR_LENGTHS = (32, 40, 48, 56, 64, 96)
"""RFC 6052, 2.2."""


def parse_destination(text: str) -> Network | str:
    """An address, a network or a host name.

    An IPv4-mapped IPv6 network comes back as the IPv4 one: that is how sensors and kernel name such a destination.

    Raises:
        ValueError: It is none of them; a network with host bits set is none either.
    """
    if ":" in text or "/" in text or text.replace(".", "").isdigit():
        try:
            network = ip_network(text)
        except ValueError as error:
            raise ValueError(_find_network_fault(text)) from error
        if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
            return IPv4Network((int(network.network_address) & 0xFFFF_FFFF, network.prefixlen - 96))
        return network
    name = text.removesuffix(".")
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in name.split(".")):
        raise ValueError("not an address, a network or a host name")
    return name.lower()


def parse_translator(text: str) -> IPv6Network:
    """A prefix of NAT64.

    Raises:
        ValueError: It is none: RFC 6052 has six lengths.
    """
    try:
        network = ip_network(text)
    except ValueError as error:
        raise ValueError(_find_network_fault(text)) from error
    if not isinstance(network, IPv6Network) or network.prefixlen not in TRANSLATOR_LENGTHS:
        raise ValueError("not an IPv6 network of /32, /40, /48, /56, /64 or /96")
    return network


def _find_network_fault(text: str) -> str:
    try:
        return f"host bits are set: {ip_network(text, strict=False)} would be the network"
    except ValueError:
        return "not an address or a network"


def parse_rate(text: str) -> tuple[int, int]:
    """`60/minute` as so many per so many nanoseconds.

    Raises:
        ValueError: It is no rate.
    """
    match = _RATE.fullmatch(text)
    if match is None:
        raise ValueError("not a rate such as 60/minute (second, minute, hour, day)")
    return int(match[1]), _PER_S[match[2]] * NS
