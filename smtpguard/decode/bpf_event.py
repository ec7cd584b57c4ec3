"""Decodes what connect.bpf.c writes into its ring buffer. Pure; lets only DecodeError out.

The layout is `struct event` in smtpguard/sources/bpf/connect.bpf.c, in the machine's own byte order.
"""

import struct
from dataclasses import dataclass

from smtpguard.errors import DecodeError
from smtpguard.model import Connect, RefusedBy

_EVENT = struct.Struct("=QQQIIIHHBBBBI16s16s")
_KIND_CONNECT, _KIND_PROBE = 1, 2
_UID_UNKNOWN = 0xFFFFFFFF
_AF_INET, _AF_INET6 = 2, 10
_REFUSED: tuple[RefusedBy | None, ...] = (None, "block", "throttle", "credit", "cap")
_CREDIT = 3

EVENT_BYTES = _EVENT.size


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


def decode(data: bytes, *, sensor: str = "bpf") -> Connect | Probe:
    """One sample of the ring buffer.

    Args:
        data: The sample; its length may be rounded up by the ring.
        sensor: Name put into the Connect.

    Raises:
        DecodeError: A length, kind, family or verdict that the program does not write.
    """
    if len(data) < EVENT_BYTES:
        raise DecodeError(f"event of {len(data)} bytes, not {EVENT_BYTES}", where="bpf event")
    (
        time_ns,
        netns,
        cookie,
        tgid,
        uid,
        _owner,
        port,
        _protocol,
        kind,
        verdict,
        family,
        rule,
        credited,
        address,
        comm,
    ) = _EVENT.unpack_from(data)
    if kind == _KIND_PROBE:
        return Probe(time_ns=time_ns, cookie=cookie, netns=netns or None)
    if kind != _KIND_CONNECT:
        raise DecodeError(f"event of kind {kind}", where="bpf event")
    if family == _AF_INET:
        address = address[:4]
    elif family != _AF_INET6:
        raise DecodeError(f"address family {family}", where="bpf event")
    if verdict >= len(_REFUSED):
        raise DecodeError(f"verdict {verdict}", where="bpf event")
    return Connect(
        time_ns=time_ns,
        uid=None if uid == _UID_UNKNOWN else uid,
        port=port,
        address=address,
        sensor=sensor,
        netns=netns or None,
        pid=tgid or None,
        result="refused" if verdict else "allowed",
        refused_by=_REFUSED[verdict],
        rule=rule if verdict == _CREDIT else None,
        cookie=cookie or None,
        credits=credited,
        proc=comm.partition(b"\0")[0] or None,
    )
