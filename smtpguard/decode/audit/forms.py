"""Audit logs as they are really kept: whatever wraps the records, taken off; lines as auditd writes them come out.

A file that auditd wrote (RAW or ENRICHED, with or without node=, ausearch's default and --raw output too) needs none of
this: `make_unwrapper` looks at its beginning and says so. Everything else is read line by line: text with anything
before `type=` (syslog, RFC 5424, CRI, grep -H), the kernel's own log, JSON of journald, laurel, go-audit, auditbeat and
of collectors that put lines into it, and journald's export format. Only the records that make connects come out.

What can't be joined is counted by its kind, to be told: interpreted records (ausearch -i), journald's text.

The host that a syslog header names stands for a node= that is not there. Whoever may write to syslog can write any of
this, so only `replay` reads it, never a running guard.
"""

import json
import re
from collections import Counter
from typing import Protocol

from smtpguard.decode.audit.objects import find_texts, read_object
from smtpguard.errors import DecodeError

MAX_LINE_BYTES = 1 << 22
_HEAD_LINES = 400
BOM = b"\xef\xbb\xbf"
_PLAIN = re.compile(rb"(?:node=[^ \n]+ )?type=[^ \n]+ msg=audit\([0-9]{1,11}\.[0-9]{1,9}:[0-9]{1,20}\)").match
_STAMP = rb"[0-9]{1,11}\.[0-9]{1,9}:[0-9]{1,20}"
_ANY = re.compile(rb"audit\(" + _STAMP + rb"\)").search
_RECORD = re.compile(
    rb"(?:node=([^ \n]{1,255}) )?type=(SYSCALL|SOCKADDR|URINGOP|UNKNOWN\[1336\]|1300|1306|1336) (?:msg=)?audit\(("
    + _STAMP
    + rb")\): ?(.*)",
    re.DOTALL,
).search
_KINDS = {b"1300": b"SYSCALL", b"1306": b"SOCKADDR", b"1336": b"URINGOP"}
_HOST = re.compile(
    rb"(?:<[0-9]{1,3}>)?(?:1 )?"
    rb"(?:[A-Z][a-z]{2} [ 0-9][0-9] [0-9:]{8}"
    rb"|[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9:.,]{8,18}(?:Z|[+-][0-9]{2}:?[0-9]{2})?)"
    rb" ([A-Za-z0-9._-]{1,255}) "
).match
_STREAMS = frozenset({b"stdout", b"stderr"})  # CRI names no host
_INTERPRETED = re.compile(rb"audit\([^)\n]*[/ ][^)\n]*:[0-9]{1,20}\)").search
_JOURNAL_TEXT = re.compile(rb"\baudit(?:\[[0-9]+\])?: (?:SYSCALL|SOCKADDR) ").search
_REPORT = re.compile(rb"NODE,EVENT,DATE,TIME|At [0-9:]{8} [^ ]+ .*\bsuccessfully ").match
_ESCAPED_END = re.compile(rb'"\}+\]?,?\s*\Z')

INTERPRETED, JOURNAL_TEXT, REPORT, WIDE, MIXED = "interpreted", "journal-text", "report", "wide", "mixed"
_EXPORTED = re.compile(rb"(?:__CURSOR|__REALTIME_TIMESTAMP|_AUDIT_TYPE|_AUDIT_TYPE_NAME|_AUDIT_ID)=").match
_FIELD = re.compile(rb"[A-Z0-9_]{1,255}=").match
_decoder = json.JSONDecoder(strict=False)


class Unwrapper(Protocol):
    """Takes the wrapping off.

    Attributes:
        records: Audit records seen, of whatever kind.
        garbled: Records that make connects but can't be read.
        unreadable: Lines of kinds that can't be joined, by kind.
    """

    records: int
    garbled: int
    unreadable: Counter[str]

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes, cut anywhere; whole lines as auditd writes them."""
        ...

    def finish(self) -> bytes:
        """The stream has ended; its last line counts without a newline."""
        ...


def make_unwrapper(head: bytes) -> Unwrapper | None:
    """What takes the wrapping off a log; None if it is as auditd writes it.

    Args:
        head: Its beginning, without a byte order mark.
    """
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return WideUnwrapper()
    if head.startswith((b"__CURSOR=", b"__REALTIME_TIMESTAMP=")):
        return ExportUnwrapper()
    for line in head.split(b"\n", _HEAD_LINES)[:_HEAD_LINES]:
        if _PLAIN(line):
            return None
        if _ANY(line) or b'{"' in line or _INTERPRETED(line):
            break
    return LineUnwrapper()


def is_of_another_form(line: bytes) -> bool:
    """Whether a line holds an audit record, or a piece of one, in a form other than that of journald's export.

    Args:
        line: Without its newline.
    """
    unwrapper = LineUnwrapper()
    unwrapper.feed(line + b"\n")
    return bool(unwrapper.records or unwrapper.unreadable)


def is_not_auditds(line: bytes) -> bool:
    """Whether a line holds an audit record, or a piece of one, in a form other than that in which auditd writes it.

    Args:
        line: Without its newline.
    """
    if _PLAIN(line):
        return False
    return _EXPORTED(line) is not None or is_of_another_form(line)


class LineUnwrapper:
    """Text and JSON, one record or event a line."""

    def __init__(self) -> None:
        self.records = 0
        self.garbled = 0
        self.unreadable: Counter[str] = Counter()
        self._rest = b""
        self._skipping = False

    def feed(self, data: bytes) -> bytes:
        """As Unwrapper."""
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        if self._skipping and lines:
            del lines[0]
            self._skipping = False
        out: list[bytes] = []
        for line in lines:
            if b"audit" in line or b'{"' in line or b"successfully" in line or b"NODE,EVENT" in line:
                self._take(line, out)
        if len(self._rest) > MAX_LINE_BYTES:
            self.garbled += not self._skipping
            self._rest, self._skipping = b"", True
        return b"".join(out)

    def finish(self) -> bytes:
        """As Unwrapper."""
        return self.feed(b"\n")

    def _take(self, line: bytes, out: list[bytes]) -> None:
        """One line of the file."""
        at = line.find(b'{"')
        if at >= 0 and self._take_json(line, at, out):
            return
        if at >= 0 and b'"=>"' in line:  # text that is nearly JSON: fluent-bit's own output
            line = _ESCAPED_END.sub(b"", line.replace(b'\\"', b'"').replace(b"\\u001d", b"\x1d"))
        self._take_text(line, None, out)

    def _take_json(self, line: bytes, at: int, out: list[bytes]) -> bool:
        """An object in a line, or a list of them; False if it is none."""
        if line[:at].strip() == b"[":
            at = line.index(b"[")
        try:
            value, _ = _decoder.raw_decode(line[at:].decode("utf-8", "surrogateescape"))
        except (ValueError, RecursionError):
            return False
        host = _host_of(line[:at])
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, dict):
                self._take_object(each, host, out)
        return True

    def _take_object(self, value: dict[str, object], host: bytes | None, out: list[bytes]) -> None:
        try:
            lines = read_object(value, host)
        except DecodeError:
            self.records += 1
            self.garbled += 1
            return
        if lines is not None:
            self.records += 1
            out += lines
            return
        for text, node in find_texts(value):
            if text.startswith(b'{"'):
                self._take_json(text, 0, out)
            else:
                self._take_text(text, node or host, out)

    def _take_text(self, line: bytes, host: bytes | None, out: list[bytes]) -> None:
        """A line of text with a record in it."""
        found = _RECORD(line)
        if found is not None:
            self.records += 1
            node, kind, stamp, rest = found.groups()
            node = node or host or _host_of(line[: found.start()])
            prefix = b"node=%b " % node if node else b""
            out.append(b"%btype=%b msg=audit(%b): %b\n" % (prefix, _KINDS.get(kind, kind), stamp, rest.rstrip(b"\r\n")))
        elif _ANY(line):
            self.records += 1
        elif _INTERPRETED(line):
            self.unreadable[INTERPRETED] += 1
        elif _JOURNAL_TEXT(line):
            self.unreadable[JOURNAL_TEXT] += 1
        elif _REPORT(line):
            self.unreadable[REPORT] += 1


def _host_of(header: bytes) -> bytes | None:
    """The host that a syslog header names."""
    found = _HOST(header)
    return found[1] if found and found[1] not in _STREAMS else None


class WideUnwrapper:
    """UTF-16, as some tools of other systems save a text: nothing is read, it is told."""

    def __init__(self) -> None:
        self.records = self.garbled = 0
        self.unreadable: Counter[str] = Counter({WIDE: 1})

    def feed(self, data: bytes) -> bytes:
        """As Unwrapper."""
        del data
        return b""

    def finish(self) -> bytes:
        """As Unwrapper."""
        return b""


class ExportUnwrapper(LineUnwrapper):
    """journald's export format: fields of an entry, a line each, then an empty line.

    A field whose value is binary has its name alone on a line, then the length in 8 bytes, then the value.
    """

    def __init__(self) -> None:
        super().__init__()
        self._buffer = b""
        self._skip = 0
        self._fields: dict[str, object] = {}

    def feed(self, data: bytes) -> bytes:
        """As Unwrapper."""
        out: list[bytes] = []
        buffer = self._buffer + data
        at = 0
        while True:
            if self._skip:
                step = min(self._skip, len(buffer) - at)
                self._skip -= step
                at += step
                if self._skip:
                    break
            end = buffer.find(b"\n", at)
            if end < 0:
                break
            line = buffer[at:end]
            if b"=" in line or not line:
                at = end + 1
                self._take_field(line, out)
                continue
            if len(buffer) < end + 9:
                break
            size = int.from_bytes(buffer[end + 1 : end + 9], "little")
            if size > MAX_LINE_BYTES:
                at, self._skip = end + 9, size + 1
                continue
            if len(buffer) < end + 9 + size + 1:
                break
            self._fields[_text(line)] = _text(buffer[end + 9 : end + 9 + size])
            at = end + 9 + size + 1
        self._buffer = buffer[at:]
        if len(self._buffer) > 2 * MAX_LINE_BYTES:
            self._buffer = b""
            self.garbled += 1
        return b"".join(out)

    def finish(self) -> bytes:
        """As Unwrapper."""
        return self.feed(b"\n\n")

    def _take_field(self, line: bytes, out: list[bytes]) -> None:
        if line and not _FIELD(line) and is_of_another_form(line):
            self.unreadable[MIXED] += 1
        elif line:
            name, _, value = line.partition(b"=")
            self._fields[_text(name)] = _text(value)
        elif self._fields:
            fields, self._fields = self._fields, {}
            self._take_object(fields, None, out)


def _text(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")
