"""sock_diag's requests and answers for TCP sockets. Pure.

Layouts: <linux/inet_diag.h> inet_diag_req_v2, inet_diag_msg, inet_diag_bc_op, <linux/tcp.h> tcp_info; states are
the kernel's <net/tcp_states.h>. Numbers are host byte order, but ports and addresses, which are as on the wire.
"""

import struct
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from smtpguard.decode.netlink.messages import ATTRIBUTE, HEADER, NetlinkMessage, split_attributes
from smtpguard.errors import DecodeError

AF_INET, AF_INET6 = 2, 10
SOCK_DIAG_BY_FAMILY = 20
SOCK_DESTROY = 21
ESTABLISHED, SYN_SENT, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT, LAST_ACK, LISTEN, CLOSING = 1, 2, 4, 5, 8, 9, 10, 11
SPEAKING = frozenset({ESTABLISHED, SYN_SENT, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT, LAST_ACK, CLOSING})
"""States in which a socket may still send or hear, and names its uid. TIME_WAIT (6) and NEW_SYN_RECV (12) say 0."""

_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_DUMP = 1, 4, 0x300
_IPPROTO_TCP = 6
_REQUEST = struct.Struct("=BBBBI")
_ID = struct.Struct("=2s2s16s16sI8s")
_MESSAGE = struct.Struct("=BBBB2s2s16s16sI8sIIIII")
_UID, _UID_AT = struct.Struct("=I"), 64
_COOKIE, _COOKIE_AT = struct.Struct("=Q"), 44
_BYTECODE, _REQUEST_STORAGES, _STORAGE_MAP = 1, 2, 1
_STORAGES, _STORAGE, _STORAGE_VALUE, _NESTED = 20, 1, 3, 1 << 15
_INFO = 2
_WITH_INFO = 1 << (_INFO - 1)
_TOTAL_RETRANSMISSIONS_AT, _TOTAL_BYTES_AT = 100, 120
_UNDER_WAY_AT, _DATA_SENT_AT = 24, 200  # tcpi_unacked; tcpi_bytes_sent and tcpi_bytes_retrans
_OP = struct.Struct("=BBH")
_JMP, _D_GE, _D_LE, _D_COND = 1, 4, 5, 8
_HOST = struct.Struct("=BBxxi")
_LOOPBACK4 = _HOST.pack(AF_INET, 8, -1) + bytes([127, 0, 0, 0])  # mapped addresses match it too
_LOOPBACK6 = _HOST.pack(AF_INET6, 128, -1) + bytes(15) + b"\1"
_NO_COOKIE = b"\xff" * 8
_NO_UID = 0xFFFF_FFFF
_MAPPED = bytes(10) + b"\xff\xff"
_STATES = 32
"""Bits of idiag_states; Linux 6.18 has 13 states."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """What went through a socket.

    Attributes:
        bytes_sent: Acknowledged by the peer; its SYN counts as one.
        bytes_received: Taken in.
        retransmissions: Segments sent again.
        is_called: Whether the peer opened it; None where it can't be told now.
        tells_direction: Whether the kernel tells of it (Linux 4.19).
    """

    bytes_sent: int
    bytes_received: int
    retransmissions: int
    is_called: bool | None = field(default=None, compare=False)
    tells_direction: bool = field(default=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One TCP socket that has, or wants, a peer.

    Attributes:
        family: AF_INET or AF_INET6, of the socket.
        state: See SPEAKING.
        source, source_port: Our end; 4 or 16 bytes, an IPv4-mapped address as its 4.
        address, port: The peer.
        interface: Index of the interface it is bound to; 0 for none.
        cookie: Socket cookie, never used again in this boot.
        uid: Of its creator; None where the kernel does not say (no file, older kernels).
        inode: In sockfs; None for an orphan, whose process has closed it or ended.
        totals: What went through it so far, where that was asked for.
    """

    family: int
    state: int
    source: bytes
    source_port: int
    address: bytes
    port: int
    interface: int
    cookie: int
    uid: int | None
    inode: int | None
    totals: Totals | None = None


def render_dump(
    family: int,
    states: Iterable[int],
    ports: Collection[int],
    sequence: int,
    *,
    totals: bool = False,
    loopback: bool = True,
    storage_fd: int | None = None,
) -> bytes:
    """A request for all TCP sockets of a family.

    Args:
        family: AF_INET or AF_INET6.
        states: Which states.
        ports: Destination ports, filtered in the kernel; none for all.
        sequence: nlmsg_seq.
        totals: Ask for the totals too (INET_DIAG_INFO).
        loopback: Those to 127.0.0.0/8 and ::1 too.
        storage_fd: With what is kept in this BPF_MAP_TYPE_SK_STORAGE of each (Linux 5.7; wants CAP_BPF).
    """
    mask = sum(1 << state for state in states)
    wanted = _WITH_INFO if totals else 0
    body = _REQUEST.pack(family, _IPPROTO_TCP, wanted, 0, mask) + _ID.pack(b"", b"", b"", b"", 0, _NO_COOKIE)
    if ports:
        code = render_port_filter(ports, loopback=loopback)
        body += ATTRIBUTE.pack(ATTRIBUTE.size + len(code), _BYTECODE) + code
    if storage_fd is not None:
        inner = ATTRIBUTE.pack(ATTRIBUTE.size + 4, _STORAGE_MAP) + struct.pack("=I", storage_fd)
        body += ATTRIBUTE.pack(ATTRIBUTE.size + len(inner), _REQUEST_STORAGES | _NESTED) + inner
    return _frame(SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST | _NLM_F_DUMP, sequence, body)


def render_find(
    source: tuple[bytes, int],
    destination: tuple[bytes, int],
    interface: int,
    sequence: int,
    *,
    cookie: int | None = None,
    totals: bool = False,
) -> bytes:
    """A request for the one socket between two ends; for one that listens, where the destination is zeros.

    Args:
        source: Address (4 or 16 bytes) and port of our end.
        destination: Of the peer.
        interface: Index of the interface the packet left by; sockets bound to another don't match.
        sequence: nlmsg_seq.
        cookie: Only if it is still this one.
        totals: Ask for the totals too.
    """
    family = AF_INET if len(destination[0]) == 4 else AF_INET6
    body = _REQUEST.pack(family, _IPPROTO_TCP, _WITH_INFO if totals else 0, 0, 0xFFFF) + _ID.pack(
        source[1].to_bytes(2, "big"),
        destination[1].to_bytes(2, "big"),
        source[0],
        destination[0],
        interface,
        _NO_COOKIE if cookie is None else _pack_cookie(cookie),
    )
    return _frame(SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, sequence, body)


def render_destroy(session: Session, sequence: int) -> bytes:
    """A request to end a socket: its process gets ECONNABORTED, the peer a reset."""
    source, address = session.source, session.address
    if session.family == AF_INET6:
        source, address = (_MAPPED + end if len(end) == 4 else end for end in (source, address))
    body = _REQUEST.pack(session.family, _IPPROTO_TCP, 0, 0, 1 << session.state) + _ID.pack(
        session.source_port.to_bytes(2, "big"),
        session.port.to_bytes(2, "big"),
        source,
        address,
        session.interface,
        _pack_cookie(session.cookie),
    )
    return _frame(SOCK_DESTROY, _NLM_F_REQUEST | _NLM_F_ACK, sequence, body)


def _pack_cookie(cookie: int) -> bytes:
    return struct.pack("=Q", cookie)


def render_port_filter(ports: Collection[int], *, loopback: bool = True) -> bytes:
    """The kernel's bytecode for "the destination port is one of these", and "... is not on the loopback interface".

    A program accepts by ending exactly at its end, and refuses by jumping 4 bytes beyond. GE and LE, for EQ came late.
    """
    ordered = sorted(ports)
    code = b""
    for rest in range(len(ordered) - 1, -1, -1):
        port = ordered[rest]
        # Each test is 8 bytes with its operand; where it fails the next port's tests follow, 4 bytes of JMP later.
        tests = _OP.pack(_D_GE, 8, 20) + _OP.pack(0, 0, port) + _OP.pack(_D_LE, 8, 12) + _OP.pack(0, 0, port)
        jump = _OP.pack(_JMP, _OP.size, _OP.size + len(code)) if code else b""
        code = tests + jump + code
    for host in () if loopback else (_LOOPBACK6, _LOOPBACK4):
        size = _OP.size + len(host)
        refuse = _OP.pack(_JMP, _OP.size, _OP.size + len(code) + 4)
        code = _OP.pack(_D_COND, size, size + _OP.size) + host + refuse + code
    return code


def parse_session(message: NetlinkMessage) -> Session:
    """One answer.

    Raises:
        DecodeError: It is too short, of another family, or in a state that no mask has a bit for.
    """
    if message.type != SOCK_DIAG_BY_FAMILY or len(message.body) < _MESSAGE.size:
        raise DecodeError("not an inet_diag_msg")
    family, state, _, _, sport, dport, source, address, interface, cookie, *_, uid, inode = _MESSAGE.unpack_from(
        message.body
    )
    if family not in (AF_INET, AF_INET6):
        raise DecodeError(f"a socket of family {family}")
    if state >= _STATES:
        raise DecodeError(f"a socket in state {state}")
    return Session(
        family=family,
        state=state,
        source=_trim(family, source),
        source_port=int.from_bytes(sport, "big"),
        address=_trim(family, address),
        port=int.from_bytes(dport, "big"),
        interface=interface,
        cookie=struct.unpack("=Q", cookie)[0],
        # Kernels before 6.16 say 0 for a socket without a file, and all for what is nearly over.
        uid=None if uid == _NO_UID or (uid == 0 and inode == 0) else uid,
        inode=inode or None,
        totals=_parse_totals(split_attributes(message.body[_MESSAGE.size :]).get(_INFO)),
    )


def read_uid(message: NetlinkMessage) -> int:
    """The uid of one answer, without a look at the rest; 0 where the kernel does not say, 0xFFFFFFFF for nobody's."""
    return int(_UID.unpack_from(message.body, _UID_AT)[0]) if len(message.body) >= _MESSAGE.size else 0


def read_cookie(message: NetlinkMessage) -> int:
    """The cookie of one answer, as `read_uid`."""
    return int(_COOKIE.unpack_from(message.body, _COOKIE_AT)[0]) if len(message.body) >= _MESSAGE.size else 0


def read_storage(message: NetlinkMessage) -> bytes | None:
    """What the BPF map that was asked about keeps of one answer's socket; None if nothing.

    Raises:
        DecodeError: It is no answer.
    """
    storages = split_attributes(message.body[_MESSAGE.size :]).get(_STORAGES)
    storage = None if storages is None else split_attributes(storages).get(_STORAGE)
    value = None if storage is None else split_attributes(storage).get(_STORAGE_VALUE)
    return None if value is None else bytes(value)


def _parse_totals(info: memoryview | None) -> Totals | None:
    """From struct tcp_info, which grows at its end; None where it is too short (kernels before 4.1) or absent."""
    if info is None or len(info) < _TOTAL_BYTES_AT + 16:
        return None
    sent, received = struct.unpack_from("=QQ", info, _TOTAL_BYTES_AT)
    (retransmissions,) = struct.unpack_from("=I", info, _TOTAL_RETRANSMISSIONS_AT)
    return Totals(
        bytes_sent=sent,
        bytes_received=received,
        retransmissions=retransmissions,
        is_called=_find_direction(info, sent),
        tells_direction=len(info) >= _DATA_SENT_AT + 16,
    )


def _find_direction(info: memoryview, acknowledged: int) -> bool | None:
    """Whether the peer opened it. Only who opens a session has a SYN acknowledged, which the kernel counts like a byte.

    So one byte more than was sent says "caller"; as many, with nothing under way, "called"; else it can't be told yet.
    """
    if len(info) < _DATA_SENT_AT + 16:
        return None
    (under_way,) = struct.unpack_from("=I", info, _UNDER_WAY_AT)
    sent, again = struct.unpack_from("=QQ", info, _DATA_SENT_AT)
    if acknowledged > sent - again:
        return False
    return None if under_way else True


def _trim(family: int, address: bytes) -> bytes:
    if family == AF_INET:
        return address[:4]
    return address[12:] if address.startswith(_MAPPED) else address


def _frame(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    return HEADER.pack(HEADER.size + len(body), kind, flags, sequence, 0) + body
