"""Single audit records as text: SYSCALL, URINGOP and SOCKADDR lines to what they say. One line in, one value out.

The order of the fields is the kernel's (audit_log_exit and audit_log_uring in kernel/auditsc.c) and is required in
full, because a log in ENRICHED format can hold whole forged lines (auditd writes the path of an AF_UNIX address raw).
Values are in hex where they could hold a space or a quote (audit_log_untrustedstring). Never joins records.
"""

import re
from typing import Final

from smtpguard.decode.audit.fields import parse_fraction, parse_seconds, parse_text, parse_uid
from smtpguard.errors import DecodeError

MSG_FASTOPEN = 0x20000000
"""include/linux/socket.h: send data in the SYN, so the send is a connect."""
_IORING_OP_CONNECT = b"16"
"""include/uapi/linux/io_uring.h."""
_URING_ENTER = b" syscall=426"
"""io_uring_enter(2), the same number on all architectures here."""
_REPEATS: Final = frozenset({b"-106", b"-114"})
"""EISCONN and EALREADY: a further connect() on a socket that is connected or about to be, so no new attempt."""

# How a call says that it is a connect: always, or by a flag or a sub-call in one of its arguments.
ALWAYS, FLAG_A2, FLAG_A3, SOCKETCALL = range(4)
_SUBCALLS = frozenset({b"3", b"b", b"10", b"14"})
"""socketcall(2), in hex: connect, and sendto, sendmsg, sendmmsg, whose flags are not in the record: an address on a
mail port in one of those is a fast open (or UDP, which nobody sends there)."""
ARCHES: dict[bytes, tuple[dict[int, int], int | None]] = {
    # AUDIT_ARCH_* of include/uapi/linux/audit.h: numbers of connect, sendto, sendmsg, sendmmsg; and of socketcall.
    b"c000003e": ({42: ALWAYS, 44: FLAG_A3, 46: FLAG_A2, 307: FLAG_A3}, None),  # x86_64
    b"40000003": ({362: ALWAYS, 369: FLAG_A3, 370: FLAG_A2, 345: FLAG_A3}, 102),  # i386
    b"c00000b7": ({203: ALWAYS, 206: FLAG_A3, 211: FLAG_A2, 269: FLAG_A3}, None),  # aarch64
    b"c00000f3": ({203: ALWAYS, 206: FLAG_A3, 211: FLAG_A2, 269: FLAG_A3}, None),  # riscv64
    b"c0000102": ({203: ALWAYS, 206: FLAG_A3, 211: FLAG_A2, 269: FLAG_A3}, None),  # loongarch64
    b"40000028": ({283: ALWAYS, 290: FLAG_A3, 296: FLAG_A2, 374: FLAG_A3}, 102),  # arm
    b"c0000015": ({328: ALWAYS, 335: FLAG_A3, 341: FLAG_A2, 349: FLAG_A3}, 102),  # ppc64le
    b"80000015": ({328: ALWAYS, 335: FLAG_A3, 341: FLAG_A2, 349: FLAG_A3}, 102),  # ppc64
    b"14": ({328: ALWAYS, 335: FLAG_A3, 341: FLAG_A2, 349: FLAG_A3}, 102),  # ppc
    b"80000016": ({362: ALWAYS, 369: FLAG_A3, 370: FLAG_A2, 358: FLAG_A3}, 102),  # s390x
    b"16": ({362: ALWAYS, 369: FLAG_A3, 370: FLAG_A2, 358: FLAG_A3}, 102),  # s390
}
_BIG_ENDIAN = (b"80000015 ", b"14 ", b"80000016 ", b"16 ")
"""Where the family of an address is written the other way round."""
_X32_BIT = 0x40000000
_X32 = {42: ALWAYS, 44: FLAG_A3, 518: FLAG_A2, 538: FLAG_A3}
"""x32 programs: AUDIT_ARCH_X86_64 with this bit in the number."""


def _call_table() -> dict[bytes, int]:
    """The text `ARCH syscall=NUMBER` to how such a call is judged."""
    table: dict[bytes, int] = {}
    for arch, (calls, socketcall) in ARCHES.items():
        numbers = dict(calls)
        if socketcall is not None:
            numbers[socketcall] = SOCKETCALL
        if arch == b"c000003e":
            numbers |= {number | _X32_BIT: how for number, how in _X32.items()}
        table |= {b"%s syscall=%d" % (arch, number): how for number, how in numbers.items()}
    return table


_CALLS = _call_table()

# Possessive throughout: no field's bytes can be another field's, so a hostile line costs one pass. Fields that nobody
# asks for are "up to the space", which is quicker than a class of bytes; a record must be matched within its line.
_NODE = rb"(?:node=([^ \n]++) )?"
_STAMP = rb" msg=audit\((([0-9]{1,11}+)\.([0-9]{1,9}+):[0-9]{1,20}+)\): "
_RESULT = rb"(?: success=(?:yes|no) exit=(-?[0-9]{1,19}+))?+"
CALL = rb"arch=([0-9a-f]++ syscall=[0-9]++)(?: per=[0-9a-f]++)?+" + _RESULT
"""The call of a SYSCALL record and its exit value, as groups 1 and 2."""
AUID = rb" auid=[^ ]++"
IDS = (
    rb" uid=([0-9]{1,10}+) gid=[^ ]++ euid=([0-9]{1,10}+) suid=[^ ]++ fsuid=[^ ]++"
    rb" egid=[^ ]++ sgid=[^ ]++ fsgid=[0-9]++"
)
"""uid and euid."""
PROGRAM = rb" tty=[^ ]++ ses=[^ ]++ comm=([^ \n]++) exe=([^ \x1d\r\n]++)"
"""comm and exe."""
_ENRICHED = rb"(?:\x1d([^\n]*+))?+"
_CALL_END = (
    # What auditd adds stands behind 0x1d; behind a blank, syslog's #035 or nothing where something wrote it on.
    # (Not possessive: Python 3.11 forgets where it was when a lookahead in such a loop fails.)
    rb"(?=[ \x1d\r\n])(?:(?!(?: |#035)?ARCH=[^ \n]++ SYSCALL=)[^\x1d\n])*"
    rb"(?:(?:\x1d|(?: |#035)?(?=ARCH=))([^\n]*+))?+\n"
)
_SYSCALL = (
    _NODE
    + rb"type=SYSCALL"
    + _STAMP
    + CALL
    + rb" a0=([0-9a-f]{1,16}+|\?) a1=[^ ]++ a2=([0-9a-f]{1,16}+|\?) a3=([0-9a-f]{1,16}+|\?) items=[^ ]++"
    + rb" ppid=[^ ]++ pid=([0-9]{1,10}+)"
    + AUID
    + IDS
    + PROGRAM
    + _CALL_END
)
_URINGOP = (
    _NODE
    + rb"type=(?:URINGOP|UNKNOWN\[1336\])"
    + _STAMP
    + rb"uring_op=([0-9]++)"
    + _RESULT
    + rb" items=[^ ]++ ppid=[^ ]++ pid=([0-9]{1,10}+)"
    + IDS
    + rb"(?=[ \x1d\r\n])[^\x1d\n]*+"
    + _ENRICHED
    + rb"\n"
)
match_syscall = re.compile(_SYSCALL).match
match_uringop = re.compile(_URINGOP).match
URINGOP_GROUPS = 10
"""How many groups tell a URINGOP record from a SYSCALL."""
_SADDR_END = rb"(?:(?:\x1d|(?: |#035)?(?=SADDR=))([^\n]*+))?+\r?\n"
_SOCKADDR = _NODE + rb"type=SOCKADDR" + _STAMP + rb"saddr=([0-9A-Fa-f]++)" + _SADDR_END
match_sockaddr = re.compile(_SOCKADDR).match


Call = tuple[int, int, int | None, int | None, bytes | None, bytes | None, bytes | None, bytes | None, bytes | None]
"""A system call that opens a connection: time_ns (since the epoch), pid, uid, euid (None if unset), comm, exe
(untrusted; None where the record has none), descriptor and exit value as the record writes them (None if it doesn't
say), and the part that auditd adds in ENRICHED format (None in RAW)."""


def read_call(groups: tuple[bytes, ...]) -> Call | None:
    """What a SYSCALL record says; None if it opens no connection.

    Args:
        groups: The first 15 groups of its match.

    Raises:
        DecodeError: A text in it is neither quoted nor hex.
    """
    seconds, fraction, call, exit_value, a0, a2, a3, pid, uid, euid, comm, exe, tail = groups[2:15]
    how = _CALLS.get(call)
    if how is None or exit_value in _REPEATS:
        return None
    fd: bytes | None = None if a0 == b"?" else a0
    if how not in {ALWAYS, SOCKETCALL} and b"?" in {a2, a3}:
        raise DecodeError("a call whose flags are not told")
    if how == SOCKETCALL:
        if a0 not in _SUBCALLS:
            return None
        fd = None
    elif how != ALWAYS and not int(a3 if how == FLAG_A3 else a2, 16) & MSG_FASTOPEN:
        return None
    time_ns = parse_seconds(seconds) + parse_fraction(fraction)
    return time_ns, int(pid), parse_uid(uid), parse_uid(euid), parse_text(comm), parse_text(exe), fd, exit_value, tail


def is_big_endian(groups: tuple[bytes, ...]) -> bool | None:
    """Whether a call was logged by a host that writes the family of an address so; None if the record doesn't say.

    Args:
        groups: The groups of its match.
    """
    return None if len(groups) == URINGOP_GROUPS else groups[4].startswith(_BIG_ENDIAN)


def is_always_connect(call: bytes) -> bool:
    """Whether a call, `ARCH syscall=NUMBER`, is connect(2)."""
    return _CALLS.get(call) == ALWAYS


def is_plain_connect(call: bytes, exit_value: bytes | None) -> bool:
    """Whether a call, `ARCH syscall=NUMBER`, opens a connection whatever its arguments are, and says how that ended."""
    return _CALLS.get(call) == ALWAYS and exit_value is not None and exit_value not in _REPEATS


def is_uring_enter(groups: tuple[bytes, ...]) -> bool:
    """Whether a SYSCALL record is io_uring_enter(2): what it did stands in URINGOP records of the same serial.

    Args:
        groups: The groups of its match.
    """
    return groups[4].endswith(_URING_ENTER)


def is_uring_connect(match: "re.Match[bytes]") -> bool:
    """Whether a URINGOP record is an IORING_OP_CONNECT."""
    return match[5] == _IORING_OP_CONNECT


def read_uring_call(groups: tuple[bytes, ...], enter: tuple[bytes, ...] | None) -> Call | None:
    """What the URINGOP record of a connect says; None for a repeat.

    Args:
        groups: All groups of its match.
        enter: The groups of the io_uring_enter(2) it is part of, which has comm and exe; None where a thread of the
            kernel ran it.

    Raises:
        DecodeError: A text is neither quoted nor hex.
    """
    _, _, seconds, fraction, _, exit_value, pid, uid, euid, tail = groups
    if exit_value in _REPEATS:
        return None
    comm, exe = (parse_text(enter[12]), parse_text(enter[13])) if enter else (None, None)
    time_ns = parse_seconds(seconds) + parse_fraction(fraction)
    return time_ns, int(pid), parse_uid(uid), parse_uid(euid), comm, exe, None, exit_value, tail
