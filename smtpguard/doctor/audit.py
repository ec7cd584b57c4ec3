"""The kernel's audit system: is it on, who reads it, does it lose records, does it put audited processes to sleep.

AUDIT_GET of linux/audit.h on a netlink socket; needs CAP_AUDIT_CONTROL, and only the initial network namespace answers.
"""

import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from smtpguard.decode.netlink.messages import HEADER, NLMSG_ERROR, split_messages
from smtpguard.doctor.finding import Finding, Host
from smtpguard.errors import DecodeError

_NETLINK_AUDIT = 9
_AUDIT_GET = 1000
_NLM_F_REQUEST, _NLM_F_ACK = 1, 4
_TIMEOUT_S = 2.0
_STATUS = struct.Struct("=10I")
"""audit_status: mask, enabled, failure, pid, rate_limit, backlog_limit, lost, backlog, features, backlog_wait_time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditStatus:
    """What the kernel says of its audit system.

    Attributes:
        enabled: 0 off, 1 on, 2 on and locked until reboot.
        pid: Of the audit daemon; 0 if there is none.
        backlog_limit: Records that may wait.
        lost: Records lost since boot.
        backlog_wait_time: How long an audited process sleeps when the backlog is full, in ticks; 0 for not at all.
    """

    enabled: int
    pid: int
    backlog_limit: int
    lost: int
    backlog_wait_time: int


def check_audit(host: Host) -> Iterator[Finding]:
    """The source audit: sees connect() only, unless the kernel takes our further rules."""
    settings = host.settings
    wanted = settings.audit_enable or "audit" in settings.sources or "audit-log" in settings.sources
    try:
        status = read_audit_status()
    except (OSError, DecodeError) as error:
        yield judge_audit(None, str(error), wanted=wanted)
        return
    yield judge_audit(status, "", wanted=wanted)


def judge_audit(status: AuditStatus | None, problem: str, *, wanted: bool) -> Finding:
    """What the state of the audit system means.

    Args:
        status: As the kernel gave it; None if it did not.
        problem: Why not.
        wanted: Whether the configuration asks for an audit source.
    """
    name = "audit"
    unseen = "unseen there: TCP fast open by sendto, io_uring and 32-bit programs, where the kernel refuses such rules"
    if status is None:
        return Finding(
            name=name,
            level="bad" if wanted else "note",
            found=f"can't be asked: {problem}",
            means="no source audit: it takes the initial network namespace and CAP_AUDIT_CONTROL",
        )
    if not status.enabled:
        return Finding(
            name=name,
            level="bad" if wanted else "ok",
            found="off",
            means="costs nothing; the source audit would need audit.enable",
            fix="set audit.enable: true, or choose another source" if wanted else "",
        )
    reader = f"auditd (pid {status.pid}) reads it" if status.pid else "nobody but the kernel log reads it"
    locked = ", locked until reboot: no rule can be added" if status.enabled == 2 else ""
    found = f"on{locked}; {reader}; {status.lost} records lost since boot"
    if status.backlog_wait_time:
        return Finding(
            name=name,
            level="bad" if wanted else "note",
            found=f"{found}; backlog_wait_time {status.backlog_wait_time}",
            means="when its backlog is full, audited processes sleep: a flood of one user slows others",
            fix="auditctl --backlog_wait_time 0",
        )
    return Finding(name=name, level="note" if status.lost or locked else "ok", found=found, means=unseen)


def read_audit_status() -> AuditStatus:
    """Ask the kernel.

    Raises:
        OSError: It does not answer, or not to us.
        DecodeError: It answers something else.
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_AUDIT) as asking:
        asking.settimeout(_TIMEOUT_S)
        asking.send(HEADER.pack(HEADER.size, _AUDIT_GET, _NLM_F_REQUEST | _NLM_F_ACK, 1, 0))
        for _ in range(16):
            for message in split_messages(asking.recv(8192)):
                if message.type == NLMSG_ERROR:
                    code = -struct.unpack_from("=i", message.body)[0]
                    if code:
                        raise OSError(code, os.strerror(code))
                elif message.type == _AUDIT_GET:
                    return parse_audit_status(message.body)
    raise DecodeError("the kernel sent no audit status")


def parse_audit_status(body: bytes | memoryview) -> AuditStatus:
    """An audit_status; kernels before 3.14 send a shorter one, without the last fields.

    Args:
        body: What follows the netlink header.

    Raises:
        DecodeError: It is shorter than any kernel's.
    """
    if len(body) < 32:
        raise DecodeError(f"an audit status of {len(body)} bytes")
    fields = _STATUS.unpack(bytes(body[:40]).ljust(40, b"\0"))
    return AuditStatus(
        enabled=fields[1], pid=fields[3], backlog_limit=fields[5], lost=fields[6], backlog_wait_time=fields[9]
    )
