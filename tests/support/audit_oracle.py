"""An independent reader of audit logs, for tests: every line to a dict, every dict looked at. Slow, plain; it shares
nothing with the readers that it is held against."""

import ipaddress
import json
import re
import struct
from typing import Any
from urllib.parse import unquote_to_bytes

Found = tuple[int, str, int, int, int, bytes, bytes, bytes]
"""Milliseconds, node, uid, pid, port, address, comm, exe."""
CONNECTS = {
    ("c000003e", "42"), ("40000003", "362"), ("c00000b7", "203"), ("c00000f3", "203"), ("80000016", "362"),
    ("80000015", "328"),
}  # fmt: skip
ARCH_NAMES = {
    "x86_64": "c000003e", "i386": "40000003", "aarch64": "c00000b7", "riscv64": "c00000f3", "s390x": "80000016",
    "ppc64": "80000015",
}  # fmt: skip
NAMES = {"1300": "SYSCALL", "1306": "SOCKADDR"}


class Oracle:
    """Reads one log."""

    def __init__(self, ports: tuple[int, ...]) -> None:
        self._ports = ports
        self._calls: dict[tuple[str, str], dict[str, str]] = {}
        self._addresses: dict[tuple[str, str], bytes] = {}
        self._direct: list[Found] = []

    def read(self, data: bytes) -> list[Found]:
        """All connects on the ports."""
        if data.startswith(b"__CURSOR="):
            for entry in self._entries(data):
                self._take_journal(entry)
        else:
            for line in data.decode("utf-8-sig", "surrogateescape").split("\n"):
                self._take_line(line)
        found = list(self._direct)
        for key, call in self._calls.items():
            if key in self._addresses and (call["arch"], call["syscall"]) in CONNECTS and call.get("exit") != "-106":
                found += self._connect(key, call, self._addresses[key])
        return sorted(found)

    @staticmethod
    def _entries(data: bytes) -> list[dict[str, str]]:
        entries: list[dict[str, str]] = []
        entry: dict[str, str] = {}
        while data:
            line, _, data = data.partition(b"\n")
            if not line:
                entries.append(entry)
                entry = {}
            elif b"=" in line:
                name, _, value = line.partition(b"=")
                entry[name.decode()] = value.decode("latin-1")
            else:
                (size,) = struct.unpack("<Q", data[:8])
                entry[line.decode()] = data[8 : 8 + size].decode("latin-1")
                data = data[8 + size + 1 :]
        return entries

    def _take_line(self, line: str) -> None:
        brace = line.find('{"')
        if brace >= 0 and not line[brace:].startswith('{"log"=>'):
            host = self._host(line[:brace])
            value = json.loads(line[line.index("[") :] if line.startswith("[") else line[brace:])
            for each in value if isinstance(value, list) else [value]:
                self._take_object(each, host)
            return
        if brace >= 0:
            line = line.replace('\\"', '"').replace("\\u001d", "\x1d").removesuffix('"}]')
        self._take_text(line, "")

    @staticmethod
    def _host(header: str) -> str:
        found = re.match(r"(?:<\d+>1 )?(?:\w{3} [ \d]\d [\d:]+|\d{4}-[\w:.+-]+) (\S+) ", header)
        return found[1] if found and found[1] not in ("stdout", "stderr") else ""

    def _take_text(self, line: str, host: str) -> None:
        found = re.search(r"(?:node=(\S+) )?type=(\w+) (?:msg=)?audit\(([\d.]+:\d+)\): (.*)", line, re.DOTALL)
        if found:
            node = found[1] or host or self._host(line[: found.start()])
            self._take_record(node, NAMES.get(found[2], found[2]), found[3], found[4].rstrip("\r\n"))

    def _take_record(self, node: str, kind: str, stamp: str, text: str) -> None:
        if kind == "SYSCALL":
            words = re.split(r"\x1d|#035| |(?<=\")(?=ARCH=)|(?<=\))(?=ARCH=)", text)
            fields: dict[str, str] = {}
            for name, _, value in (word.partition("=") for word in words):
                fields.setdefault(name, value)
            self._calls[node, stamp] = fields
        elif kind == "SOCKADDR":
            digits = re.match(r"saddr=([0-9A-Fa-f]+)", text)
            assert digits
            self._addresses[node, stamp] = bytes.fromhex(digits[1])

    def _take_journal(self, entry: dict[str, Any]) -> None:
        message = entry["MESSAGE"]
        if isinstance(message, list):
            message = bytes(message).decode("latin-1")
        kind, _, text = message.partition(" ")
        micros = int(entry["_SOURCE_REALTIME_TIMESTAMP"])
        stamp = f"{micros // 10**6}.{micros // 1000 % 1000:03d}:{entry['_AUDIT_ID']}"
        self._take_record(entry["_HOSTNAME"], kind, stamp, text)

    def _take_object(self, value: dict[str, Any], host: str) -> None:
        if "_AUDIT_ID" in value:
            self._take_journal(value)
        elif "ID" in value:
            call = value["SYSCALL"]
            address = value["SOCKADDR"]
            saddr = (address[0] if isinstance(address, list) else address)["saddr"]
            packed = bytes.fromhex(saddr) if re.fullmatch("[0-9A-F]{16,}", saddr) else unquote_to_bytes(saddr)
            fields = {name: str(field) for name, field in call.items() if name not in ("comm", "exe")}
            fields["arch"] = fields["arch"].removeprefix("0x")
            fields |= {name: unquote_to_bytes(call[name]).hex() for name in ("comm", "exe")}
            if (fields["arch"], fields["syscall"]) in CONNECTS and fields.get("exit") != "-106":
                self._direct += self._connect((value.get("NODE") or host, value["ID"]), fields, packed)
        elif "messages" in value:
            for message in value["messages"]:
                kind = NAMES.get(str(message["type"]), "")
                node = value.get("hostname") or host
                self._take_record(node, kind, f"{value['timestamp']}:{value['sequence']}", message["data"])
        elif "auditd" in value:
            node = value.get("host", {}).get("name", "")
            if "messages" in value["auditd"]:
                for text in value["auditd"]["messages"]:
                    self._take_text(text, node)
                return
            self._take_beat(value, node)
        else:
            node = value.get("_HOSTNAME", "")
            text = next(value[name] for name in ("MESSAGE", "log", "line") if name in value)
            self._take_text(text, node)

    def _take_beat(self, value: dict[str, Any], node: str) -> None:
        data, process = value["auditd"]["data"], value["process"]
        whole, _, fraction = value["@timestamp"].removesuffix("Z").partition(".")
        import calendar
        import time

        seconds = calendar.timegm(time.strptime(whole, "%Y-%m-%dT%H:%M:%S"))
        ip = ipaddress.ip_address(value["destination"]["ip"])
        port = int(value["destination"]["port"]).to_bytes(2, "big")
        packed = b"\2\0" + port + ip.packed if ip.version == 4 else b"\12\0" + port + bytes(4) + ip.packed
        fields = {
            "uid": value["user"]["id"].replace("unset", "4294967295"),
            "pid": process["pid"],
            "comm": process["name"].encode().hex(),
            "exe": process["executable"].encode().hex(),
        }
        stamp = f"{seconds}.{fraction}:{value['auditd']['sequence']}"
        if data.get("exit") != "EISCONN":
            self._direct += self._connect((node, stamp), fields, packed)

    def _connect(self, key: tuple[str, str], call: dict[str, str], packed: bytes) -> list[Found]:
        family = max(packed[0], packed[1])
        port = int.from_bytes(packed[2:4], "big")
        address = packed[4:8] if family == 2 else packed[8:24]
        if address.startswith(bytes(10) + b"\xff\xff"):
            address = address[12:]
        if family not in (2, 10) or port not in self._ports:
            return []
        seconds, _, rest = key[1].partition(".")
        millis = int(seconds) * 1000 + int(rest.partition(":")[0])
        texts = [
            value[1:-1].encode("utf-8", "surrogateescape") if value.startswith('"') else bytes.fromhex(value)
            for value in (call["comm"], call["exe"])
        ]
        return [(millis, key[0], int(call["uid"]), int(call["pid"]), port, address, texts[0], texts[1])]
