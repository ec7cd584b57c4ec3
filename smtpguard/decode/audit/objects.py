"""Audit events as objects, of journald, laurel, go-audit and auditbeat, to the lines that auditd would have written.

journald and go-audit keep the text of each record, auditbeat too if it was told to; laurel and auditbeat otherwise take
records apart, and only what makes a connect is put together again. What an object does not say is written as `?`.
Pure; one object in, its lines out. Formats: systemd.journal-fields(7), laurel's json-format.md, go-audit's and
auditbeat's exported fields.
"""

import ipaddress
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from urllib.parse import unquote_to_bytes

from smtpguard.decode.audit.object_fields import (
    find_field,
    parse_bytes,
    parse_exit_value,
    parse_number,
    parse_uid_field,
    render_argument,
    render_field,
)
from smtpguard.decode.audit.record import ARCHES
from smtpguard.errors import DecodeError
from smtpguard.text import to_bytes

_MAX_DEPTH = 6
_LITTLE_ENDIAN = 0x40000000
"""A bit of AUDIT_ARCH_* (include/uapi/linux/audit.h)."""
_KINDS = {"SYSCALL": "SYSCALL", "SOCKADDR": "SOCKADDR", "URINGOP": "URINGOP", "AUDIT1336": "URINGOP"}
_NUMBERS = {1300: "SYSCALL", 1306: "SOCKADDR", 1336: "URINGOP"}
_CALLS = ("connect", "sendto", "sendmsg", "sendmmsg")
_ARCHES = {
    "x86_64": "c000003e",
    "i386": "40000003",
    "i686": "40000003",
    "aarch64": "c00000b7",
    "arm": "40000028",
    "riscv64": "c00000f3",
    "loongarch64": "c0000102",
    "ppc64le": "c0000015",
    "ppc64": "80000015",
    "ppc": "14",
    "s390x": "80000016",
    "s390": "16",
}
_STAMP = re.compile(r"[0-9]{1,11}\.[0-9]{1,9}:[0-9]{1,20}").fullmatch
_NODE = re.compile(r"[A-Za-z0-9._:-]{1,255}").fullmatch
_NAME = re.compile(r'[^"\s\x00-\x1f]{1,255}').fullmatch
_DIGITS = re.compile(r"(?:[0-9A-Fa-f]{2}){8,128}").fullmatch
Object = Mapping[str, object]


def read_object(value: Object, host: bytes | None) -> list[bytes] | None:
    """The lines of an audit event; None if it is no object of a kind that is known.

    Args:
        value: The object.
        host: Where it comes from, if something around it says so and it does not itself.

    Raises:
        DecodeError: It is of a known kind, but does not say what makes a connect.
    """
    if "_AUDIT_ID" in value:
        return _read_journal(value)
    if isinstance(value.get("ID"), str) and _STAMP(str(value["ID"])):
        return _read_laurel(value, host)
    if isinstance(value.get("messages"), list) and "sequence" in value:
        return _read_go_audit(value, host)
    if find_field(value, "auditd.data") is not None and not find_field(value, "auditd.messages"):
        return _read_auditbeat(value)
    return None


def find_texts(value: object, depth: int = 0, node: bytes | None = None) -> Iterator[tuple[bytes, bytes | None]]:
    """Texts in an object that may hold a record, with the host that the object names."""
    if isinstance(value, str):
        if "audit" in value or value.startswith('{"'):
            for line in value.split("\n"):
                yield to_bytes(line), node
    elif depth < _MAX_DEPTH:
        if isinstance(value, Mapping):
            node = _host(value) or node
            if isinstance(find_field(value, "auditd.messages"), list):  # auditbeat writes them twice
                value = {"": find_field(value, "auditd.messages")}
            for each in value.values():
                yield from find_texts(each, depth + 1, node)
        elif isinstance(value, list):
            message = parse_bytes(value)
            if message is not None:
                value = [message.decode("utf-8", "surrogateescape")]
            for each in value:
                yield from find_texts(each, depth + 1, node)


def _host(value: Object) -> bytes | None:
    """The host that an object names."""
    for name in ("_HOSTNAME", "NODE", "host.hostname", "host.name", "agent.hostname", "hostname"):
        text = find_field(value, name)
        if isinstance(text, str) and _NODE(text):
            return text.encode()
    return None


def _read_journal(value: Object) -> list[bytes] | None:
    message = value.get("MESSAGE", "")
    raw = parse_bytes(message) if isinstance(message, list) else to_bytes(str(message))
    kind, _, text = (raw or b"").partition(b" ")
    name = _KINDS.get(kind.decode("ascii", "replace").replace("UNKNOWN[1336]", "URINGOP"))
    if name is None:
        return []
    try:
        micros = int(str(value["_SOURCE_REALTIME_TIMESTAMP"]))
        serial = int(str(value["_AUDIT_ID"]))
    except (KeyError, ValueError):
        raise DecodeError("journal entry of a record without its time or serial") from None
    stamp = f"{micros // 1_000_000}.{micros % 1_000_000 // 1000:03d}:{serial}"
    return [_line(_host(value), name, stamp, text)]


def _read_go_audit(value: Object, host: bytes | None) -> list[bytes]:
    stamp = f"{value.get('timestamp')}:{value.get('sequence')}"
    if not _STAMP(stamp):
        raise DecodeError("go-audit event without its time or serial")
    messages = value["messages"]
    return [
        _line(_host(value) or host, name, stamp, to_bytes(str(message.get("data", ""))))
        for message in (messages if isinstance(messages, list) else [])
        if isinstance(message, Mapping) and (name := _NUMBERS.get(parse_number(message.get("type")) or 0))
    ]


def _read_laurel(value: Object, host: bytes | None) -> list[bytes]:
    call, addresses = value.get("SYSCALL"), value.get("SOCKADDR")
    uring = value.get("URINGOP")
    if isinstance(addresses, Mapping):
        addresses = [addresses]
    if isinstance(uring, list) and uring:
        uring = uring[0]
    if not isinstance(addresses, list) or not (isinstance(call, Mapping) or isinstance(uring, Mapping)):
        return []
    if len(addresses) != 1 or not isinstance(addresses[0], Mapping):
        raise DecodeError("laurel event with several addresses")
    text = addresses[0].get("saddr")
    parts = addresses[0].get("SADDR")
    if isinstance(text, str) and _DIGITS(text):
        digits = text.upper()
    elif isinstance(text, str):
        digits = unquote_to_bytes(to_bytes(text)).hex().upper()
    elif isinstance(parts, Mapping):
        digits = _sockaddr(parts.get("laddr") or parts.get("addr"), parts.get("lport") or parts.get("port"))
    else:
        raise DecodeError("laurel event without an address that can be read")
    fields: dict[str, object] = dict(call) if isinstance(call, Mapping) else dict(uring)  # type: ignore[call-overload]
    arguments = fields.get("ARGV")
    for number, argument in enumerate(arguments if isinstance(arguments, list) else []):
        fields.setdefault(f"a{number}", argument)
    for name in ("comm", "exe"):
        if isinstance(fields.get(name), str):
            fields[name] = unquote_to_bytes(to_bytes(str(fields[name])))
    if not isinstance(call, Mapping):
        raise DecodeError("laurel event of io_uring alone")
    return _event(_host(value) or host, str(value["ID"]), fields, fields.get("UID"), digits)


def _read_auditbeat(value: Object) -> list[bytes]:
    data = find_field(value, "auditd.data")
    name = find_field(data, "syscall") if isinstance(data, Mapping) else None
    if name not in (*_CALLS, "socketcall"):
        return []
    address = find_field(value, "destination.ip") or find_field(data, "socket.addr") or find_field(data, "addr")
    port = find_field(value, "destination.port") or find_field(data, "socket.port") or find_field(data, "port")
    saddr = find_field(data, "socket.saddr") or find_field(data, "saddr")
    if isinstance(saddr, str) and _DIGITS(saddr):
        digits = saddr.upper()
    elif address is None or port is None:
        return []  # AF_UNIX
    else:
        digits = _sockaddr(address, port)
    try:
        when = datetime.fromisoformat(str(value["@timestamp"])).astimezone(UTC)
    except (KeyError, ValueError, OverflowError):
        raise DecodeError("auditbeat event without its time") from None
    serial = parse_number(find_field(value, "auditd.sequence")) or 0
    stamp = f"{int(when.timestamp())}.{when.microsecond // 1000:03d}:{serial}"
    fields = {name: find_field(data, name) for name in ("arch", "syscall", "exit", "a0", "a1", "a2", "a3")}
    fields |= {
        "success": {"success": "yes", "fail": "no"}.get(str(find_field(value, "auditd.result"))),
        "pid": find_field(value, "process.pid"),
        "uid": find_field(value, "user.id"),
        "euid": find_field(value, "user.effective.id") or find_field(value, "user.id"),
        "comm": find_field(value, "process.name"),
        "exe": find_field(value, "process.executable"),
    }
    return _event(_host(value), stamp, fields, find_field(value, "user.name"), digits)


def _event(node: bytes | None, stamp: str, fields: Object, user: object, digits: str) -> list[bytes]:
    """The two records of a connect."""
    arch = str(fields.get("arch") or "")
    arch = _ARCHES.get(arch, arch.removeprefix("0x").lower())
    numbers, socketcall = ARCHES.get(to_bytes(arch), ({}, None))
    name = fields.get("syscall")
    call = parse_number(name)
    if call is None and name in _CALLS and numbers:
        call = list(numbers)[_CALLS.index(str(name))]
    elif call is None and name == "socketcall":
        call = socketcall
    pid, uid = parse_number(fields.get("pid")), parse_uid_field(fields.get("uid"))
    if not numbers or call is None or pid is None or uid is None:
        raise DecodeError("event without its call, process or user")
    answer = parse_exit_value(fields.get("exit"))
    result = "" if answer is None else f" success={'no' if answer < 0 else 'yes'} exit={answer}"
    a = [render_argument(fields.get(f"a{number}")) for number in range(4)]
    euid = parse_uid_field(fields.get("euid"))
    names = "suid=? fsuid=? egid=? sgid=? fsgid=0 tty=? ses=?"
    text = (
        f"arch={arch} syscall={call}{result} a0={a[0]} a1={a[1]} a2={a[2]} a3={a[3]} items=0 ppid=? pid={pid} auid=? "
        f"uid={uid} gid=? euid={uid if euid is None else euid} {names} comm={render_field(fields.get('comm'))} "
        f"exe={render_field(fields.get('exe'))} key=(null)"
    )
    if int(arch, 16) & _LITTLE_ENDIAN == 0 and digits.startswith(("0200", "0A00")):
        digits = digits[2:4] + digits[:2] + digits[4:]  # put together from an address: as that host would have it
    address = f"saddr={digits}"
    tail = _tail(digits) if isinstance(user, str) and _NAME(user) and user != "unset" else None
    if tail is not None:
        text += f'\x1dARCH={arch} SYSCALL=connect UID="{user}"'
        address += f"\x1d{tail}"
    return [_line(node, "SYSCALL", stamp, to_bytes(text)), _line(node, "SOCKADDR", stamp, address.encode())]


def _line(node: bytes | None, kind: str, stamp: str, text: bytes) -> bytes:
    prefix = b"node=%b " % node if node else b""
    return b"%btype=%b msg=audit(%b): %b\n" % (prefix, kind.encode(), stamp.encode(), text.replace(b"\n", b" "))


def _tail(digits: str) -> str | None:
    """What auditd adds to an address in ENRICHED format; None if it is neither IPv4 nor IPv6."""
    raw = bytes.fromhex(digits)
    if raw[:1] == b"\0":
        raw = raw[1::-1] + raw[2:]
    port = int.from_bytes(raw[2:4], "big")
    if raw[:2] == b"\2\0" and len(raw) >= 16:
        return f"SADDR={{ saddr_fam=inet laddr={ipaddress.IPv4Address(raw[4:8])} lport={port} }}"
    if raw[:2] == b"\12\0" and len(raw) >= 28:
        return f"SADDR={{ saddr_fam=inet6 laddr={ipaddress.IPv6Address(raw[8:24])} lport={port} }}"
    return None


def _sockaddr(address: object, port: object) -> str:
    number = parse_number(port)
    try:
        ip = ipaddress.ip_address(str(address).partition("%")[0])
    except ValueError:
        ip = None
    if ip is None or number is None or not 0 <= number < 65536:
        raise DecodeError("event without an address and port that can be read")
    if ip.version == 4:
        return f"0200{number:04X}{ip.packed.hex().upper()}{'0' * 16}"
    return f"0A00{number:04X}00000000{ip.packed.hex().upper()}00000000"
