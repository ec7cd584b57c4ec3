"""What the decoder of audit records did not make a Connect of, in numbers."""

from dataclasses import dataclass


@dataclass(slots=True, kw_only=True)
class AuditCounters:
    """What the decoder did not make a Connect of, since it was made.

    Attributes:
        garbled: Records on a mail port that can't be read, or whose SYSCALL can't.
        unpaired: SOCKADDR records whose SYSCALL never came, or came too late.
        forged: SOCKADDR records in an ENRICHED log without the whole part that auditd adds.
        doubled: Further SOCKADDR records of a serial; an event not yet gone out was dropped for them.
        repeats: Calls that belong to an attempt already counted (see retries).
        probes: Calls of a resolver that sorts addresses (see audit_probes).
        duplicates: Events that another file held too.
        foreign: Events of other hosts (see AuditDecoder's nodes).
        others: Calls that are no connect: bind, getpeername, sendto without MSG_FASTOPEN, EISCONN, EALREADY.
    """

    garbled: int = 0
    unpaired: int = 0
    forged: int = 0
    doubled: int = 0
    repeats: int = 0
    probes: int = 0
    duplicates: int = 0
    foreign: int = 0
    others: int = 0
