"""The `bpf` Source: what the program in the kernel reports, as Connects. It never decides and never refuses by itself.

Events come through a BPF ring buffer, in order, with CLOCK_BOOTTIME stamps. Each user may send so many of them; what
is beyond, and what a full ring drops, is counted in `stats.lost`; the program goes on refusing meanwhile.
"""

import logging
import os
import sys
import time
from collections import deque
from collections.abc import Sequence

from smtpguard.clock import boottime_ns, next_beat
from smtpguard.decode.bpf_event import Probe, decode
from smtpguard.errors import DecodeError, EnforceError, SourceError
from smtpguard.model import Connect, SocketReport
from smtpguard.settings import Settings
from smtpguard.sources.base import SourceStats, Unsent
from smtpguard.sources.bpf import budget, probe
from smtpguard.sources.bpf.cgroup import read_cgroup
from smtpguard.sources.bpf.existing_sessions import ExistingSessions
from smtpguard.sources.bpf.libbpf import BpfError
from smtpguard.sources.bpf.maps import COUNT_LOST, COUNT_UNSENT
from smtpguard.sources.bpf.program import KEY_USERS, RING_BYTES, BpfProgram
from smtpguard.sources.bpf.untracked import UNTRACKED, Untracked

_log = logging.getLogger(__name__)

MAX_EVENTS = 1024
"""Most events that one `read` hands over, so that users' floods leave the loop its timers: 20 ms of its time."""

MAX_REPORTS = 16_384
"""Most reports that wait to be taken."""

MAX_TAKEN = 1024
"""Most reports that are handed over at once: 5 ms of the engine's time."""

PACE_NS = 15_000_000
"""How long after something was read the ring is looked at again: longer than WAKE_NS of wake.bpf.h, in which the
program wakes nobody for events that are not urgent."""

_MAX_PROBES = 16


class BpfSource:
    """The sensor. After `open`, `guard` is what an enforcer writes into.

    Args:
        settings: `cgroup` and `ports` are used.
        ring_bytes: Size of the event ring.
        key_users: As of BpfProgram.

    Attributes:
        ring_lost: Events that found the ring full; `stats.lost` is with those beyond their user's budget.
        drained_ns: CLOCK_BOOTTIME: what was reported before then has been handed over.
    """

    name = "bpf"

    def __init__(self, settings: Settings, *, ring_bytes: int = RING_BYTES, key_users: int = KEY_USERS) -> None:
        self.stats = SourceStats()
        self._settings = settings
        self._ports = settings.ports
        self._ring_bytes = ring_bytes
        self._key_users = key_users
        self._guard: BpfProgram | None = None
        self._probes: list[Probe] = []
        self._waiting: list[Connect] = []
        self._reports: deque[SocketReport] = deque(maxlen=MAX_REPORTS)
        self._adopted: ExistingSessions | None = None
        self._owed: budget.Owed | None = None
        self._untracked = Untracked()
        self._look_again_ns: int | None = None
        self._next_check_ns = 0
        self._more = self._more_reports = False
        self.drained_ns = self.ring_lost = 0

    @property
    def guard(self) -> BpfProgram:
        """The program in the kernel. Raises SourceError if the source is not open."""
        if self._guard is None:
            raise SourceError("not open", where="bpf")
        return self._guard

    def open(self) -> None:
        """Load the program, attach it, guard the ports. Raises SourceError or PrivilegeError."""
        guard = BpfProgram(read_cgroup(self._settings.cgroup), ring_bytes=self._ring_bytes, key_users=self._key_users)
        try:
            guard.set_ports(self._ports)
        except EnforceError as error:
            guard.close()
            raise SourceError(error.what, where=error.where, fix=error.fix) from error
        self._guard = guard
        self._owed = budget.Owed(guard)
        for text in guard.features.missing():
            _log.warning("bpf: %s", text)
        if not guard.knows_own_netns:
            self._learn_own_netns()
        self._adopt()
        self._next_check_ns = next_beat(boottime_ns())

    def _adopt(self) -> None:
        """Take over the sessions that were open before us: attached first, so that none falls between."""
        if not self.guard.features.outcome:
            return
        followed = self.guard.map("followed")
        storage_fd = self.guard.map("of_socket").fd if self.guard.features.storage else None

        def is_followed(cookie: int, storage: bytes | None) -> bool:
            return storage is not None or followed.lookup(cookie.to_bytes(8, sys.byteorder)) is not None

        try:
            self._adopted = ExistingSessions(self._ports, boottime_ns(), loopback=self._settings.loopback == "count")
            for report in self._adopted.adopt(boottime_ns(), is_followed, storage_fd):
                self._keep(report)
        except SourceError as error:
            _log.warning("bpf: sessions that are open already stay unseen: %s", error)
            self._drop_adopted()

    def _drop_adopted(self) -> None:
        if self._adopted is not None:
            self._adopted.close()
            self._adopted = None

    def _learn_own_netns(self) -> None:
        # Kernels 5.7 to 5.13 tell a namespace's cookie to programs but not to us: the self-test's event carries it.
        self.probe(timeout_s=1.0)
        self.guard.config.fields.own_netns = self._probes[-1].netns or 0

    def probe(self, timeout_s: float) -> None:
        """Prove that a connect() is seen and can be refused; sends no packet. Raises SourceError."""
        guard = self.guard
        if not guard.ports:
            raise SourceError("self-test: no port is guarded", where="bpf")
        port = min(guard.ports)
        cookies: list[int] = []

        def announce(cookie: int) -> None:
            cookies.append(cookie)
            guard.config.fields.probe_cookie = cookie

        try:
            if probe.read_is_inside(guard.cgroup):
                codes = probe.try_connects(port, announce)
            else:
                codes = probe.try_connects_inside(guard.cgroup, port, announce)
        finally:
            guard.config.fields.probe_cookie = 0
        probe.check_codes(codes, guard.cgroup)
        deadline = time.monotonic() + timeout_s
        while not set(cookies) <= {seen.cookie for seen in self._probes}:
            self._waiting += self._consume()
            if time.monotonic() > deadline:
                raise SourceError(
                    "self-test: a connect() was refused but not reported", where="bpf", fix="the event ring may be full"
                )
            time.sleep(0.001)

    def filenos(self) -> Sequence[int]:
        """The ring's epoll descriptor."""
        return [self.guard.events.fd]

    def read(self) -> list[Connect]:
        """What is there now, at most MAX_EVENTS. Raises SourceError if the program was detached."""
        connects = self._waiting + self._consume()
        self._waiting = []
        if boottime_ns() >= self._next_check_ns:
            try:
                self._check()
            except SourceError:
                if not connects:
                    raise
                self._next_check_ns = 0  # first what it saw while it lived; the next read, at once, says so
        return connects

    def _consume(self) -> list[Connect]:
        begun_ns = self.guard.config.fields.reading_ns = boottime_ns()
        try:
            samples = self.guard.events.consume(MAX_EVENTS)
        except BpfError as error:
            raise SourceError(f"the event ring can't be read: {os.strerror(error.errno or 0)}", where="bpf") from error
        self._more = len(samples) >= MAX_EVENTS
        if samples:
            self._look_again_ns = boottime_ns() + PACE_NS
        elif self._look_again_ns is not None and begun_ns >= self._look_again_ns:
            self._look_again_ns = None  # nothing came quietly: the next event wakes us
        if not self._more:
            self.drained_ns = self.guard.config.fields.drained_ns = begun_ns
        connects: list[Connect] = []
        for sample in samples:
            try:
                event = decode(sample)
            except DecodeError as error:
                if not self.stats.garbled:
                    _log.warning("bpf: %s", error)
                self.stats.garbled += 1
                continue
            if isinstance(event, Connect):
                connects.append(event)
            elif isinstance(event, SocketReport):
                self._keep(event)
            else:
                self._probes = [*self._probes[1 - _MAX_PROBES :], event]
        self.stats.events += len(connects)
        return connects

    def _keep(self, report: SocketReport) -> None:
        if report.kind in UNTRACKED:
            self._untracked.note(report)
        if self._adopted is not None and report.connect_time_ns is not None:
            self._adopted.forget(report.cookie)
        if len(self._reports) == MAX_REPORTS:
            self.stats.notes["reports dropped"] = self.stats.notes.get("reports dropped", 0) + 1
        self._reports.append(report)

    def sees_outcomes(self) -> bool:
        """Whether the kernel took the program that reports what became of connections."""
        return self.guard.features.outcome

    def take_reports(self) -> list[SocketReport]:
        """What became of sockets, as far as `read` has seen it: MAX_TAKEN at most, the rest with the next read."""
        reports = [self._reports.popleft() for _ in range(min(len(self._reports), MAX_TAKEN))]
        self._more_reports = bool(self._reports)  # whoever takes none is not woken for them
        return reports

    def read_unsent(self) -> list[Unsent]:
        """What the program counted instead of reporting it. Raises SourceError."""
        return budget.read_unsent(self.guard)

    def revive(self) -> None:
        """Attach the program again; what its maps hold goes on. Raises SourceError."""
        self.guard.attach_again()
        self._drop_adopted()
        self._adopt()  # what was opened meanwhile was seen by nobody
        self._next_check_ns = next_beat(boottime_ns())

    def _check(self) -> None:
        self._next_check_ns = next_beat(boottime_ns())
        try:
            unsent = self.guard.read_count(COUNT_UNSENT)
            self.ring_lost = self.guard.read_count(COUNT_LOST)
            self.stats.lost = self.ring_lost + unsent
            if unsent:
                self.stats.notes["beyond a user's budget"] = unsent
            self.stats.warnings = self._untracked.warnings(boottime_ns())
            for report in self._owed.read(boottime_ns()) if self._owed is not None else ():
                self._keep(report)
            attached = self.guard.is_attached()
        except BpfError as error:
            raise SourceError(f"the program can't be asked: {error.strerror}", where="bpf") from error
        self._poll_adopted()
        if not attached:
            raise SourceError("the program was detached", where=str(self.guard.cgroup), fix="it will be attached again")

    def _poll_adopted(self) -> None:
        if self._adopted is None:
            return
        try:
            for report in self._adopted.poll(boottime_ns()):
                self._keep(report)
            if self._adopted.left_out:
                self.stats.notes["open sessions not followed"] = self._adopted.left_out
        except SourceError as error:
            _log.warning("bpf: sessions that were open at start are followed no longer: %s", error)
            self._drop_adopted()

    def next_poll_ns(self) -> int | None:
        """Soon after something was read; in a second at the latest, to see losses and a program that was detached."""
        if self._more or self._waiting or self._more_reports:
            return 0
        return self._next_check_ns if self._look_again_ns is None else min(self._look_again_ns, self._next_check_ns)

    def set_ports(self, ports: frozenset[int]) -> None:
        """Guard these ports from now on; sessions that are open on them already are followed. Raises SourceError."""
        added, self._ports = ports - self._ports, ports
        if self._guard is None:
            return
        try:
            self._guard.set_ports(ports)
        except EnforceError as error:
            raise SourceError(error.what, where=error.where, fix=error.fix) from error
        if added and self._guard.features.outcome:
            self._drop_adopted()
            self._adopt()

    def close(self) -> None:
        """Detach and unload; may be called twice."""
        self._drop_adopted()
        if self._guard is not None:
            self._guard.close()
            self._guard = None


def make_source(settings: Settings) -> BpfSource:
    """The registry's way in: an unopened source."""
    return BpfSource(settings)
