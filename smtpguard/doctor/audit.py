"""The kernel's audit system: is it on, who reads it, does it lose records, does it put audited processes to sleep.

AUDIT_GET of linux/audit.h on a netlink socket; needs CAP_AUDIT_CONTROL, and only the initial network namespace answers.
"""

import os
import socket
from collections.abc import Iterator

from smtpguard.decode.netlink.audit import (
    AUDIT_GET,
    NLM_F_ACK,
    NLM_F_REQUEST,
    AuditStatus,
    parse_error,
    parse_status,
)
from smtpguard.decode.netlink.messages import HEADER, NLMSG_ERROR, split_messages
from smtpguard.doctor.finding import ExaminedHost, Finding
from smtpguard.errors import DecodeError

_NETLINK_AUDIT = 9
_TIMEOUT_S = 2.0


def check_audit(host: ExaminedHost) -> Iterator[Finding]:
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
        asking.send(HEADER.pack(HEADER.size, AUDIT_GET, NLM_F_REQUEST | NLM_F_ACK, 1, 0))
        for _ in range(16):
            for message in split_messages(asking.recv(8192)):
                if message.type == NLMSG_ERROR:
                    code = parse_error(message.body)
                    if code:
                        raise OSError(code, os.strerror(code))
                elif message.type == AUDIT_GET:
                    return parse_status(message.body)
    raise DecodeError("the kernel sent no audit status")
