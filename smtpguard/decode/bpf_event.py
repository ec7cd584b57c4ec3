"""Decodes what connect.bpf.c writes into its ring buffer. Pure; lets only DecodeError out.

The layouts are `struct event` and `struct report` in smtpguard/sources/bpf/layout.bpf.h, in the machine's own byte
order. They share their first fields, so that the kind is at one place.
"""

import struct
from dataclasses import dataclass

from smtpguard.errors import DecodeError
from smtpguard.model import Connect, RefusedBy, SocketNews, SocketReport

_EVENT = struct.Struct("=QQQIIIHHBBBBHBB16s16sII")
# 18 fields and what is between them: CPython 3.11 keeps up to 2,000 tuples of 20 for later and never takes one again.
_REPORT = struct.Struct("=QQQIIIHHBBB5x16sQQQQQ16s")
_KIND_OFFSET = 40
_KIND_CONNECT, _KIND_PROBE, _KIND_REPORT = 1, 2, 3
_UID_UNKNOWN = 0xFFFFFFFF
_AF_INET, _AF_INET6 = 2, 10
_REFUSED: tuple[RefusedBy | None, ...] = (None, "block", "throttle", "credit", "cap")
_CREDIT = 3
NEWS: tuple[SocketNews, ...] = (
    "established",
    "refused",
    "timeout",
    "gave-up",
    "open",
    "closed",
    "untracked",
    "unfollowed",
)
"""By `enum outcome`, from 1."""
_NEWS_WITH_LATENCY = 4

EVENT_BYTES = _EVENT.size
REPORT_BYTES = _REPORT.size


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """The event of a self-test.

    Attributes:
        time_ns: CLOCK_BOOTTIME.
        cookie: Socket cookie of the self-test's socket.
        netns: Cookie of its network namespace; None where the kernel does not tell.
    """

    time_ns: int
    cookie: int
    netns: int | None


def decode(data: bytes, *, sensor: str = "bpf") -> Connect | Probe | SocketReport:
    """One sample of the ring buffer.

    Args:
        data: The sample; its length may be rounded up by the ring.
        sensor: Name put into a Connect.

    Raises:
        DecodeError: A length, kind, family, verdict or outcome that the program does not write.
    """
    if len(data) < EVENT_BYTES:
        raise DecodeError(f"event of {len(data)} bytes, not {EVENT_BYTES}", where="bpf event")
    kind = data[_KIND_OFFSET]
    if kind == _KIND_CONNECT:
        return _decode_connect(data, sensor)
    if kind == _KIND_REPORT:
        return _decode_report(data)
    if kind == _KIND_PROBE:
        time_ns, netns, cookie = struct.unpack_from("=QQQ", data)
        return Probe(time_ns=time_ns, cookie=cookie, netns=netns or None)
    raise DecodeError(f"event of kind {kind}", where="bpf event")


def _decode_connect(data: bytes, sensor: str) -> Connect:
    (
        time_ns,
        netns,
        cookie,
        tgid,
        uid,
        _owner,
        port,
        _protocol,
        _kind,
        verdict,
        family,
        rule,
        credited,
        _urgent,
        _,
        address,
        comm,
        creator,
        _,
    ) = _EVENT.unpack_from(data)
    if verdict >= len(_REFUSED):
        raise DecodeError(f"verdict {verdict}", where="bpf event")
    return Connect(
        time_ns=time_ns,
        uid=None if uid == _UID_UNKNOWN else uid,
        port=port,
        address=cut_address(address, family),
        sensor=sensor,
        netns=netns or None,
        pid=tgid or None,
        result="refused" if verdict else "allowed",
        refused_by=_REFUSED[verdict],
        rule=rule if verdict == _CREDIT else None,
        cookie=cookie or None,
        credits=credited,
        creator=None if creator == _UID_UNKNOWN else creator,
        proc=comm.partition(b"\0")[0] or None,
    )


def _decode_report(data: bytes) -> SocketReport:
    if len(data) < REPORT_BYTES:
        raise DecodeError(f"report of {len(data)} bytes, not {REPORT_BYTES}", where="bpf event")
    (
        time_ns,
        netns,
        cookie,
        retransmissions,
        uid,
        _owner,
        port,
        _protocol,
        _kind,
        outcome,
        family,
        address,
        connect_ns,
        latency_ns,
        bytes_sent,
        bytes_received,
        bytes_told,
        own,
    ) = _REPORT.unpack_from(data)
    if not 1 <= outcome <= len(NEWS):
        raise DecodeError(f"outcome {outcome}", where="bpf event")
    return SocketReport(
        time_ns=time_ns,
        kind=NEWS[outcome - 1],
        uid=None if uid == _UID_UNKNOWN else uid,
        netns=netns or None,
        cookie=cookie,
        connect_time_ns=connect_ns,
        port=port,
        address=cut_address(address, family),
        latency_ns=latency_ns if outcome <= _NEWS_WITH_LATENCY else None,
        bytes_sent=bytes_sent,
        bytes_received=bytes_received,
        bytes_told=bytes_told,
        own=cut_address(own, family) if any(own) else None,
        retransmissions=retransmissions,
    )


def cut_address(address: bytes, family: int) -> bytes:
    """An address field as its 4 or 16 bytes. Raises DecodeError."""
    if family == _AF_INET:
        return address[:4]
    if family == _AF_INET6:
        return address
    raise DecodeError(f"address family {family}", where="bpf event")
