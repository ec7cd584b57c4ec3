"""A SYSCALL record with its SOCKADDR in the next line, read in one go: how nearly all connects stand in a log.

The regex only cuts the two lines into pieces, in the order of the fields, with loops over one excluded byte, which are
several times quicker than classes of bytes. What a piece says is read strictly once and remembered by its bytes: the
same seconds, uids and programs come again and again. A pair with anything unusual in it (a call that is no plain
connect, a repeat on one socket, a text that can't be read) is left to the general way in `decode.audit`.
"""

import re
from binascii import unhexlify
from collections.abc import Callable
from typing import TypeVar

from smtpguard.decode.audit_record import (
    AUID,
    CALL,
    IDS,
    PROGRAM,
    is_plain_connect,
    is_same_address,
    parse_fraction,
    parse_seconds,
    parse_text,
    parse_uid,
    parse_user,
)
from smtpguard.decode.sockaddr import parse_sockaddr
from smtpguard.errors import DecodeError

_MAX_REMEMBERED = 4096
"""Of each kind of piece; then all are forgotten. 1 MB at most where every user has a session of his own."""

_match_pair = re.compile(
    rb"(?:node=([^ \n]++) )?type=SYSCALL msg=audit\((([^.]++)\.([^:]++):[0-9]{1,20}+)\): "
    rb"(arch=[^ ]++ syscall=[^ ]++ success=[^ ]++ exit=[^ ]++)"
    rb" a0=([0-9a-f]{1,16}+) a1=[^ ]++ a2=[0-9a-f]{1,16}+ a3=[0-9a-f]{1,16}+ items=[^ ]++"
    rb" ppid=[^ ]++ pid=([0-9]{1,10}+)"
    rb"( auid=[^ ]++ uid=[^ ]++ gid=[^ ]++ euid=[^ ]++ suid=[^ ]++ fsuid=[^ ]++ egid=[^ ]++ sgid=[^ ]++ fsgid=[^ ]++)"
    rb"( tty=[^\n]++)\n"
    rb"(?(1)node=\1 )type=SOCKADDR msg=audit\(\2\): saddr=([^\n]++)\n"
).match
_match_call = re.compile(CALL).fullmatch
_match_ids = re.compile(AUID + IDS).fullmatch
_match_program = re.compile(PROGRAM + rb"(?:[ \r][^\x1d\n]*+)?").fullmatch

V = TypeVar("V")

Pair = tuple[
    bytes | None,  # node
    bytes,  # serial, with its time stamp
    int,  # where the second line ends
    int,  # time_ns, since the epoch
    int,  # pid
    int | None,  # uid
    int | None,  # euid
    bytes | None,  # comm
    bytes | None,  # exe
    bytes | None,  # the user's name in an ENRICHED record
    bytes,  # descriptor
    bytes,  # exit value
    int,  # port
    bytes,  # address
    bool,  # whether it is ENRICHED
]
"""A connect, as a bare tuple: this is the hottest place of all."""


class _Memo(dict[bytes, V]):
    """What pieces say, by their bytes. A piece that can't be read raises DecodeError each time."""

    __slots__ = ("_read",)

    def __init__(self, read: Callable[[bytes], V]) -> None:
        self._read = read

    def __missing__(self, piece: bytes) -> V:
        value = self._read(piece)
        if len(self) >= _MAX_REMEMBERED:
            self.clear()
        self[piece] = value
        return value


class PairReader:
    """Reads pairs, and remembers their pieces."""

    def __init__(self) -> None:
        self._seconds = _Memo(parse_seconds)
        self._fractions = _Memo(parse_fraction)
        self._calls = _Memo(_read_call)
        self._ids = _Memo(_read_ids)
        self._programs = _Memo(_read_program)
        self._users = _Memo(parse_user)

    def read(self, data: bytearray, start: int, stop: int) -> Pair | None:
        """The connect whose SYSCALL begins at an offset and whose SOCKADDR is the next line; None if it is no such."""
        match = _match_pair(data, start, stop)
        if match is None:
            return None
        node, serial, seconds, fraction, call, fd, pid, ids, program, saddr = match.groups()
        program, enriched, names = program.partition(b"\x1d")
        digits, _, tail = saddr.partition(b"\x1d")
        try:
            time_ns = self._seconds[seconds] + self._fractions[fraction]
            exit_value = self._calls[call]
            uid, euid = self._ids[ids]
            comm, exe = self._programs[program]
            port, address = parse_sockaddr(unhexlify(digits))
            user = self._users[names] if enriched else None
        except (DecodeError, ValueError):
            return None
        if enriched and not is_same_address(tail, port, address):
            return None
        return (
            *(node, serial, match.end(), time_ns, int(pid), uid, euid, comm, exe, user),
            *(fd, exit_value, port, address, bool(enriched)),
        )


def _read_call(piece: bytes) -> bytes:
    """The exit value of a connect(2) that opens a connection."""
    found = _match_call(piece)
    if found is None or not is_plain_connect(found[1], found[2]):
        raise DecodeError("not a connect, or one of a kind that is read with more care")
    return found[2]


def _read_ids(piece: bytes) -> tuple[int | None, int | None]:
    """uid and euid."""
    found = _match_ids(piece)
    if found is None:
        raise DecodeError("ids are not numbers")
    return parse_uid(found[1]), parse_uid(found[2])


def _read_program(piece: bytes) -> tuple[bytes | None, bytes | None]:
    """comm and exe."""
    found = _match_program(piece)
    if found is None:
        raise DecodeError("comm and exe are not where they belong")
    return parse_text(found[1]), parse_text(found[2])
