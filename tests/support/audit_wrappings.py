"""Audit events in every form in which people keep them: what each tool makes of the records of some events."""

import json
import struct
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from urllib.parse import quote

from tests.support.audit_records import SECOND, Event

NUMBERS = {"SYSCALL": 1300, "SOCKADDR": 1306, "PROCTITLE": 1327}
Lines = Sequence[str]
"""Records as auditd writes them."""


def parts(line: str) -> tuple[str, str, str]:
    """Kind, stamp and fields of a record, without its node."""
    head, _, fields = line.partition("): ")
    kind, _, stamp = head.partition(" msg=audit(")
    return kind.rpartition("type=")[2], stamp, fields


def raw(line: str) -> str:
    """A record as the kernel gives it: without node, and what auditd adds."""
    return line[line.index("type=") :].partition("\x1d")[0]


def plain(lines: Lines) -> bytes:
    return join(lines)


def join(lines: Iterable[str]) -> bytes:
    return "".join(line + "\n" for line in lines).encode("latin-1")


def prefixed(prefix: str) -> Callable[[Lines], bytes]:
    return lambda lines: join(prefix + line for line in lines)


def separated(separator: str) -> Callable[[Lines], bytes]:
    return lambda lines: join(line.replace("\x1d", separator) for line in lines)


def old_fam(lines: Lines) -> bytes:
    return join(line.replace("saddr_fam=", "fam=") for line in lines)


def bom(lines: Lines) -> bytes:
    return b"\xef\xbb\xbf" + join(lines)


def crlf(lines: Lines) -> bytes:
    return join(line + "\r" for line in lines)


def kernel(prefix: str) -> Callable[[Lines], bytes]:
    def wrap(lines: Lines) -> bytes:
        found = [parts(raw(line)) for line in lines]
        return join(f"{prefix}type={NUMBERS[kind]} audit({stamp}): {fields}" for kind, stamp, fields in found)

    return wrap


def journal_entry(line: str) -> dict[str, str]:
    kind, stamp, fields = parts(raw(line))
    time, _, serial = stamp.partition(":")
    return {
        "__CURSOR": "s=0;i=1",
        "__REALTIME_TIMESTAMP": "1771400009000000",
        "_TRANSPORT": "audit",
        "_HOSTNAME": "web7",
        "_AUDIT_TYPE": str(NUMBERS[kind]),
        "_AUDIT_TYPE_NAME": kind,
        "_AUDIT_ID": serial,
        "_SOURCE_REALTIME_TIMESTAMP": str(round(float(time) * 1e6)),
        "MESSAGE": f"{kind} {fields}",
    }


def journal_json(lines: Lines) -> bytes:
    return join(json.dumps(journal_entry(line)) for line in lines)


def journal_json_bytes(lines: Lines) -> bytes:
    entries = [journal_entry(line) for line in lines]
    return join(json.dumps({**entry, "MESSAGE": list(entry["MESSAGE"].encode("latin-1"))}) for entry in entries)


def journal_kernel_json(lines: Lines) -> bytes:
    entries = []
    for line in lines:
        kind, stamp, fields = parts(raw(line))
        message = f"audit: type={NUMBERS[kind]} audit({stamp}): {fields}"
        entries.append({"_TRANSPORT": "kernel", "_HOSTNAME": "web7", "PRIORITY": "5", "MESSAGE": message})
    return join(map(json.dumps, entries))


def journal_export(lines: Lines) -> bytes:
    out = b""
    for line in lines:
        entry = journal_entry(line)
        message = entry.pop("MESSAGE").encode("latin-1")
        for name, value in entry.items():
            out += f"{name}={value}\n".encode("latin-1")
        odd = b"a\nMESSAGE=SYSCALL\n\nb"
        out += b"_CMDLINE\n" + struct.pack("<Q", len(odd)) + odd + b"\n"
        out += b"MESSAGE\n" + struct.pack("<Q", len(message)) + message + b"\n\n"
    return out


def collector(name: str) -> Callable[[Lines], bytes]:
    return lambda lines: join(json.dumps({"date": 1700000000.1, name: line, "tag": "audit"}) for line in lines)


def fluent_bit(lines: Lines) -> bytes:
    quoted = [line.replace('"', '\\"').replace("\x1d", "\\u001d") for line in lines]
    return join(f'[{number}] tail.0: [1700000000.1, {{"log"=>"{line}"}}]' for number, line in enumerate(quoted))


def docker(lines: Lines) -> bytes:
    return join(json.dumps({"log": line + "\n", "stream": "stdout", "time": "2026-02-18T07:33:20Z"}) for line in lines)


LINE_FORMS: dict[str, Callable[[Lines], bytes]] = {
    "plain": plain,
    "crlf": crlf,
    "bom": bom,
    "fam": old_fam,
    "blank": separated(" "),
    "octal": separated("#035"),
    "nothing": separated(""),
    "rfc3164": prefixed("Nov 14 22:13:20 web7 audisp-syslog[812]: "),
    "rsyslog": prefixed("2023-11-14T22:13:20.100+00:00 web7 audisp-syslog: "),
    "rfc5424": prefixed("<14>1 2023-11-14T22:13:20.100+00:00 web7 audisp-syslog 812 - - "),
    "cri": prefixed("2023-11-14T22:13:20.100000000Z stdout F "),
    "grep": prefixed("/var/log/audit/audit.log.1:"),
    "syslog-kernel": kernel("Nov 14 22:13:20 web7 kernel: audit: "),
    "syslog-kernel-7": kernel("Nov 14 22:13:20 web7 kernel: "),
    "dmesg": kernel("[   12.345678] audit: "),
    "journal-json": journal_json,
    "journal-json-bytes": journal_json_bytes,
    "journal-kernel": journal_kernel_json,
    "journal-export": journal_export,
    "fluent-bit-json": collector("log"),
    "loki": collector("line"),
    "fluent-bit": fluent_bit,
    "docker": docker,
}
"""Forms that keep records apart, so that they may come in any order."""
RAW_ONLY = frozenset(name for name in LINE_FORMS if "kernel" in name or "journal" in name or name == "dmesg")


def fields_of(line: str) -> dict[str, str]:
    """The fields of a record's text; quotes stay."""
    return dict(word.split("=", 1) for word in parts(raw(line))[2].split(" ") if "=" in word)


def decoded(value: str) -> bytes:
    """comm and exe as they are."""
    return value[1:-1].encode("latin-1") if value.startswith('"') else bytes.fromhex(value)


def percent(value: bytes) -> str:
    return quote(value, safe=" /!\"#$&'()*,-.:;<=>?@[]^_`{|}~\\")


def laurel(events: Iterable[Event], *, hexed: bool = False) -> bytes:
    out = []
    for event in events:
        call, address = fields_of(event.call()), fields_of(event.sockaddr())["saddr"]
        syscall: dict[str, object] = {
            "arch": "0x" + call["arch"],
            **{name: int(call[name]) for name in ("syscall", "pid", "ppid", "uid", "euid", "gid") if name in call},
            "ARGV": [f"0x{call[f'a{n}']}" for n in range(4)],
            "comm": percent(decoded(call["comm"])),
            "exe": percent(decoded(call["exe"])),
        }
        if "exit" in call:
            syscall |= {"success": call["success"], "exit": int(call["exit"])}
        if event.enriched:
            syscall |= {"ARCH": "x86_64", "UID": event.user}
        saddr = address if hexed else percent(bytes.fromhex(address))
        stamp = event.stamp[len("audit(") : -1]
        node = {"NODE": event.node} if event.node else {}
        sockaddr: object = {"saddr": saddr} if hexed else [{"saddr": saddr}]
        out.append(json.dumps({"ID": stamp, **node, "SYSCALL": syscall, "SOCKADDR": sockaddr}))
    return join(out)


def go_audit(events: Iterable[Event]) -> bytes:
    out = []
    for event in events:
        messages = [
            {"type": NUMBERS[kind], "data": text}
            for kind, _, text in (parts(raw(line)) for line in (event.call(), event.sockaddr(), event.proctitle()))
        ]
        time, _, serial = event.stamp[len("audit(") : -1].partition(":")
        host = {"hostname": event.node} if event.node else {}
        out.append(
            json.dumps({"sequence": int(serial), "timestamp": time, "messages": messages, "uid_map": {}, **host})
        )
    return join(out)


def auditbeat(events: Iterable[Event], *, messages: bool) -> bytes:
    arches = {"c000003e": "x86_64", "40000003": "i386", "c00000b7": "aarch64", "c00000f3": "riscv64"}
    arches |= {"80000016": "s390x", "80000015": "ppc64"}
    errors = {-115: "EINPROGRESS", -111: "ECONNREFUSED", -106: "EISCONN"}
    out = []
    for event in events:
        moment = datetime.fromtimestamp(SECOND + event.millis // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        exit_value = {} if event.exit_value is None else {"exit": errors.get(event.exit_value, str(event.exit_value))}
        good = {None: {}, True: {"result": "success"}, False: {"result": "fail"}}
        result = good[None if event.exit_value is None else event.exit_value >= 0]
        value: dict[str, object] = {
            "@timestamp": f"{moment}.{event.millis % 1000:03d}Z",
            "auditd": {
                "sequence": event.serial,
                **result,
                "data": {
                    "arch": arches[event.arch],
                    "syscall": "connect",
                    **exit_value,
                    **{f"a{n}": f"{a:x}" for n, a in enumerate(event.a)},
                    "socket": {"family": "ipv6" if ":" in event.address else "ipv4", "addr": event.address},
                },
            },
            "destination": {"ip": event.address, "port": str(event.port)},
            "process": {
                "pid": str(event.pid),
                "name": event.comm.decode("utf-8", "replace"),
                "executable": event.exe.decode("utf-8", "replace"),
            },
            "user": {"id": str(event.uid) if event.uid < 4294967295 else "unset", "name": event.user},
        }
        if event.node:
            value["host"] = {"name": event.node}
        if messages:
            records = [line.replace("node=" + event.node + " ", "") for line in (event.call(), event.sockaddr())]
            value["auditd"]["messages"] = records  # type: ignore[index]
            value["event"] = {"original": records}
        out.append(json.dumps(value))
    return join(out)


EVENT_FORMS: dict[str, Callable[[Sequence[Event]], bytes]] = {
    "laurel": laurel,
    "laurel-hex": lambda events: laurel(events, hexed=True),
    "go-audit": go_audit,
    "auditbeat-messages": lambda events: auditbeat(events, messages=True),
    "auditbeat": lambda events: auditbeat(events, messages=False),
    "syslog-laurel": lambda events: b"".join(
        b"Nov 14 22:13:20 web7 laurel: " + line + b"\n" for line in laurel(events).splitlines()
    ),
    "json-list": lambda events: b"[" + b",".join(go_audit(events).splitlines()) + b"]\n",
}
"""Forms that keep the records of an event together."""
