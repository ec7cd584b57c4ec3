"""What sensors see: an attempt to connect, what became of a connection, a mail handed over."""

from dataclasses import dataclass
from typing import Literal

Result = Literal["allowed", "refused"]
RefusedBy = Literal["block", "throttle", "credit", "cap"]
Attr = Literal["live", "slot", "guess"]
Outcome = Literal["established", "refused", "timeout", "gave-up"]
SocketNews = Outcome | Literal["open", "closed", "untracked", "unfollowed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Connect:
    """One attempt to open an SMTP connection.

    Attributes:
        time_ns: Event time.
        uid: The uid that the sensor saw, in the initial user namespace; None if not known.
        netns: Network namespace cookie (SO_NETNS_COOKIE); None for the namespace the guard watches, or where the
            sensor cannot tell namespaces apart.
        pid: Process (thread group) id in the initial pid namespace.
        port: Destination port before any NAT.
        address: Destination, 4 or 16 bytes in network order; an IPv4-mapped address is given as its 4 bytes.
        sensor: Name of the source that saw it.
        result: What the kernel answered; None if the sensor can't know.
        refused_by: Which of our means refused it, with result "refused"; None if not ours or not known.
        rule: Index of the credit rule that refused it, with refused_by "credit".
        cookie: Socket cookie, to join later reports about the same socket.
        inode: Of the socket in sockfs, to look for the process that holds it where the sensor names none.
        credits: Bits of the credit rules of which the kernel took a credit for this attempt.
        creator: Uid that made the socket (nftables' skuid), where the sensor tells; the caller's uid in most cases.
        euid: Effective uid where it differs in meaning from uid (audit); None if not seen.
        attr: How process and script were found; None if nobody looked or nothing was found.
        proc, exe, cwd, script, rdns: Untrusted bytes that describe the caller and the destination.
        user: Account name as the *record* gave it (ENRICHED audit logs); decoration, never identity.
        node: Host that a record names (audit's node=), where it names one.
    """

    time_ns: int
    uid: int | None
    port: int
    address: bytes
    sensor: str
    netns: int | None = None
    pid: int | None = None
    result: Result | None = None
    refused_by: RefusedBy | None = None
    rule: int | None = None
    cookie: int | None = None
    inode: int | None = None
    credits: int = 0
    creator: int | None = None
    euid: int | None = None
    attr: Attr | None = None
    proc: bytes | None = None
    exe: bytes | None = None
    cwd: bytes | None = None
    script: bytes | None = None
    rdns: bytes | None = None
    user: bytes | None = None
    node: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One mail handed to the local mail server (sendmail, mail(), submission over loopback).

    Attributes:
        time_ns: Event time.
        uid: Who submitted it; None if not known.
        mta: Which server took it: "postfix" or "exim".
        queue_id: Its id in the server's queue; untrusted, as log text may be forged.
        recipients: How many it names, before aliases are expanded.
        size_bytes: Its size.
        pid, attr, proc, exe, cwd, script: As in Connect.
    """

    time_ns: int
    uid: int | None
    mta: str
    queue_id: bytes | None = None
    recipients: int | None = None
    size_bytes: int | None = None
    pid: int | None = None
    attr: Attr | None = None
    proc: bytes | None = None
    exe: bytes | None = None
    cwd: bytes | None = None
    script: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SocketReport:
    """What became of a connection that was let through. Belongs to the Connect of the same cookie and time.

    Attributes:
        time_ns: Event time.
        kind: "established", or how it failed; "open" at most once a second while it lives; "closed" at its end;
            "untracked" when nothing can be kept with the socket, which is followed as far as a share of a table goes,
            "unfollowed" when that is used up: nothing more will be told of it.
        uid: Who had opened it; None if not known.
        netns: As in Connect.
        cookie: Socket cookie.
        connect_time_ns: Event time of its Connect; None for a session that was open before the sensor was.
        port, address: As in Connect.
        latency_ns: From connect() to this report, for "established" and failures; else None.
        bytes_sent: Payload that the peer has acknowledged so far.
        bytes_told: Of those, what reports before told of; None where the sensor does not know.
        bytes_received: Payload received so far; the peer's FIN may count as one.
        retransmissions: Segments sent again so far.
        own: From which address of the host, 4 or 16 bytes as the socket has it (before any NAT); None if not known.
    """

    time_ns: int
    kind: SocketNews
    uid: int | None
    netns: int | None
    cookie: int
    connect_time_ns: int | None
    port: int
    address: bytes
    latency_ns: int | None
    bytes_sent: int
    bytes_received: int
    retransmissions: int
    bytes_told: int | None = None
    own: bytes | None = None
