"""What is said to and by the kernel's audit over netlink: requests, status, refusals. Pure; include/uapi/linux/audit.h.

Numbers are in the byte order of this machine. Requests are rendered, answers parsed; who sends them is elsewhere.
"""

import errno
import struct
from dataclasses import dataclass

from smtpguard.decode.netlink.messages import HEADER
from smtpguard.errors import DecodeError

NLM_F_REQUEST = 1
NLM_F_ACK = 4
AUDIT_GET = 1000
AUDIT_SET = 1001
AUDIT_ADD_RULE = 1011
AUDIT_DEL_RULE = 1012
AUDIT_LIST_RULES = 1013
AUDIT_SYSCALL = 1300
AUDIT_CONFIG_CHANGE = 1305
AUDIT_SOCKADDR = 1306
AUDIT_URINGOP = 1336
STATUS_ENABLED = 0x0001
STATUS_BACKLOG_LIMIT = 0x0010
STATUS_BACKLOG_WAIT_TIME = 0x0020
LOCKED = 2
"""`enabled` when nobody may change rules until the next boot (auditctl -e 2)."""
_STATUS = struct.Struct("=10I")
"""mask, enabled, failure, pid, rate_limit, backlog_limit, lost, backlog, features, backlog_wait_time."""
_OLD_STATUS_BYTES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditStatus:
    """`struct audit_status`.

    Attributes:
        enabled: 0 off, 1 on, 2 on and locked.
        failure: What the kernel does when it fails to log: 0 nothing, 1 printk, 2 panic.
        pid: The audit daemon's process id; 0 if there is none.
        backlog_limit: How many records may wait.
        lost: Records lost since the boot, or since somebody reset it.
        backlog: Records that wait now.
        backlog_wait_time: For how long a process that is audited *sleeps* when the backlog is full, in ticks; 0 if
            the record is lost instead. None before kernel 3.14.
    """

    enabled: int
    failure: int
    pid: int
    backlog_limit: int
    lost: int
    backlog: int
    backlog_wait_time: int | None


def render_request(kind: int, sequence: int, payload: bytes = b"") -> bytes:
    """A request that asks for an acknowledgement."""
    return HEADER.pack(HEADER.size + len(payload), kind, NLM_F_REQUEST | NLM_F_ACK, sequence, 0) + payload


def render_status(
    *, enabled: int | None = None, backlog_limit: int | None = None, backlog_wait_time: int | None = None
) -> bytes:
    """The payload of AUDIT_SET that changes what is not None."""
    changes = ((STATUS_ENABLED, enabled), (STATUS_BACKLOG_LIMIT, backlog_limit))
    mask = sum(bit for bit, value in (*changes, (STATUS_BACKLOG_WAIT_TIME, backlog_wait_time)) if value is not None)
    return _STATUS.pack(mask, enabled or 0, 0, 0, 0, backlog_limit or 0, 0, 0, 0, backlog_wait_time or 0)


def parse_error(payload: bytes | memoryview) -> int:
    """The errno of an NLMSG_ERROR, 0 for an acknowledgement. Raises DecodeError."""
    if len(payload) < 4:
        raise DecodeError("netlink error is cut short")
    code: int = struct.unpack_from("=i", payload)[0]
    if code > 0:
        raise DecodeError(f"netlink error {code} is not negative")
    return -code


def parse_status(payload: bytes | memoryview) -> AuditStatus:
    """The answer to AUDIT_GET. Raises DecodeError."""
    if len(payload) < _OLD_STATUS_BYTES:
        raise DecodeError(f"audit status of {len(payload)} bytes is cut short")
    whole = len(payload) >= _STATUS.size
    _, enabled, failure, pid, _, limit, lost, backlog, _, wait = _STATUS.unpack(
        bytes(payload[: _STATUS.size]).ljust(_STATUS.size, b"\0")
    )
    return AuditStatus(
        enabled=enabled,
        failure=failure,
        pid=pid,
        backlog_limit=limit,
        lost=lost,
        backlog=backlog,
        backlog_wait_time=wait if whole else None,
    )


def describe_refusal(kind: int, code: int) -> tuple[str, str | None]:
    """Why the kernel refused a request, and what helps; for people."""
    if code == errno.EPERM and kind in {AUDIT_ADD_RULE, AUDIT_DEL_RULE, AUDIT_SET}:
        return (
            "audit rules are locked until the next boot (auditctl -e 2), or CAP_AUDIT_CONTROL is lacking",
            "use another source, or load rules that log connect() before they are locked",
        )
    if code == errno.EPERM:
        return "CAP_AUDIT_CONTROL is lacking", "run it as root, outside of containers"
    if code == errno.ECONNREFUSED:
        return "audit can't be asked from this namespace", "run it in the initial namespaces"
    return errno.errorcode.get(code, str(code)), None
