"""The `bpf` Source: what the program in the kernel reports, as Connects. It never decides and never refuses by itself.

Events come through a BPF ring buffer, in order, with CLOCK_BOOTTIME stamps. What a full ring drops is counted in
`stats.lost`; the program goes on refusing meanwhile.
"""

import logging
import os
import time
from collections.abc import Sequence

from smtpguard.decode.bpf_event import Probe, decode
from smtpguard.errors import DecodeError, EnforceError, SourceError
from smtpguard.model import NS, Connect
from smtpguard.settings import Settings
from smtpguard.sources.base import SourceStats
from smtpguard.sources.bpf import probe
from smtpguard.sources.bpf.cgroup import read_cgroup
from smtpguard.sources.bpf.guard import RING_BYTES, Guard
from smtpguard.sources.bpf.libbpf import BpfError
from smtpguard.sources.bpf.maps import COUNT_LOST

_log = logging.getLogger(__name__)

MAX_EVENTS = 4096
"""Most events that one `read` hands over, so that one user's flood leaves the loop its timers."""

_CHECK_NS = NS
_MAX_PROBES = 16


def now_ns() -> int:
    """CLOCK_BOOTTIME."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class BpfSource:
    """The sensor. After `open`, `guard` is what an enforcer writes into.

    Args:
        settings: `cgroup` and `ports` are used.
        ring_bytes: Size of the event ring.

    Attributes:
        drained_ns: CLOCK_BOOTTIME: what was reported before then has been handed over.
    """

    name = "bpf"

    def __init__(self, settings: Settings, *, ring_bytes: int = RING_BYTES) -> None:
        self.stats = SourceStats()
        self._settings = settings
        self._ring_bytes = ring_bytes
        self._guard: Guard | None = None
        self._probes: list[Probe] = []
        self._waiting: list[Connect] = []
        self._next_check_ns = 0
        self._more = False
        self.drained_ns = 0

    @property
    def guard(self) -> Guard:
        """The program in the kernel. Raises SourceError if the source is not open."""
        if self._guard is None:
            raise SourceError("not open", where="bpf")
        return self._guard

    def open(self) -> None:
        """Load the program, attach it, guard the ports. Raises SourceError or PrivilegeError."""
        guard = Guard(read_cgroup(self._settings.cgroup), ring_bytes=self._ring_bytes)
        try:
            guard.set_ports(self._settings.ports)
        except EnforceError as error:
            guard.close()
            raise SourceError(error.what, where=error.where, fix=error.fix) from error
        self._guard = guard
        for text in guard.features.missing():
            _log.warning("bpf: %s", text)
        if not guard.knows_own_netns:
            self._learn_own_netns()
        self._next_check_ns = now_ns() + _CHECK_NS

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
        if now_ns() >= self._next_check_ns:
            self._check()
        return connects

    def _consume(self) -> list[Connect]:
        begun_ns = now_ns()
        try:
            samples = self.guard.events.consume(MAX_EVENTS)
        except BpfError as error:
            raise SourceError(f"the event ring can't be read: {os.strerror(error.errno or 0)}", where="bpf") from error
        self._more = len(samples) >= MAX_EVENTS
        if not self._more:
            self.drained_ns = begun_ns
        connects: list[Connect] = []
        for sample in samples:
            try:
                event = decode(sample)
            except DecodeError as error:
                if not self.stats.garbled:
                    _log.warning("bpf: %s", error)
                self.stats.garbled += 1
                continue
            if isinstance(event, Probe):
                self._probes = [*self._probes[1 - _MAX_PROBES :], event]
            else:
                connects.append(event)
        self.stats.events += len(connects)
        return connects

    def _check(self) -> None:
        self._next_check_ns = now_ns() + _CHECK_NS
        try:
            self.stats.lost = self.guard.read_count(COUNT_LOST)
            attached = self.guard.is_attached()
        except BpfError as error:
            raise SourceError(f"the program can't be asked: {error.strerror}", where="bpf") from error
        if not attached:
            raise SourceError("the program was detached", where=str(self.guard.cgroup), fix="it will be attached again")

    def next_poll_ns(self) -> int | None:
        """In a second at the latest, to see losses and whether the program still is attached."""
        return 0 if self._more or self._waiting else self._next_check_ns

    def close(self) -> None:
        """Detach and unload; may be called twice."""
        if self._guard is not None:
            self._guard.close()
            self._guard = None


def make_source(settings: Settings) -> BpfSource:
    """The registry's way in: an unopened source."""
    return BpfSource(settings)
