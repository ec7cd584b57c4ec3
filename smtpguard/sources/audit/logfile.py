"""The `audit-log` Source: follows auditd's audit.log. For hosts where the netlink multicast can't be had.

The log is followed through rotation by follow.py and joined by decode/audit/decoder.py; identity is what the records
say, never a later look at a process. Event times are auditd's wall stamps, mapped to CLOCK_BOOTTIME. Own rules log
every connect() that audit can see, where rules can be loaded; else the rules that are there have to do it.

What it does not see: what the `audit` source does not see; and it is only as quick as auditd writes.
"""

import logging
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path

from smtpguard.clock import Clock, SystemClock, next_beat
from smtpguard.errors import SourceError
from smtpguard.model import NS, Connect
from smtpguard.settings import Settings
from smtpguard.sources.audit.follow import FollowedLog
from smtpguard.sources.audit.live import LiveAudit
from smtpguard.sources.audit.nodes import AUDITD_CONF, OwnNodes
from smtpguard.sources.audit.switch import is_process
from smtpguard.sources.audit.usage import AuditUsage
from smtpguard.text import render_escaped

_log = logging.getLogger(__name__)

DEFAULT_PATH = "/var/log/audit/audit.log"
STAMP = re.compile(rb"msg=audit\(([0-9]{1,11}\.[0-9]{1,9}):([0-9]{1,20})\): ")
MAX_BYTES = 8 << 20
"""Most bytes that one `read` takes in, so that a backlog leaves the loop its timers."""
_CHUNK_BYTES = 1 << 17
_BLIND_NS = 60 * NS
"""How long a log may hold other hosts' records only."""
_LOG_FILE = re.compile(rb"^\s*log_file\s*=\s*(/[^\s]+)", re.MULTILINE | re.IGNORECASE)


class AuditLogSource(LiveAudit):
    """The sensor.

    Args:
        settings: `ports`, `sources`, `audit_enable`, `audit_uid`, `audit_log` and `audit_node` are used.
        path: The log; None takes what the settings, else auditd.conf(5), say.
        alone: Only follow the file: no rules, and nobody asks whether auditd lives. For logs that come from elsewhere.
        clock: The clocks.
    """

    name = "audit-log"

    def __init__(
        self,
        settings: Settings,
        *,
        path: str | None = None,
        alone: bool = False,
        clock: Clock | None = None,
    ) -> None:
        self._nodes = OwnNodes(settings.audit_node, conf=AUDITD_CONF)
        super().__init__(settings, clock=clock or SystemClock(), chunk_bytes=_CHUNK_BYTES, nodes=self._nodes)
        self.path = path or settings.audit_log or read_log_path()
        self._alone = alone
        self._tail: FollowedLog | None = None
        self._use: AuditUsage | None = None
        self._daemon_gone = False
        self._own_ns = self._foreign_ns = self._opened_ns = 0
        self._foreign: bytes | None = None  # another host of which there are records, and none of ours behind them
        self._told_foreign = False

    def _open(self) -> None:
        """Find the log's end, load rules if that can be."""
        tail = self._tail = FollowedLog(self.path, stamp=STAMP)
        self._stack.callback(tail.close)
        if tail.is_absent:
            if self._settings.sources == "auto":
                raise SourceError("is not there", where=self.path, fix="start auditd, or use another source")
            _log.warning("%s: is not there yet; it is waited for", self.path)
        if not self._alone:
            self._prepare()
        self._own_ns = self._opened_ns = self._clock.boot_ns()
        self._next_check_ns = next_beat(self._own_ns)

    def _prepare(self) -> None:
        """Own rules, and auditd to write down what they log."""
        self._use = AuditUsage(self._settings, name=self.name)
        self._stack.callback(self._use.close)
        self._use.open()
        status = self._use.check()
        if status is not None and not is_process(status.pid):
            raise SourceError("auditd does not run, so nobody writes it", where=self.path, fix="start auditd")

    def probe(self, timeout_s: float) -> None:
        """Make an own connect and see it in the log; raises SourceError. A log that is not there yet proves nothing."""
        tail = self._opened()
        if tail.is_absent or self._alone:
            return
        self._prove(timeout_s)

    def _pause(self, left_s: float) -> None:
        time.sleep(min(left_s, 0.002))

    def filenos(self) -> Sequence[int]:
        """The inotify descriptor."""
        return [self._opened().fileno]

    def close(self) -> None:
        """Close the log, take our rules away; may be called twice."""
        super().close()
        self._tail = self._use = None

    def _opened(self) -> FollowedLog:
        if self._tail is None:
            raise SourceError("not open", where=self.name)
        return self._tail

    def _take_in(self) -> list[Connect]:
        """What was appended, at most MAX_BYTES of it."""
        tail, decoder = self._opened(), self._decoder
        self._wall.refresh()
        tail.drain()
        out: list[Connect] = []
        taken = 0
        self._more = True
        while taken < MAX_BYTES:
            room = decoder.room()
            count = tail.read(room)
            if not count:
                self._more = False
                break
            self._look_for_own(room[:count])
            out += decoder.commit(count)
            taken += count
        return out

    def _look_for_own(self, text: memoryview) -> None:
        """Note whether records are ours: a log of other hosts only would be blindness."""
        is_own, other = self._nodes.find_own(text)
        if other is not None and not self._told_foreign:
            self._told_foreign = True
            _log.warning("%s: records of other hosts (node=%s) are left out", self.path, render_escaped(other))
        if is_own:
            self._own_ns = self._clock.boot_ns()
            self._foreign = None
        elif other is not None:
            self._foreign, self._foreign_ns = other, self._clock.boot_ns()

    def _count(self) -> None:
        counters, stats, tail = self._decoder.counters, self.stats, self._opened()
        stats.garbled = counters.garbled + self._decoder.overlong
        kernel_lost, restored = (self._use.lost, self._use.restored) if self._use else (0, 0)
        stats.lost = counters.unpaired + kernel_lost
        stats.notes = {
            "forged": counters.forged,
            "doubled": counters.doubled,
            "foreign": counters.foreign,
            "repeats": counters.repeats,
            "probes_guessed": counters.probes,
            "rotations": tail.rotations,
            "truncations": tail.truncations,
            "kernel_lost": kernel_lost,
            "rules_restored": restored,
        }

    def _check(self) -> None:
        """Once a second: the directory, auditd, the kernel's losses, our rules."""
        self._next_check_ns = next_beat(self._clock.boot_ns())
        self._opened().refresh()
        if self._foreign is not None and self._foreign_ns - self._own_ns > _BLIND_NS:
            raise SourceError(
                f"for a minute it held records of other hosts only, such as node={render_escaped(self._foreign)}",
                where=self.path,
                fix="if that is this host, say so by audit.node; else see why auditd writes none of ours",
            )
        status = self._use.check() if self._use else None
        if status is None:
            return
        # A restart of auditd takes less than from one look to the next.
        gone, self._daemon_gone = self._daemon_gone, not is_process(status.pid)
        if gone and self._daemon_gone:
            raise SourceError("auditd has ended, so nobody writes it", where=self.path, fix="start auditd")

    def _silence(self) -> SourceError:
        what = "self-test: a connect() was made but no record of it came into the log"
        if self._foreign is not None and self._own_ns == self._opened_ns:
            node = render_escaped(self._foreign)
            return SourceError(
                f"{what}, only those of node={node}", where=self.path, fix=f"if that is this host: audit.node: {node}"
            )
        obstacle = self._use.find_obstacle() if self._use else None
        fix = (
            "remove that rule from /etc/audit/rules.d" if obstacle else "see `auditctl -s`, `auditctl -l`, auditd.conf"
        )
        return SourceError(f"{what} ({obstacle})" if obstacle else what, where=self.path, fix=fix)


def read_log_path() -> str:
    """Where auditd writes, from auditd.conf(5); its default if that says nothing."""
    try:
        found = _LOG_FILE.findall(Path(AUDITD_CONF).read_bytes())
    except OSError:
        found = []
    return os.fsdecode(found[-1]) if found else DEFAULT_PATH


def make_source(settings: Settings) -> AuditLogSource:
    """The registry's way in: an unopened source."""
    return AuditLogSource(settings)
