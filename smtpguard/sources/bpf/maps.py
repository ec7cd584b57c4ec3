"""The maps of connect.bpf.c as Python sees them: layouts, and the sets that are changed by difference.

Every layout here is a struct of layout.bpf.h, in the machine's byte order; uids and addresses in LPM keys are
big-endian, because a trie compares from the first bit (bpf documentation, map_lpm_trie).
"""

import ctypes
import mmap
import struct
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Network

from smtpguard.settings import Network
from smtpguard.sources.bpf.objects import Map

FLAG_ENFORCE, FLAG_LOOPBACK, FLAG_CREDITS, FLAG_CAP, FLAG_PACED, FLAG_TELL = 1, 2, 4, 8, 16, 32
FLAG_LOOK, FLAG_EXACT, FLAG_NOTING = 64, 128, 256
COUNT_LOST, COUNT_UNCREDITED, COUNT_UNKEYED, COUNT_HELD, COUNT_UNTRACKED, COUNT_UNFOLLOWED = range(6)
COUNT_UNSENT = 8
PORT_GUARDED, PORT_TELL = 1 << 31, 1 << 30
MAX_RULES = 16

_UID_BITS = 32
_PRESENT = struct.pack("=I", 1)
_SUBJECT = struct.Struct("=IIQ")
_ENDS = struct.Struct("=QQ")
_MAPPED = IPv6Network("::ffff:0:0/96")


def split_range(first: int, count: int) -> list[tuple[int, int]]:
    """A range of uids as prefixes, (uid, bits), the fewest there are; what lies beyond 32 bits is cut off.

    Args:
        first: First uid.
        count: How many; nothing for 0 or less.
    """
    prefixes = []
    end = min(first + count, 1 << _UID_BITS)
    first = max(first, 0)
    while first < end:
        size = 1 << min((first & -first).bit_length() - 1 if first else _UID_BITS, (end - first).bit_length() - 1)
        prefixes.append((first, _UID_BITS - size.bit_length() + 1))
        first += size
    return prefixes


def pack_uid_prefix(uid: int, bits: int) -> bytes:
    """Key of an LPM trie over uids."""
    return struct.pack("=I", bits) + struct.pack(">I", uid)


def pack_denied_prefix(uid: int, bits: int, port: int | None) -> bytes:
    """Key of the LPM trie over denied uids of one port, or of all (None): the port is always compared in full."""
    return struct.pack("=I", bits + _UID_BITS) + struct.pack(">II", port or 0, uid)


def pack_network(network: Network) -> tuple[int, bytes]:
    """IP version and LPM key of a network; an IPv4-mapped one becomes IPv4, as the program does with addresses."""
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
        network = IPv4Network((IPv4Address(network.network_address.packed[12:]), network.prefixlen - 96))
    return network.version, struct.pack("=I", network.prefixlen) + network.network_address.packed


_TRANSLATOR = struct.Struct("=10Q")
_HALVES: dict[int, tuple[tuple[int, int], tuple[int, int], int]] = {
    32: ((8, 0xFFFFFF), (0, 0), 0),
    40: ((0, 0xFFFFFF), (0, 0), 0),
    48: ((0, 0xFFFF), (48, 0xFF), 8),
    56: ((0, 0xFF), (40, 0xFFFF), 16),
    64: ((0, 0), (32, 0xFFFFFF), 0),
    96: ((0, 0), (8, 0xFFFFFF), 0),
}
"""By the length of a prefix: how the halves of an address hold the first three bytes of an IPv4 one (RFC 6052)."""


def pack_translator(prefix: IPv6Network) -> bytes:
    """Value of the map of NAT64 prefixes."""
    number, mask = int(prefix.network_address), int(prefix.netmask)
    (shift1, keep1), (shift2, keep2), up = _HALVES[prefix.prefixlen]
    low = (1 << 64) - 1
    halves = (number >> 64, number & low, mask >> 64, mask & low)
    return _TRANSLATOR.pack(1, *halves, shift1, shift2, keep1, keep2, up)


def pack_subject(uid: int, netns: int, port: int | None = None) -> bytes:
    """Key of a hash over subjects; netns 0 is the guard's own namespace. Only denies are of one port."""
    return _SUBJECT.pack(uid, port or 0, netns)


def unpack_subject(key: bytes) -> tuple[int, int]:
    """(uid, netns) of a key."""
    uid, _, netns = _SUBJECT.unpack(key)
    return uid, netns


def unpack_denied(key: bytes) -> tuple[int, int | None, int]:
    """(uid, port, netns) of a deny's key; None for all ports."""
    uid, port, netns = _SUBJECT.unpack(key)
    return uid, port or None, netns


def pack_ends(block_ns: int, throttle_ns: int) -> bytes:
    """Value of a deny: CLOCK_BOOTTIME ends, 0 for none."""
    return _ENDS.pack(block_ns, throttle_ns)


def unpack_ends(value: bytes) -> tuple[int, int]:
    """(block_ns, throttle_ns) of a value."""
    block_ns, throttle_ns = _ENDS.unpack(value)
    return block_ns, throttle_ns


class KeySet:
    """A map used as a set or a table that is replaced as a whole, without a moment in which less is in it."""

    def __init__(self, table: Map) -> None:
        self._table = table
        self._present: dict[bytes, bytes] = {}

    def replace(self, entries: dict[bytes, bytes] | Iterable[bytes]) -> None:
        """Make the map hold exactly these: first what is new, then what is gone. Raises BpfError, E2BIG when full."""
        wanted = entries if isinstance(entries, dict) else dict.fromkeys(entries, _PRESENT)
        for key, value in wanted.items():
            if self._present.get(key) != value:
                self._table.update(key, value)
                self._present[key] = value
        for key in [key for key in self._present if key not in wanted]:
            self._table.delete(key)
            del self._present[key]


class _ConfigLayout(ctypes.Structure):
    _fields_ = (
        ("own_netns", ctypes.c_uint64),
        ("probe_cookie", ctypes.c_uint64),
        ("heartbeat_ns", ctypes.c_uint64),
        ("drained_ns", ctypes.c_uint64),
        ("cap_interval_ns", ctypes.c_uint64),
        ("cap_depth_ns", ctypes.c_uint64),
        ("flags", ctypes.c_uint32),
        ("tell_port", ctypes.c_uint16),
        ("reserved", ctypes.c_uint16),
        ("keyed", ctypes.c_uint32),
        ("holding", ctypes.c_uint32),
        ("reading_ns", ctypes.c_uint64),
    )


class ConfigPage:
    """The program's `config`, mapped into our memory: each field is one aligned store, seen by the next connect()."""

    def __init__(self, table: Map) -> None:
        self._memory = mmap.mmap(table.fd, mmap.PAGESIZE)
        self._layout: _ConfigLayout | None = _ConfigLayout.from_buffer(self._memory)

    @property
    def fields(self) -> _ConfigLayout:
        """The live fields."""
        if self._layout is None:
            raise ValueError("the config page is closed")
        return self._layout

    def set_flag(self, flag: int, *, on: bool) -> None:
        """Switch one flag."""
        self.fields.flags = self.fields.flags | flag if on else self.fields.flags & ~flag

    def close(self) -> None:
        """Unmap it; may be called twice."""
        if self._layout is not None:
            self._layout = None
            self._memory.close()
