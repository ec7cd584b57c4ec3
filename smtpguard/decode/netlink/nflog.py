"""Packets that the kernel's netlink log (nfnetlink_log) hands over, as attempts to connect. Pure.

Each is a SYN with the uid of its socket's creator. The kernel sends a SYN again while nobody answers, up to six times
within 127 s: the same ends and the same sequence number are the same attempt. Layouts:
<linux/netfilter/nfnetlink_log.h>, RFC 791, 8200, 9293.
"""

import struct
from collections import OrderedDict
from dataclasses import dataclass

from smtpguard.decode.netlink.messages import (
    ATTRIBUTE,
    HEADER,
    NetlinkMessage,
    read_u32,
    split_attributes,
    split_messages,
)
from smtpguard.errors import DecodeError
from smtpguard.model import NS

PACKET = 4 << 8
"""nlmsg_type of a packet: NFNL_SUBSYS_ULOG, NFULNL_MSG_PACKET."""
_CONFIG = 4 << 8 | 1
_NFGENMSG_BYTES = 4
_OUTDEV, _PAYLOAD, _UID, _SEQ, _GID = 5, 9, 11, 12, 14
_TCP = 6
_EXTENSIONS = frozenset({0, 43, 60})
"""IPv6 headers before TCP: hop-by-hop options, routing, destination options."""
_MAX_EXTENSIONS = 8
_NO_ID = 0xFFFF_FFFF
_SYN_ONLY, _SYN_MASK = 0x02, 0x17
REPEAT_NS = 130 * NS
"""How long the kernel may go on sending a SYN again: 127 s with tcp_syn_retries 6."""
PER_USER = 1024
IN_ALL = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class Syn:
    """The first packet of an attempt.

    Attributes:
        uid, gid: Of the socket's creator; None where the packet has no socket.
        source, source_port: Our end, before any NAT.
        address, port: Where it goes, before any NAT.
        sequence: TCP sequence number, chosen by the kernel for each attempt.
        interface: Index of the interface it leaves by; 0 if not told.
        number: The logger's running number; None if not told.
    """

    uid: int | None
    gid: int | None
    source: bytes
    source_port: int
    address: bytes
    port: int
    sequence: int
    interface: int
    number: int | None


class NflogDecoder:
    """Datagrams to attempts, each once.

    Attributes:
        lost: Packets that the logger numbered and we never got.
        repeated: SYNs that were sent again.
        forgotten: Attempts forgotten before their time, so that their repetitions count again.
        odd: Packets that are no TCP SYN.
    """

    def __init__(self) -> None:
        self._memory: OrderedDict[int | None, OrderedDict[tuple[bytes, int, bytes, int, int], int]] = OrderedDict()
        self._size = 0
        self._next_number: int | None = None
        self.lost = 0
        self.repeated = 0
        self.forgotten = 0
        self.odd = 0

    def feed(self, datagram: bytes | memoryview, now_ns: int) -> list[Syn]:
        """New attempts in a datagram.

        Args:
            datagram: As received.
            now_ns: CLOCK_BOOTTIME.

        Raises:
            DecodeError: It is not what the kernel sends.
        """
        found = []
        for message in split_messages(datagram):
            if message.type != PACKET:
                continue
            syn = parse_packet(message)
            if syn is None:
                self.odd += 1
                continue
            self._count(syn.number)
            if self._is_new(syn, now_ns):
                found.append(syn)
            else:
                self.repeated += 1
        return found

    def _count(self, number: int | None) -> None:
        if number is None:
            return
        if self._next_number is not None:
            self.lost += (number - self._next_number) & 0xFFFF_FFFF
        self._next_number = (number + 1) & 0xFFFF_FFFF

    def _is_new(self, syn: Syn, now_ns: int) -> bool:
        """Remember an attempt; each user has a memory of their own, so that nobody's flood makes others' SYNs count."""
        key = (syn.source, syn.source_port, syn.address, syn.port, syn.sequence)
        own = self._memory.setdefault(syn.uid, OrderedDict())
        seen_ns = own.get(key)
        if seen_ns is not None and now_ns - seen_ns < REPEAT_NS:
            return False
        while own and next(iter(own.values())) <= now_ns - REPEAT_NS:
            own.popitem(last=False)
            self._size -= 1
        if len(own) >= PER_USER:
            own.popitem(last=False)
            self._size -= 1
            self.forgotten += 1
        if self._size >= IN_ALL:
            self._shrink(now_ns, but=syn.uid)
        if own.pop(key, None) is None:
            self._size += 1
        own[key] = now_ns
        self._memory.move_to_end(syn.uid)
        return True

    def _shrink(self, now_ns: int, but: int | None) -> None:
        """Forget the users that have been quiet longest."""
        while self._size >= IN_ALL * 3 // 4:
            uid, memory = next(iter(self._memory.items()))
            if uid == but:
                break
            del self._memory[uid]
            self._size -= len(memory)
            self.forgotten += sum(seen_ns > now_ns - REPEAT_NS for seen_ns in memory.values())


def render_bind(group: int, *, copy_bytes: int, sequence: int) -> bytes:
    """The request to become the reader of a group: whole packets up to a length, numbered, each at once.

    Args:
        group: The group of the `log` statement.
        copy_bytes: Most bytes of a packet.
        sequence: nlmsg_seq.
    """
    attributes = [
        (1, b"\x01"),  # NFULA_CFG_CMD: NFULNL_CFG_CMD_BIND
        (2, struct.pack(">IBB", copy_bytes, 2, 0)),  # NFULA_CFG_MODE: NFULNL_COPY_PACKET
        (5, struct.pack(">I", 1)),  # NFULA_CFG_QTHRESH: the default waits for 100 packets or a second
        (6, struct.pack(">H", 1)),  # NFULA_CFG_FLAGS: NFULNL_CFG_F_SEQ
    ]
    body = b"\0\0" + group.to_bytes(2, "big")
    for kind, value in attributes:
        body += ATTRIBUTE.pack(ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)
    return HEADER.pack(HEADER.size + len(body), _CONFIG, 1 | 4, sequence, 0) + body  # NLM_F_REQUEST, NLM_F_ACK


def parse_packet(message: NetlinkMessage) -> Syn | None:
    """One logged packet; None if it is no TCP SYN.

    Raises:
        DecodeError: An attribute is missing or has the wrong length, or the packet is cut within its headers.
    """
    attributes = split_attributes(message.body[_NFGENMSG_BYTES:])
    payload = attributes.get(_PAYLOAD)
    if payload is None:
        raise DecodeError("a logged packet without its payload")
    ends = _parse_ip(payload)
    if ends is None:
        return None
    source, address, tcp = ends
    if len(tcp) < 14:
        raise DecodeError("a packet cut within its TCP header")
    source_port, port, sequence, _, _, flags = struct.unpack_from(">HHIIBB", tcp)
    if flags & _SYN_MASK != _SYN_ONLY:
        return None
    return Syn(
        uid=_read_id(attributes.get(_UID)),
        gid=_read_id(attributes.get(_GID)),
        source=source,
        source_port=source_port,
        address=address,
        port=port,
        sequence=sequence,
        interface=read_u32(attributes.get(_OUTDEV)) or 0,
        number=read_u32(attributes.get(_SEQ)),
    )


def _read_id(value: memoryview | None) -> int | None:
    number = read_u32(value)
    return None if number == _NO_ID else number


def _parse_ip(packet: memoryview) -> tuple[bytes, bytes, memoryview] | None:
    """Source, destination and what follows the IP headers; None if that is not the beginning of a TCP segment."""
    version = packet[0] >> 4 if packet else 0
    if version == 4:
        if len(packet) < 20:
            raise DecodeError("a packet cut within its IP header")
        header_bytes = (packet[0] & 0xF) * 4
        fragment = (packet[6] & 0x1F) << 8 | packet[7]
        if packet[9] != _TCP or fragment or header_bytes < 20:
            return None
        return bytes(packet[12:16]), bytes(packet[16:20]), packet[header_bytes:]
    if version != 6:
        raise DecodeError(f"a packet of IP version {version}")
    if len(packet) < 40:
        raise DecodeError("a packet cut within its IPv6 header")
    following, offset = packet[6], 40
    for _ in range(_MAX_EXTENSIONS):
        if following == _TCP:
            return bytes(packet[8:24]), bytes(packet[24:40]), packet[offset:]
        if following not in _EXTENSIONS:
            return None
        if len(packet) < offset + 2:
            raise DecodeError("a packet cut within its IPv6 extension headers")
        following, offset = packet[offset], offset + 8 + packet[offset + 1] * 8
    return None
