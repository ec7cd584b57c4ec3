"""A SYSCALL record with its SOCKADDR in the next line, read in one go: how nearly all connects stand in a log.

The regex only cuts the two lines into pieces, in the order of the fields, with loops over one excluded byte, which are
several times quicker than classes of bytes. What a piece says is read strictly once and remembered by its bytes: the
same seconds, uids and programs come again and again. A pair with anything unusual in it (a call that is no plain
connect, a repeat on one socket, a text that can't be read) is left to the general way in `decode.audit`.
"""

import re
from binascii import unhexlify
from typing import Protocol, TypeVar

from smtpguard.decode.audit.fields import (
    MIN_DIGITS,
    is_same_address,
    parse_fraction,
    parse_seconds,
    parse_text,
    parse_uid,
    parse_user,
)
from smtpguard.decode.audit.index import Key
from smtpguard.decode.audit.record import AUID, CALL, IDS, PROGRAM, is_plain_connect
from smtpguard.decode.sockaddr import parse_sockaddr
from smtpguard.errors import DecodeError
from smtpguard.fast_dataclass import quick_maker
from smtpguard.model import Connect

_MAX_REMEMBERED = 4096
"""Of each kind of piece; then all are forgotten. Some 3 MB in all where there are as many users and sessions."""

_match_pair = re.compile(
    rb"(?:node=([^ \n]++) )?type=SYSCALL msg=audit\((([^.]++)\.([^:]++):[0-9]{1,20}+)\): (arch=[^x]++xit=[^ ]++)"
    rb" a0=([0-9a-f]{1,16}+) a1=[^ ]++ a2=[0-9a-f]{1,16}+ a3=[0-9a-f]{1,16}+ items=[^ ]++"
    rb" ppid=[^ ]++ pid=([0-9]{1,10}+)( auid=[^t]++)(tty=[^\n]++)\n"
    rb"(?(1)node=\1 )type=SOCKADDR msg=audit\(\2\): saddr=([^\n]++)\n"
).match
_match_call = re.compile(CALL).fullmatch
_match_ids = re.compile(AUID + IDS + rb" ").fullmatch
_match_program = re.compile(PROGRAM[1:] + rb"(?:[ \r][^\x1d\n]*+)?").fullmatch

_FIELDS = ("time_ns", "pid", "uid", "euid", "proc", "exe", "user", "port", "address", "sensor")
make_connect = quick_maker(Connect, *_FIELDS)
"""A Connect of what an audit event says."""
make_noded = quick_maker(Connect, *_FIELDS, "node")
"""The same, of an event that names its host."""

V = TypeVar("V")
V_co = TypeVar("V_co", covariant=True)

Pair = tuple[Key, int, bytes, bytes, bool, Connect]
"""Node and serial, where the second line ends, descriptor, exit value, whether it is ENRICHED, and what came of it. A
bare tuple: this is the hottest place of all."""


class ToEventNs(Protocol):
    """Maps wall time to event time."""

    def __call__(self, wall_ns: int, /) -> int:
        """The event time, in nanoseconds."""
        ...


class ReadPiece(Protocol[V_co]):
    """Reads a piece of a record."""

    def __call__(self, piece: bytes, /) -> V_co:
        """What it says. Raises DecodeError."""
        ...


class _Memo(dict[bytes, V]):
    """What pieces say, by their bytes. A piece that can't be read raises DecodeError each time."""

    __slots__ = ("_read",)

    def __init__(self, read: ReadPiece[V]) -> None:
        self._read = read

    def __missing__(self, piece: bytes) -> V:
        value = self._read(piece)
        if len(self) >= _MAX_REMEMBERED:
            self.clear()
        self[piece] = value
        return value


class PairReader:
    """Reads pairs, and remembers their pieces.

    Args:
        sensor: What the Connects call their sensor.
    """

    def __init__(self, sensor: str) -> None:
        self._sensor = sensor
        self._seconds = _Memo(parse_seconds)
        self._fractions = _Memo(parse_fraction)
        self._calls = _Memo(_read_call)
        self._ids = _Memo(_read_ids)
        self._programs = _Memo(_read_program)
        self._users = _Memo(parse_user)

    def read(self, data: bytearray, start: int, stop: int, to_event_ns: ToEventNs | None = None) -> Pair | None:
        """The connect whose SYSCALL begins at an offset and whose SOCKADDR is the next line; None if it is no such.

        Args:
            data: Whole lines.
            start: Where the first line begins.
            stop: How far the lines go.
            to_event_ns: See AuditDecoder.
        """
        match = _match_pair(data, start, stop)
        if match is None:
            return None
        node, serial, seconds, fraction, call, fd, pid, ids, program, digits = match.groups()
        program, enriched, names = program.partition(b"\x1d")
        user = tail = None
        try:
            time_ns = self._seconds[seconds] + self._fractions[fraction]
            exit_value = self._calls[call]
            uid, euid = self._ids[ids]
            comm, exe = self._programs[program]
            if enriched:
                digits, _, tail = digits.partition(b"\x1d")
                user = self._users[names]
            port, address = parse_sockaddr(unhexlify(digits))
        except (DecodeError, ValueError):
            return None
        if tail is not None and (len(digits) < MIN_DIGITS or not is_same_address(tail, port, address)):
            return None
        if to_event_ns is not None:
            time_ns = to_event_ns(time_ns)
        if node is None:
            connect = make_connect(time_ns, int(pid), uid, euid, comm, exe, user, port, address, self._sensor)
        else:
            connect = make_noded(time_ns, int(pid), uid, euid, comm, exe, user, port, address, self._sensor, node)
        return (node, serial), match.end(), fd, exit_value, tail is not None, connect


def _read_call(piece: bytes) -> bytes:
    """The exit value of a connect(2) that opens a connection."""
    found = _match_call(piece)
    if found is None or not is_plain_connect(found[1], found[2]):
        raise DecodeError("not a connect, or one of a kind that is read with more care")
    return found[2]


def _read_ids(piece: bytes) -> tuple[int | None, int | None]:
    """The uid and the euid."""
    found = _match_ids(piece)
    if found is None:
        raise DecodeError("ids are not numbers")
    return parse_uid(found[1]), parse_uid(found[2])


def _read_program(piece: bytes) -> tuple[bytes | None, bytes | None]:
    """The process name and the program."""
    found = _match_program(piece)
    if found is None or b"ARCH=" in piece:  # ENRICHED without its 0x1d is read with more care
        raise DecodeError("comm and exe are not where they belong")
    return parse_text(found[1]), parse_text(found[2])
