"""The `audit` Source: the kernel's audit records by netlink multicast, beside auditd or without it.

Own rules log every connect() that audit can see (see audit_rules). The socket only reads (AUDIT_NLGRP_READLOG); the
records are joined by decode/audit/decoder.py. Event times are audit's wall stamps, mapped to CLOCK_BOOTTIME.

What it does not see: MSG_FASTOPEN by io_uring or by 32-bit socketcall(2), addresses of io_uring connects that the
kernel finishes in a worker; and nothing at all outside the initial network namespace, where multicast is not sent.
"""

import contextlib
import errno
import logging
import re
import select
import socket
from collections.abc import Sequence
from pathlib import Path

from smtpguard.clock import SystemClock, next_beat
from smtpguard.decode.audit.serials import SerialGaps
from smtpguard.decode.netlink.audit import (
    AUDIT_CONFIG_CHANGE,
    AUDIT_SOCKADDR,
    AUDIT_SYSCALL,
    AUDIT_URINGOP,
)
from smtpguard.decode.netlink.messages import HEADER
from smtpguard.errors import PrivilegeError, SourceError
from smtpguard.model import Connect
from smtpguard.settings import Settings
from smtpguard.sources.audit.control import NETLINK_AUDIT, AuditControl
from smtpguard.sources.audit.live import LiveAudit
from smtpguard.sources.audit.usage import AuditUsage

_log = logging.getLogger(__name__)

MAX_RECORDS = 8192
"""Most records that one `read` takes in, so that one user's flood leaves the loop its timers."""
_READLOG_GROUP = 1
_SO_RCVBUFFORCE = 33
_BUFFER_BYTES = 16 << 20
"""The kernel's queue for us: some 20,000 records of 0.8 kB of kernel memory each."""
_RECORD_BYTES = 1 << 15
_TYPES = {
    AUDIT_SYSCALL: b"type=SYSCALL msg=",
    AUDIT_SOCKADDR: b"type=SOCKADDR msg=",
    AUDIT_URINGOP: b"type=URINGOP msg=",
}
_SERIAL = re.compile(rb"audit\([0-9]{1,11}\.[0-9]{1,9}:([0-9]{1,20})\): ").match


class AuditSource(LiveAudit):
    """The sensor.

    Args:
        settings: `ports`, `audit_enable` and `audit_uid` are used.
        control: The kernel's audit; None for the real one.
        buffer_bytes: Size of the kernel's queue for us.
    """

    name = "audit"

    def __init__(
        self, settings: Settings, *, control: AuditControl | None = None, buffer_bytes: int = _BUFFER_BYTES
    ) -> None:
        super().__init__(settings, clock=SystemClock(), chunk_bytes=1 << 16)
        self._use = AuditUsage(settings, name=self.name, control=control)
        self._buffer_bytes = buffer_bytes
        self._socket: socket.socket | None = None
        self._gaps = SerialGaps()
        self._record = bytearray(_RECORD_BYTES)
        self._overflows = 0
        self._halves = Halves()

    def _open(self) -> None:
        """Listen, switch auditing on if allowed, load our rules."""
        self._socket = self._listen()
        self._stack.callback(self._use.close)
        self._use.open()
        # Loading rules is logged too, and may fill the queue: losses count from here.
        self._waiting = self._take_in()
        self._gaps, self._overflows = SerialGaps(), 0
        self._next_check_ns = next_beat(self._clock.boot_ns())

    def _listen(self) -> socket.socket:
        try:
            kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
            sock = self._stack.enter_context(socket.socket(socket.AF_NETLINK, kind, NETLINK_AUDIT))
            with contextlib.suppress(PermissionError):
                sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, self._buffer_bytes // 2)
            sock.bind((0, _READLOG_GROUP))
        except PermissionError as error:
            raise PrivilegeError("audit records can't be read", where=self.name, fix="CAP_AUDIT_READ") from error
        except OSError as error:
            raise SourceError(f"no audit records by multicast: {error.strerror}", where=self.name) from error
        return sock

    def probe(self, timeout_s: float) -> None:
        """Make an own connect and see it; raises SourceError with what is in the way."""
        self._waiting += self._take_in()  # room for the proof
        self._prove(timeout_s)

    def _pause(self, left_s: float) -> None:
        poll = select.poll()
        poll.register(self._opened(), select.POLLIN)
        poll.poll(min(left_s, 0.02) * 1000)

    def filenos(self) -> Sequence[int]:
        """The netlink socket."""
        return [self._opened().fileno()]

    def close(self) -> None:
        """Take our rules away, switch auditing back; may be called twice."""
        super().close()
        self._socket = None

    def _opened(self) -> socket.socket:
        if self._socket is None:
            raise SourceError("not open", where=self.name)
        return self._socket

    def _take_in(self) -> list[Connect]:
        """Read at most MAX_RECORDS, and feed those of calls and addresses to the decoder as lines of a log."""
        sock = self._opened()
        view = memoryview(self._record)
        lines: list[bytes] = []
        self._more = True
        self._wall.refresh()
        for _ in range(MAX_RECORDS):
            try:
                size = sock.recv_into(view)
            except BlockingIOError:
                self._more = False
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise SourceError(f"audit records can't be read: {error.strerror}", where=self.name) from error
                self._overflows += 1  # the queue was full: what was dropped shows as missing serials and halves
                self._halves.overflowed = True
                continue
            self._take(bytes(view[:size]), lines)
        return self._decoder.feed(b"".join(lines)) if lines else []

    def _take(self, datagram: bytes, lines: list[bytes]) -> None:
        """One record: note its serial, and keep it if it belongs to a connect."""
        if len(datagram) < HEADER.size:
            self.stats.garbled += 1
            return
        # The length in the header is not that of the datagram in all kernels; a record is all of its datagram.
        _, kind, _, _, _ = HEADER.unpack_from(datagram)
        text = datagram[HEADER.size :].rstrip(b"\0\n")
        serial = _SERIAL(text)
        if serial is None:
            return
        number = int(serial[1])
        self._gaps.note(number)
        self._halves.note(number, kind, text, self._use.key)
        if kind == AUDIT_CONFIG_CHANGE:
            self._next_check_ns = 0  # somebody changes rules: look at once
        prefix = _TYPES.get(kind)
        if prefix is not None:
            lines.append(b"%b%b\n" % (prefix, text.replace(b"\n", b" ")))

    def _count(self) -> None:
        counters, stats = self._decoder.counters, self.stats
        stats.garbled = counters.garbled
        stats.lost = self._gaps.missing + self._halves.count + self._use.lost + counters.unpaired
        stats.notes = {
            "overflows": self._overflows,
            "serial_gaps": self._gaps.missing,
            "kernel_lost": self._use.lost,
            "repeats": counters.repeats,
            "probes_guessed": counters.probes,
            "rules_restored": self._use.restored,
        }

    def _check(self) -> None:
        """Once a second, and when rules change: the kernel's losses, and our rules."""
        self._next_check_ns = next_beat(self._clock.boot_ns())
        if not self._more:
            self._gaps.sweep()
            self._halves.sweep()
        status = self._use.check()
        if status is not None and not status.enabled:
            raise SourceError("auditing was switched off", where=self.name, fix="it will be tried again")

    def _silence(self) -> SourceError:
        """Why nothing comes."""
        what, fix = "self-test: a connect() was made but no record of it came", "see `auditctl -s` and `auditctl -l`"
        if _is_other_network_namespace():
            what = "self-test: silent, as audit multicasts to the initial network namespace only"
            fix = "run it there, or use audit-log"
        else:
            obstacle = self._use.find_obstacle()
            if obstacle is not None:
                what, fix = f"self-test: {obstacle}", "auditctl -d task,never, and remove it from /etc/audit/rules.d"
        return SourceError(what, where=self.name, fix=fix)


class Halves:
    """Counts calls of our rules whose address was dropped when the queue was full, so that nothing came of them.

    Attributes:
        count: How many there were.
        overflowed: Whether the queue was full since the last sweep but one.
    """

    def __init__(self) -> None:
        self.count = 0
        self.overflowed = False
        self._open: dict[int, None] = {}
        self._old: dict[int, None] = {}

    def note(self, serial: int, kind: int, text: bytes, key: bytes | None) -> None:
        """Take a record: a call opens its serial, the address of the call closes it."""
        if kind == AUDIT_SOCKADDR:
            self._open.pop(serial, None)
            self._old.pop(serial, None)
        elif kind == AUDIT_SYSCALL and key is not None and key in text and len(self._open) < MAX_RECORDS:
            self._open[serial] = None

    def sweep(self) -> None:
        """Time has passed: what was open at the last sweep already stays so. Call it about once a second."""
        if self.overflowed:
            self.count += len(self._old)
        self.overflowed = self.overflowed and bool(self._open)
        self._old, self._open = self._open, {}


def _is_other_network_namespace() -> bool:
    """Whether this process is not in the initial network namespace: only there the device queues can be tuned."""
    return Path("/proc/sys/net/core").is_dir() and not Path("/proc/sys/net/core/netdev_max_backlog").exists()


def make_source(settings: Settings) -> AuditSource:
    """The registry's way in: an unopened source."""
    return AuditSource(settings)
