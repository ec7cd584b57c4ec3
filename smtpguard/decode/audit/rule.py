"""Audit rules as the kernel takes them: `struct audit_rule_data` (include/uapi/linux/audit.h) to and from bytes. Pure.

A rule is a list it hangs in (system calls at their exit, io_uring operations at theirs), a mask of call numbers, and
fields that must all match. Numbers are in the byte order of this machine.
"""

import struct
from dataclasses import dataclass

from smtpguard.decode.audit.record import ALWAYS, ARCHES, FLAG_A2, FLAG_A3, MSG_FASTOPEN, SOCKETCALL
from smtpguard.errors import DecodeError

FILTER_TASK = 0x01
FILTER_EXIT = 0x04
FILTER_URING_EXIT = 0x07
ACTION_NEVER = 0
ACTION_ALWAYS = 2
FIELD_UID = 1
FIELD_ARCH = 11
FIELD_SADDR_FAM = 113
FIELD_ARG0 = 200
FIELD_FILTERKEY = 210
OP_EQUAL = 0x40000000
OP_BIT_TEST = 0x48000000
Field = tuple[int, int, int]
"""field, operator, value."""
_MAX_FIELDS = 64
_MASK_WORDS = 64
_HEAD = struct.Struct("=III64I64I64I64II")
"""flags, action, field_count, mask, fields, values, fieldflags, buflen; the strings follow."""
_URING_CONNECT = 16
"""IORING_OP_CONNECT."""
_SOCKETCALL_CONNECT = 3
"""SYS_CONNECT of include/uapi/linux/net.h."""
_WITH_STRING = frozenset({13, 14, 15, 16, 17, 19, 20, 21, 22, 23, 105, 107, 112, FIELD_FILTERKEY})
"""Fields whose value is the length of a string: labels, paths, the key."""
_AF_INET, _AF_INET6 = 2, 10
_MACHINES = {
    "x86_64": (b"c000003e", b"40000003"),
    "i686": (b"40000003",),
    "aarch64": (b"c00000b7", b"40000028"),
    "armv7l": (b"40000028",),
    "riscv64": (b"c00000f3",),
    "ppc64le": (b"c0000015",),
    "ppc64": (b"80000015", b"14"),
    "s390x": (b"80000016", b"16"),
    "loongarch64": (b"c0000102",),
}
"""uname -m to the architectures whose programs it runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRule:
    """One rule.

    Attributes:
        filter: The list it hangs in.
        calls: Numbers of system calls or io_uring operations; empty for every one.
        fields: (field, operator, value) that must all hold.
        key: What the records are marked with; None for no mark.
        action: What happens when it matches.
    """

    filter: int
    calls: frozenset[int]
    fields: tuple[Field, ...]
    key: bytes | None
    action: int = ACTION_ALWAYS


def render_rule(rule: AuditRule) -> bytes:
    """The bytes of AUDIT_ADD_RULE and AUDIT_DEL_RULE."""
    mask = [0] * _MASK_WORDS
    for call in rule.calls:
        mask[call // 32] |= 1 << call % 32
    if not rule.calls:
        mask = [0xFFFFFFFF] * _MASK_WORDS
    fields = list(rule.fields)
    text = rule.key or b""
    if rule.key is not None:
        fields.append((FIELD_FILTERKEY, OP_EQUAL, len(text)))
    pad = [0] * (_MAX_FIELDS - len(fields))
    return _HEAD.pack(
        rule.filter,
        rule.action,
        len(fields),
        *mask,
        *(field for field, _, _ in fields), *pad,
        *(value for _, _, value in fields), *pad,
        *(operator for _, operator, _ in fields), *pad,
        len(text),
    ) + text  # fmt: skip


def parse_rule(data: bytes) -> AuditRule:
    """A rule as AUDIT_LIST_RULES gives it. Raises DecodeError."""
    if len(data) < _HEAD.size:
        raise DecodeError(f"audit rule of {len(data)} bytes is cut short")
    flags, action, count, *rest = _HEAD.unpack_from(data)
    mask, fields, values, operators = (rest[start : start + 64] for start in (0, 64, 128, 192))
    if count > _MAX_FIELDS or len(data) < _HEAD.size + rest[-1]:
        raise DecodeError("audit rule says that it is longer than it is")
    strings = data[_HEAD.size : _HEAD.size + rest[-1]]
    kept, key, used = [], None, 0
    for field, operator, value in list(zip(fields, operators, values, strict=True))[:count]:
        if field == FIELD_FILTERKEY:
            key = strings[used : used + value]
        else:
            kept.append((field, operator, value))
        if field in _WITH_STRING:
            used += value
    calls = frozenset(word * 32 + bit for word in range(_MASK_WORDS) for bit in range(32) if mask[word] >> bit & 1)
    return AuditRule(
        filter=flags & 0xF,
        calls=frozenset() if len(calls) == 32 * _MASK_WORDS else calls,
        fields=tuple(kept),
        key=key,
        action=action,
    )


def connect_rules(machine: str, *, key: bytes, uid: int | None, by_family: bool) -> list[AuditRule]:
    """The rules that see every connect() audit can see: plain, 32-bit, by MSG_FASTOPEN, by io_uring.

    A socketcall(2) that sends with MSG_FASTOPEN is not among them: its flags are out of a rule's reach.

    Args:
        machine: What uname(2) calls this machine.
        key: The mark.
        uid: Only calls of this real uid; None for everybody.
        by_family: Let the kernel pass over AF_UNIX, most of a web host's connects, by the family of the address
            (kernel 5.3); twice the rules, as a field can't be one of two values.

    Raises:
        DecodeError: Nothing is known of such a machine.
    """
    arches = _MACHINES.get(machine)
    if arches is None:
        raise DecodeError(f"system calls of a {machine} are not known")
    who = () if uid is None else ((FIELD_UID, OP_EQUAL, uid),)
    families: list[tuple[Field, ...]] = [()]
    if by_family:
        families = [((FIELD_SADDR_FAM, OP_EQUAL, family),) for family in (_AF_INET, _AF_INET6)]
    rules = []
    for family in families:
        for arch in arches:
            what = (FIELD_ARCH, OP_EQUAL, int(arch, 16))
            for calls, condition in _calls(arch):
                fields = (what, *condition, *who, *family)
                rules.append(AuditRule(filter=FILTER_EXIT, calls=calls, fields=fields, key=key))
        uring = frozenset({_URING_CONNECT})
        rules.append(AuditRule(filter=FILTER_URING_EXIT, calls=uring, fields=(*who, *family), key=key))
    return rules


def _calls(arch: bytes) -> list[tuple[frozenset[int], tuple[Field, ...]]]:
    """The connecting calls of an architecture, grouped by the condition that makes them so."""
    numbers, socketcall = ARCHES[arch]
    conditions: dict[int, tuple[Field, ...]] = {
        ALWAYS: (),
        FLAG_A2: ((FIELD_ARG0 + 2, OP_BIT_TEST, MSG_FASTOPEN),),
        FLAG_A3: ((FIELD_ARG0 + 3, OP_BIT_TEST, MSG_FASTOPEN),),
        SOCKETCALL: ((FIELD_ARG0, OP_EQUAL, _SOCKETCALL_CONNECT),),
    }
    every = dict(numbers) if socketcall is None else {**numbers, socketcall: SOCKETCALL}
    return [
        (frozenset(number for number, how in every.items() if how == kind), condition)
        for kind, condition in conditions.items()
        if kind in every.values()
    ]
