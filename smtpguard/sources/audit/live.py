"""What the two live audit sources share: a decoder that is fed as records come, and its time, proof and settling.

`audit` gets the records by netlink, `audit-log` from auditd's file. Event times are audit's wall stamps, mapped to
CLOCK_BOOTTIME. What the decoder holds back, as it may be a resolver's probe, goes when nothing more has come for a
moment.
"""

import contextlib
import time
from abc import ABC, abstractmethod
from collections import deque

from smtpguard.clock import Clock, WallMap
from smtpguard.decode.audit.decoder import AuditDecoder
from smtpguard.decode.audit.event_joiner import Nodes
from smtpguard.decode.audit.line_buffer import LineBuffer
from smtpguard.decode.audit.retries import Retries
from smtpguard.errors import SourceError
from smtpguard.model import Connect
from smtpguard.settings import Settings
from smtpguard.sources.audit.settlement import Settlement, stamp_tick_ns
from smtpguard.sources.base import SourceStats
from smtpguard.sources.own_connect import make_connect

_HISTORY_BYTES = 16 << 20


class LiveAudit(ABC):
    """A sensor that reads audit records as they come.

    Args:
        settings: `ports` and `audit_uid` are used.
        clock: The clocks.
        chunk_bytes: How much the decoder takes at once.
        nodes: See AuditDecoder.
    """

    name: str

    def __init__(self, settings: Settings, *, clock: Clock, chunk_bytes: int, nodes: Nodes | None = None) -> None:
        self.stats = SourceStats()
        self._settings = settings
        self._ports = settings.ports
        self._clock = clock
        self._stack = contextlib.ExitStack()
        self._wall = WallMap(clock)
        self._decoder = AuditDecoder(
            ports=settings.ports,
            sensor=self.name,
            retries=Retries(tick_ns=stamp_tick_ns()),
            buffer=LineBuffer(chunk_bytes=chunk_bytes, max_bytes=_HISTORY_BYTES),
            nodes=nodes,
        )
        self._decoder.to_event_ns = self._wall.to_event_ns
        self._settling = Settlement(self._decoder)
        self._waiting: list[Connect] = []
        self._probes: deque[int] = deque(maxlen=16)
        self._next_check_ns = 0
        self._more = False

    def open(self) -> None:
        """Begin to read, load our rules. Raises SourceError or PrivilegeError."""
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def read(self) -> list[Connect]:
        """What came since, bounded. Raises SourceError if there is nothing to be had any more."""
        connects = self._waiting + self._without_probes(self._take_in() + self._settle())
        self._waiting = []
        if self._clock.boot_ns() >= self._next_check_ns:
            self._check()
        self.stats.events += len(connects)
        self._count()
        return connects

    def next_poll_ns(self) -> int | None:
        """In a second at the latest, for what is looked at once a second."""
        if self._more or self._waiting:
            return 0
        settle_ns = self._settling.next_ns
        return self._next_check_ns if settle_ns is None else min(settle_ns, self._next_check_ns)

    def set_ports(self, ports: frozenset[int]) -> None:
        """Look at these ports from now on: our rules log connects to all, the decoder picks."""
        self._ports = ports
        self._decoder.set_ports(ports)

    def close(self) -> None:
        """Stop reading, take our rules away; may be called twice."""
        self._stack.close()

    def _prove(self, timeout_s: float) -> None:
        """Make an own connect and see it; raises what `_silence` says."""
        pid = make_connect(min(self._ports), self._settings.audit_uid)
        self._probes.append(pid)
        deadline = time.monotonic() + timeout_s
        while True:
            connects = self._take_in() + self._settle()
            seen = any(connect.pid == pid for connect in connects)
            self._waiting += self._without_probes(connects)
            if seen:
                return
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise self._silence()
            self._pause(left_s)

    def _settle(self) -> list[Connect]:
        return self._settling.settle(self._clock.boot_ns(), more=self._more)

    def _without_probes(self, connects: list[Connect]) -> list[Connect]:
        return [connect for connect in connects if connect.pid not in self._probes] if self._probes else connects

    @abstractmethod
    def _open(self) -> None:
        """As `open`; what was opened is on `_stack`, and closed if this raises."""

    @abstractmethod
    def _take_in(self) -> list[Connect]:
        """Read what has come, bounded, through the decoder; says in `_more` whether there is more at once."""

    @abstractmethod
    def _check(self) -> None:
        """Once a second: losses, and whether what this rests on is there. Sets `_next_check_ns`."""

    @abstractmethod
    def _count(self) -> None:
        """Bring `stats` up to date, but for its events."""

    @abstractmethod
    def _pause(self, left_s: float) -> None:
        """Wait a moment for the proof, no longer than so long."""

    @abstractmethod
    def _silence(self) -> SourceError:
        """Why nothing comes."""
